"""The vision embedder e_v."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from mmcv.cnn import build_activation_layer
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.profiler import record_function

from pacl_mmseg.registry import MODELS


@MODELS.register_module()
class PatchEmbedder(BaseModule):
    """PACL's trained vision embedder: a residual block on every patch token.

    ``e_v(x) = Linear(act(Linear(x))) + Linear(x)``, 768 -> 512 -> 512 beside
    768 -> 512: 1,050,112 parameters for ViT-B/16 (the paper reports about 1.1 M).

    Args:
        in_channels: Channels of the backbone's tokens.
        out_channels: Channels of the text embeddings.
        act_cfg: Activation of the main branch: ReLU in PACL, GELU in
            NMS05/Patch-Aligned-Contrastive-Learning.
        pre_norm: LayerNorm before both branches (NMS05).
        dropout: Dropout probability after that norm (NMS05: 0.1).
        depth: Linear layers of the main branch, with activations between them: 2 in
            PACL; 0 leaves the other branch alone, a linear map. With ``pre_norm`` and
            ``dropout`` that is NMS05's text head (``text_projector`` of
            :class:`ZeroShotTextHead`).

    Raises:
        ValueError: A negative depth.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        act_cfg: dict = dict(type='ReLU'),  # noqa: B006  (MMSeg's idiom, not mutated)
        pre_norm: bool = False,
        dropout: float = 0.0,
        depth: int = 2,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if depth < 0:
            raise ValueError(f'depth must not be negative, got {depth}.')
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.norm = nn.LayerNorm(in_channels) if pre_norm else nn.Identity()
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.main = None
        if depth > 0:
            widths = [in_channels, *[out_channels] * depth]
            layers: list[nn.Module] = []
            for width, next_width in pairwise(widths):
                layers += [
                    nn.Linear(width, next_width),
                    build_activation_layer(act_cfg),
                ]
            self.main = nn.Sequential(*layers[:-1])
        self.skip = nn.Linear(in_channels, out_channels)

    def embed(self, tokens: Tensor) -> Tensor:
        """``(..., in_channels)`` to ``(..., out_channels)``."""
        if not torch.is_autocast_enabled(tokens.device.type):
            tokens = tokens.to(self.skip.weight.dtype)  # of a low-precision encoder
        tokens = self.dropout(self.norm(tokens))
        linear = self.skip(tokens)
        return linear if self.main is None else self.main(tokens) + linear

    @record_function('embedder')
    def forward(
        self, inputs: Sequence[Tensor | list[Tensor]]
    ) -> tuple[Tensor | list[Tensor], ...]:
        """Embed feature maps.

        Args:
            inputs: Feature maps ``(N, in_channels, H, W)``, or
                ``[map, cls (N, in_channels)]``.

        Returns:
            The same with ``out_channels`` channels.
        """
        return tuple(
            [self._embed_map(x[0]), self.embed(x[1])]
            if isinstance(x, (list, tuple))
            else self._embed_map(x)
            for x in inputs
        )

    def _embed_map(self, x: Tensor) -> Tensor:
        if x.shape[1] != self.in_channels:
            raise ValueError(
                f'The backbone gives {x.shape[1]} channels, PatchEmbedder expects '
                f'{self.in_channels}: set model.neck.in_channels={x.shape[1]}.'
            )
        return self.embed(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
