"""Tokens as colours, by their principal components."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

# Shares of tokens that are below the darkest and above the brightest value.
_TAILS = (0.02, 0.98)


def principal_colours(maps: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Paint tokens by the three principal components of all tokens together.

    Tokens are brought to unit length, as they are compared by their cosines. The first
    component is red, the second green, the third blue; each spans from 0 to 1 what the
    inner 96 % of the tokens have. Components have no sign of their own: here their
    largest coefficient is positive. Like colours mean like tokens within one call only.

    Args:
        maps: Of each image ``(C, h, w)``, of any sizes, one number of channels, three
            at least.

    Returns:
        Colours, ``(h, w, 3)`` float32 in [0, 1] for each image; and the share of the
        tokens' variance that each component has, ``(3,)``.

    Raises:
        ValueError: No map, less than three channels, or values that are not finite.
    """
    if not maps or maps[0].shape[0] < 3:
        raise ValueError('Three principal components need maps of 3 channels or more.')
    tokens = torch.cat([m.detach().flatten(1).T for m in maps]).double()
    tokens = F.normalize(tokens, dim=1)
    if not tokens.isfinite().all():
        raise ValueError('Tokens that are not finite have no principal components.')
    tokens -= tokens.mean(0)
    variances, axes = torch.linalg.eigh(tokens.T @ tokens)
    shares = variances.flip(0)[:3].clamp_min(0) / variances.sum().clamp_min(1e-12)
    axes = axes.flip(1)[:, :3]
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    values = tokens @ (axes * largest.sign())
    ordered, count = values.sort(dim=0).values, len(values) - 1
    low, high = (ordered[round(share * count)] for share in _TAILS)
    # What does not vary is grey.
    span = high - low
    colours = torch.where(span > 1e-9, (values - low) / span.clamp_min(1e-9), 0.5)
    parts = colours.clamp(0, 1).float().split([m[0].numel() for m in maps])
    images = [part.view(*m.shape[1:], 3) for part, m in zip(parts, maps, strict=True)]
    return images, shares.float()
