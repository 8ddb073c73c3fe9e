"""Any registered backbone, frozen."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.profiler import record_function

from pacl_mmseg.models.frozen import FrozenModule
from pacl_mmseg.registry import MODELS


@MODELS.register_module()
class FrozenBackbone(FrozenModule):
    """Freezes another backbone, so that only the embedder on top of it trains.

    PACL is defined for any vision encoder with patch tokens; this wraps those that
    MMPretrain and MMSeg have (DINO, MAE, ...), for example::

        backbone=dict(
            type='FrozenBackbone',
            backbone=dict(
                type='mmpretrain.VisionTransformer', arch='base', img_size=224,
                patch_size=16, out_type='featmap',
                init_cfg=dict(type='Pretrained', checkpoint='dino.pth')))

    Args:
        backbone: Config of the backbone; it must return feature maps. Without
            ``init_cfg`` its weights are random, other ones in every process, and what
            is trained on top of them cannot be tested in another.
    """

    def __init__(self, backbone: dict) -> None:
        super().__init__(frozen=True)
        self.backbone = MODELS.build(backbone)
        # Now, not when training starts: testing needs the same weights.
        self.backbone.init_weights()
        weights = (backbone.get('init_cfg') or {}).get('checkpoint', 'random weights')
        self.description = f'a frozen {type(self.backbone).__name__} ({weights})'
        self.freeze()

    def init_weights(self) -> None:
        """Nothing: the weights are there since construction."""

    @record_function('vision')
    @torch.no_grad()
    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Images ``(N, 3, H, W)`` to the backbone's own tuple of feature maps."""
        return self.backbone(inputs)
