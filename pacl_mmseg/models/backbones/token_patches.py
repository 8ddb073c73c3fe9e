"""Which pixels of its input a backbone makes a token of."""

from __future__ import annotations

from typing import Any

from torch import nn

from pacl_mmseg.models.backbones.pacl_backbone import PACLBackbone
from pacl_mmseg.models.backbones.timm_tower import TimmTower


def token_patches(
    backbone: nn.Module, grid: tuple[int, int], size: tuple[int, int]
) -> dict[str, Any]:
    """Arguments of :func:`pacl_mmseg.ops.patch_labels` for the tokens of an image.

    Args:
        backbone: A :class:`PACLBackbone`, a :class:`TimmTower` with patches, or another
            one, whose tokens are taken to be of equal cells of the input.
        grid: Tokens along both axes, ``(h, w)``.
        size: Height and width of its input.
    """
    if isinstance(backbone, (PACLBackbone, TimmTower)) and max(backbone.patch_size) > 1:
        patch = backbone.patch_size
        stride = getattr(backbone, 'stride', patch)
    else:
        patch = stride = tuple(n / cells for n, cells in zip(size, grid, strict=True))
    return dict(grid=grid, patch=patch, stride=stride, size=size)
