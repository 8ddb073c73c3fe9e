"""Images that patches tile exactly."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

FITS = ('resize', 'crop')


def fit_to_patches(
    images: Tensor, patch_size: tuple[int, int], stride: tuple[int, int], fit: str
) -> tuple[Tensor, tuple[int, int]]:
    """Resize or crop images to the next size that patches tile.

    Args:
        images: ``(N, C, H, W)``.
        patch_size: Height and width of a patch, in pixels.
        stride: Distances of neighbouring patches, in pixels.
        fit: ``'resize'``, up to the next such size; ``'crop'``, what is left over at
            the right and at the bottom goes. One smaller than a patch is resized.

    Returns:
        The images, and the grid ``(h, w)`` of patches.
    """
    size = tuple(images.shape[-2:])
    rounded = math.ceil if fit == 'resize' else math.floor
    axes = list(zip(size, patch_size, stride, strict=True))
    grid = tuple(max(rounded((n - patch) / step), 0) + 1 for n, patch, step in axes)
    covered = tuple(
        (count - 1) * step + patch
        for count, (_, patch, step) in zip(grid, axes, strict=True)
    )
    if any(c > n for c, n in zip(covered, size, strict=True)):
        images = F.interpolate(images, covered, mode='bilinear', align_corners=False)
    return images[..., : covered[0], : covered[1]], grid
