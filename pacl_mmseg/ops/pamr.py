"""Pixel-adaptive refinement of score maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

# Maps refined at once: few enough to stay in the cache, and to need little memory.
CHUNK = 4


def pamr(
    image: Tensor,
    scores: Tensor,
    steps: int = 10,
    dilations: Sequence[int] = (8, 16),
) -> Tensor:
    """Average scores over neighbours of similar colour, again and again.

    PAMR of Araslanov and Roth, "Single-Stage Semantic Segmentation from Image Labels"
    (CVPR 2020), as their code (visinf/1-stage-wseg, ``models/mods/pamr.py``) has it and
    SCLIP and NACLIP use it: a neighbour's weight is the softmax, over all neighbours,
    of its absolute colour difference divided by a tenth of the local standard
    deviation, averaged over the colour channels.

    Args:
        image: ``(N, 3, H, W)``; any scale and offset per channel.
        scores: ``(N, C, H, W)`` of the same height and width.
        steps: How often scores are averaged.
        dilations: Distances in pixels at which a pixel has its 8 neighbours each; at
            the border the nearest pixel of the image stands in.

    Returns:
        Refined scores ``(N, C, H, W)``. The weights sum to 1, so probabilities stay
        probabilities.

    Raises:
        ValueError: Image and scores differ in size.
    """
    if image.shape[-2:] != scores.shape[-2:]:
        raise ValueError(
            f'pamr needs image and scores of one size, not {tuple(image.shape[-2:])} '
            f'and {tuple(scores.shape[-2:])}: resize one of them.'
        )
    # In half precision the weights of a flat image would not be numbers.
    weights = _affinity(image.float(), dilations).to(scores.dtype)
    weights = weights.unsqueeze(2).unbind(1)
    refined = torch.empty_like(scores)
    for source, target in zip(
        scores.split(CHUNK, 1), refined.split(CHUNK, 1), strict=True
    ):
        for _ in range(steps):
            neighbours = _neighbours(source, dilations)
            source = torch.zeros_like(source)
            for weight, neighbour in zip(weights, neighbours, strict=True):
                source.addcmul_(weight, neighbour)
        target.copy_(source)
    return refined


def _affinity(image: Tensor, dilations: Sequence[int]) -> Tensor:
    """Weight of each neighbour, ``(N, P, H, W)``, which sum to 1 over P."""
    centre = image.unsqueeze(2)
    neighbours = torch.stack(list(_neighbours(image, dilations)), 2)
    # As in the authors' code the centre counts once per dilation.
    window = torch.cat([neighbours, *[centre] * len(dilations)], 2)
    difference = (neighbours - centre).abs()
    deviation = window.std(2, keepdim=True)
    return (-difference / (1e-8 + 0.1 * deviation)).mean(1).softmax(1)


def _neighbours(maps: Tensor, dilations: Sequence[int]) -> Iterator[Tensor]:
    """Views of ``maps`` moved by each of 8 neighbours at each dilation."""
    reach = max(dilations)
    height, width = maps.shape[-2:]
    padded = F.pad(maps, [reach] * 4, mode='replicate')
    for dilation in dilations:
        for down, right in product((-dilation, 0, dilation), repeat=2):
            if down or right:
                rows = slice(reach + down, reach + down + height)
                columns = slice(reach + right, reach + right + width)
                yield padded[..., rows, columns]
