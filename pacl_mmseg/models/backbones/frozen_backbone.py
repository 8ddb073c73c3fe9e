"""Any registered backbone, frozen."""

from __future__ import annotations

import os

import torch
from torch import Tensor
from torch.profiler import record_function

from pacl_mmseg.models.frozen import FrozenModule
from pacl_mmseg.models.open_clip_weights import read_weights
from pacl_mmseg.registry import MODELS

_PREFIX = 'backbone.'  # of a whole model's weights


@MODELS.register_module()
class FrozenBackbone(FrozenModule):
    """Freezes another backbone, so that only the embedder on top of it trains.

    PACL is defined for any vision encoder with patch tokens; this wraps those that
    MMPretrain and MMSeg have (MAE, MoCo, ...), for example::

        backbone=dict(
            type='FrozenBackbone',
            pretrained='mae.pth',
            backbone=dict(
                type='mmpretrain.VisionTransformer', arch='base', img_size=224,
                patch_size=16, out_type='featmap'))

    Args:
        backbone: Config of the backbone; it must return feature maps.
        pretrained: File of its weights, or of a whole model's whose ``backbone`` it is;
            every weight has to be there, and nothing in the file is executed. None:
            those of the backbone's ``init_cfg``, of whose file nothing has to fit.
            Without either they are random, other ones in every process, and what is
            trained on top of them cannot be tested in another.

    Raises:
        ValueError: Both name weights.
        RuntimeError: The file does not hold the backbone's weights.
    """

    def __init__(self, backbone: dict, pretrained: str | None = None) -> None:
        super().__init__(frozen=True)
        self.backbone = MODELS.build(backbone)
        given = backbone.get('init_cfg') or {}
        given = given if isinstance(given, list) else [given]
        given = next((i['checkpoint'] for i in given if 'checkpoint' in i), None)
        if given and pretrained:
            raise ValueError(
                f'pretrained={pretrained!r} and init_cfg of the backbone, {given!r}, '
                'both name weights: leave one out.'
            )
        # Now, not when training starts: testing needs the same weights.
        if pretrained:
            self._load(pretrained)
        else:
            self.backbone.init_weights()
        name = type(self.backbone).__name__
        weights = pretrained or given or 'random weights'
        weights = os.path.normpath(weights) if os.path.isfile(weights) else weights
        self.description = f'a frozen {name} ({weights})'
        self.freeze()

    def init_weights(self) -> None:
        """Nothing: the weights are there since construction."""

    @record_function('vision')
    @torch.no_grad()
    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Images ``(N, 3, H, W)`` to the backbone's own tuple of feature maps."""
        return self.backbone(inputs)

    def _load(self, path: str) -> None:
        try:
            weights = read_weights(os.path.expanduser(path))
            if any(key.startswith(_PREFIX) for key in weights):
                weights = {
                    key.removeprefix(_PREFIX): value
                    for key, value in weights.items()
                    if key.startswith(_PREFIX)
                }
            self.backbone.load_state_dict(weights)
        except Exception as error:  # damaged files raise nearly anything
            # PyTorch names what is wrong in the second line.
            reason = ' '.join(map(str.strip, str(error).splitlines()[:2]))[:300]
            raise RuntimeError(
                f'{path} does not hold the weights of this '
                f'{type(self.backbone).__name__}: '
                f'{reason.rstrip(".") or type(error).__name__}. Give the weights file '
                'that belongs to the backbone.'
            ) from error
