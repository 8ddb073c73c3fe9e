"""Joining the score maps of overlapping windows, as two thin matrices.

Bilinear upsampling of a window's token scores, averaging over the windows that overlap,
removing padding, and resizing to the original image are all linear and act on rows and
columns separately. So everything from token scores ``S`` to the scores of the original
pixels is ``rows @ S @ columns.T``, where each matrix is a few dozen tokens wide, and
any block of pixels can be had on its own, without ever holding classes x pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows along an axis, as MMSeg's ``slide_inference`` has.

    Windows are ``stride`` apart, the last one is moved back to end with the image.
    """
    count = max(length - window + stride - 1, 0) // stride + 1
    return [max(min(i * stride, length - window), 0) for i in range(count)]


def stitching_matrix(
    tokens: int,
    starts: Sequence[int],
    window: int,
    length: int,
    size: int,
    padding: tuple[int, int] = (0, 0),
    flip: bool = False,
    device: torch.device | str | None = None,
) -> Tensor:
    """What one axis contributes to every output pixel, for each token of each window.

    Args:
        tokens: Tokens along the axis of a window.
        starts: First pixel of each window.
        window: Pixels along the axis of a window.
        length: Pixels of the network's input.
        size: Pixels of the output.
        padding: Pixels at both ends of the input that are not of the image.
        flip: The input was mirrored along this axis.
        device: Where the matrix is made.

    Returns:
        ``(size, len(starts) * tokens)``; windows are averaged where they overlap.
    """

    one_each = torch.eye(tokens, device=device)[None]
    upsampled = F.interpolate(one_each, window, mode='linear')[0]
    placed = upsampled.new_zeros(len(starts), tokens, length)
    count = upsampled.new_zeros(length)
    for index, start in enumerate(starts):
        placed[index, :, start : start + window] = upsampled
        count[start : start + window] += 1
    placed = (placed / count)[..., padding[0] : length - padding[1]]
    if flip:
        placed = placed.flip(-1)
    return F.interpolate(placed, size, mode='linear').flatten(0, 1).T


def stitch(scores: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Scores of output pixels from scores of tokens.

    Args:
        scores: ``(h, w, K)``: the tokens of all windows side by side along both axes.
        rows: ``(R, h)``, rows of a :func:`stitching_matrix`.
        columns: ``(C, w)``, likewise.

    Returns:
        ``(R, C, K)``.
    """
    return torch.matmul(columns, torch.einsum('rh,hwk->rwk', rows, scores))
