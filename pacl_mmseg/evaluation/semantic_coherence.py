"""Whether tokens of one class are alike wherever they are: semantic coherence.

PACL (CVPR 2023, section 3) finds that the patch tokens of an encoder whose patches of
one class are alike, also in different images, can be aligned with texts. Its measure,
as accounts of the paper have it: of pairs of patches from *different* images, how well
the cosine of their tokens tells the pairs of one class from the others, as the area
under the ROC curve. What those accounts leave open is settled here:

* the class of a patch is that of most of its pixels
  (:func:`pacl_mmseg.ops.patch_labels`); patches where most are ignored take no part;
* of each image so many of the others are drawn, without replacement;
* pairs are drawn uniformly, with replacement, from all pairs of drawn patches; those
  within an image are dropped. Frequent classes count as often as they come;
* the interval is that of a bootstrap over images: patches of an image stand or fall
  together, so pairs are no independent draws. A pair counts as often as the first
  image times as often as the second one was drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pacl_mmseg.ops import auroc, roc_curve

# Numbers that are held at once while pairs are compared, or images drawn again.
_BLOCK = 2**21


@dataclass(frozen=True)
class PatchSample:
    """Some patches of some images.

    Attributes:
        tokens: For each layer ``(P, C)``, of unit length.
        classes: ``(P,)``.
        images: ``(P,)``, the number of the image that each is of.
    """

    tokens: Sequence[Tensor]
    classes: Tensor
    images: Tensor


@dataclass(frozen=True)
class Coherence:
    """Semantic coherence of one layer.

    Attributes:
        auroc: Probability that a pair of one class is more alike than a pair of two,
            ties counted half.
        low, high: Its interval.
        false_positive_rate, true_positive_rate: ROC curve, ``(points,)``.
        same, different: Pairs of one class and of two.
    """

    auroc: float
    low: float
    high: float
    false_positive_rate: Tensor
    true_positive_rate: Tensor
    same: int
    different: int


def choose_patches(
    classes: Tensor, number: int, generator: torch.Generator, ignore_index: int = 255
) -> Tensor:
    """Indices of some patches ``(P,)`` of an image that have a class, ascending."""
    labelled = (classes != ignore_index).nonzero()[:, 0]
    chosen = torch.randperm(len(labelled), generator=generator)[:number]
    return labelled[chosen.sort().values.to(labelled.device)]


def semantic_coherence(
    sample: PatchSample,
    pairs: int,
    bootstrap: int,
    generator: torch.Generator,
    confidence: float = 0.95,
) -> list[Coherence]:
    """Measure the semantic coherence of each layer, all on the same pairs.

    Beside the sample it holds some numbers for each pair, and about 100 MB.

    Args:
        sample: The patches.
        pairs: How many are drawn.
        bootstrap: How often images are drawn again; 0 gives no interval (NaN).
        generator: Of all draws, on the CPU.
        confidence: Of the interval, which leaves out equal shares at both ends.

    Raises:
        ValueError: There are no pairs of one class, or none of two.
    """
    count = len(sample.classes)
    shape = 2, pairs if count else 0
    drawn = torch.randint(max(count, 1), shape, generator=generator)
    drawn = drawn.to(sample.images.device)
    first, second = drawn[:, sample.images[drawn[0]] != sample.images[drawn[1]]]
    alike = sample.classes[first] == sample.classes[second]
    same = int(alike.sum())
    for number, kind in ((same, 'the same class'), (len(alike) - same, 'two classes')):
        if not number:
            raise ValueError(
                f'None of {len(alike):,} pairs of patches from different images has '
                f'{kind}: take more images, or more pairs.'
            )
    names, numbers = sample.images.unique(return_inverse=True)
    first_image, second_image = numbers[first], numbers[second]
    draws = torch.randint(len(names), (bootstrap, len(names)), generator=generator)
    times = torch.zeros_like(draws).scatter_add_(1, draws, torch.ones_like(draws))
    blocks = times.to(first.device).split(max(_BLOCK // len(first), 1))
    results = []
    for tokens in sample.tokens:
        scores = _cosines(tokens, first, second)
        areas = [
            auroc(scores, alike, block[:, first_image] * block[:, second_image])
            for block in blocks
        ]
        tail = (1 - confidence) / 2
        ends = [float('nan')] * 2
        if bootstrap:
            quantiles = torch.tensor([tail, 1 - tail], dtype=torch.float64)
            ends = torch.cat(areas).cpu().nanquantile(quantiles).tolist()
        false, true = roc_curve(scores, alike)
        area = float(torch.trapezoid(true, false))
        results.append(
            Coherence(area, *ends, false.cpu(), true.cpu(), same, len(alike) - same)
        )
    return results


def _cosines(tokens: Tensor, first: Tensor, second: Tensor) -> Tensor:
    block = max(_BLOCK // tokens.shape[1], 1)
    pairs = zip(first.split(block), second.split(block), strict=True)
    return torch.cat([(tokens[a] * tokens[b]).sum(1) for a, b in pairs])


def unit(tokens: Tensor) -> Tensor:
    """Tokens ``(..., C)`` in float32 and of unit length."""
    return F.normalize(tokens.float(), dim=-1)
