from pacl_mmseg.engine.hooks import PretrainHook
from pacl_mmseg.engine.loops import PretrainLoop
from pacl_mmseg.engine.runner import ContrastivePretrainRunner

__all__ = ['ContrastivePretrainRunner', 'PretrainHook', 'PretrainLoop']
