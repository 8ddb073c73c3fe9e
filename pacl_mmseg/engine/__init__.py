from pacl_mmseg.engine.hooks import LossWatchHook, PretrainCheckpointHook, PretrainHook
from pacl_mmseg.engine.interrupt import Interrupted
from pacl_mmseg.engine.loops import PretrainLoop
from pacl_mmseg.engine.runner import ContrastivePretrainRunner, shut_down

__all__ = [
    'ContrastivePretrainRunner',
    'Interrupted',
    'LossWatchHook',
    'PretrainCheckpointHook',
    'PretrainHook',
    'PretrainLoop',
    'shut_down',
]
