from pacl_mmseg.engine.hooks.checkpoint import PretrainCheckpointHook
from pacl_mmseg.engine.hooks.loss_watch import LossWatchHook
from pacl_mmseg.engine.hooks.pretrain import PretrainHook
from pacl_mmseg.engine.hooks.visualization import PretrainVisualizationHook

__all__ = [
    'LossWatchHook',
    'PretrainCheckpointHook',
    'PretrainHook',
    'PretrainVisualizationHook',
]
