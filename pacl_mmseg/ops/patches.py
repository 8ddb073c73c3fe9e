"""Classes of patches from labels of pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def patch_labels(
    labels: Tensor,
    grid: tuple[int, int],
    patch: tuple[float, float],
    stride: tuple[float, float],
    size: tuple[int, int],
    padding: Sequence[int] = (0, 0, 0, 0),
    ignore_index: int = 255,
) -> Tensor:
    """The label that most pixels of each token's patch have.

    A pixel of the original image belongs to the patches that its centre is in once the
    image is resized to the network's input: to one where patches tile, to several where
    they overlap, to none beyond the last one.

    Args:
        labels: ``(H, W)`` of the original image's pixels.
        grid: Tokens along both axes, ``(h, w)``.
        patch: Height and width of a patch in pixels of the network's input.
        stride: Pixels from one patch to the next. Patches that together exceed the
            input are of an input that was stretched to their size.
        size: Height and width of the network's input.
        padding: Pixels at its left, right, top and bottom that are not of the image.
        ignore_index: Label of patches that no pixel is in.

    Returns:
        ``(h, w)``, in the dtype of ``labels``; of equally frequent labels the lowest.
    """
    left, right, top, bottom = padding
    rows, columns = (
        _cover(*axis, device=labels.device)
        for axis in zip(
            grid,
            patch,
            stride,
            size,
            labels.shape,
            ((top, bottom), (left, right)),
            strict=True,
        )
    )
    values = labels.unique()  # ascending
    counts = torch.stack([rows @ (labels == v).float() @ columns.T for v in values])
    majority = values[counts.argmax(0)]  # the first of equals
    return majority.masked_fill(counts.amax(0) == 0, ignore_index)


def _cover(
    tokens: int,
    patch: float,
    stride: float,
    length: int,
    pixels: int,
    padding: tuple[int, int],
    device: torch.device,
) -> Tensor:
    """Which pixels along an axis each token's patch has, 0 or 1, ``(tokens, pixels)``.

    Args:
        length: Of the network's input.
        pixels: Of the original image.
    """
    centres = torch.arange(pixels, device=device, dtype=torch.float64) + 0.5
    centres = centres * (length - sum(padding)) / pixels + padding[0]
    # As on the input that the patches just fit, if that is larger.
    centres *= max(1.0, ((tokens - 1) * stride + patch) / length)
    starts = torch.arange(tokens, device=device, dtype=torch.float64)[:, None] * stride
    return ((starts <= centres) & (centres < starts + patch)).float()
