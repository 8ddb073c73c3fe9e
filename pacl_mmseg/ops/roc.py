"""How well scores tell positive pairs from negative ones."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def roc_curve(
    scores: Tensor, positive: Tensor, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The ROC curve, a point for each distinct score.

    Args:
        scores: ``(P,)``.
        positive: ``(P,)`` bool.
        weights: How often each counts, ``(..., P)``; once by default.

    Returns:
        False and true positive rates at falling thresholds, ``(..., points)``, float64,
        both from 0 to 1. Equal scores are one step, so that the area by the trapezoidal
        rule is the probability that a positive scores higher than a negative, ties
        counted half: Mann and Whitney's U over the number of pairs.
    """
    order = scores.argsort(descending=True)
    ordered, positive = scores[order], positive[order]
    last_of_equals = F.pad(ordered[1:] != ordered[:-1], (0, 1), value=True)
    ones = torch.ones_like(ordered) if weights is None else weights[..., order]
    rates = []
    for kind in (~positive, positive):
        counts = (ones * kind).cumsum(-1, dtype=torch.float64)[..., last_of_equals]
        rates.append(F.pad(counts / counts[..., -1:], (1, 0)))
    return rates[0], rates[1]


def auroc(scores: Tensor, positive: Tensor, weights: Tensor | None = None) -> Tensor:
    """Area under the ROC curve; arguments as for :func:`roc_curve`.

    Returns:
        ``(...)`` in [0, 1], float64; NaN without a positive or without a negative.
    """
    false, true = roc_curve(scores, positive, weights)
    return torch.trapezoid(true, false)
