from pacl_mmseg.engine.hooks import (
    LossWatchHook,
    PretrainCheckpointHook,
    PretrainHook,
    PretrainLoggerHook,
    PretrainVisualizationHook,
)
from pacl_mmseg.engine.loops import PretrainLoop
from pacl_mmseg.engine.phases import PhaseTimer
from pacl_mmseg.engine.runner import ContrastivePretrainRunner, shut_down

__all__ = [
    'ContrastivePretrainRunner',
    'LossWatchHook',
    'PhaseTimer',
    'PretrainCheckpointHook',
    'PretrainHook',
    'PretrainLoggerHook',
    'PretrainLoop',
    'PretrainVisualizationHook',
    'shut_down',
]
