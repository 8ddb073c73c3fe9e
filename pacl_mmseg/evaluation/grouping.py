"""Whether patch tokens fall into the segments of an image, without any class."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from scipy.cluster.vq import kmeans2
from torch import Tensor
from torch.nn import functional as F

from pacl_mmseg.registry import METRICS

_ITERATIONS = 25  # of k-means, all of which SciPy's makes


def group_tokens(tokens: Tensor, groups: int, seed: int = 0) -> Tensor:
    """Group the tokens of one image by their directions: k-means of unit vectors.

    Args:
        tokens: ``(C, h, w)``.
        groups: How many groups; fewer if there are fewer different tokens.
        seed: Of the first centres (k-means++).

    Returns:
        ``(h, w)`` int64, the group of each token, on the CPU.

    Raises:
        ValueError: Less than one group, or tokens that are not finite.
    """
    if groups < 1:
        raise ValueError(f'groups must be 1 or more, not {groups}.')
    vectors = F.normalize(tokens.detach().double().flatten(1).T, dim=1).cpu().numpy()
    if not np.isfinite(vectors).all():
        raise ValueError('Tokens that are not finite have no groups.')
    groups = min(groups, len(np.unique(vectors, axis=0)))
    with warnings.catch_warnings(action='ignore', category=UserWarning):  # empty ones
        _, labels = kmeans2(
            vectors,
            groups,
            iter=_ITERATIONS,
            minit='++',
            seed=np.random.default_rng(seed),
        )
    return torch.from_numpy(labels.astype(np.int64)).view(tokens.shape[1:])


def best_ious(groups: Tensor, labels: Tensor, ignore_index: int | None = 255) -> Tensor:
    """For each segment of an image the IoU of the group that fits it best.

    Args:
        groups: ``(h, w)``, group of each token; enlarged to the pixels by the nearest
            one. One group may fit several segments best.
        labels: ``(H, W)``. A segment is all pixels of one label; ignored pixels count
            neither for segments nor for groups.
        ignore_index: The ignored label; None: all pixels count.

    Returns:
        ``(S,)`` float64 in (0, 1], of the labels in ascending order; empty if all
        pixels are ignored.
    """
    groups, labels = groups.cpu(), labels.cpu()
    enlarged = F.interpolate(
        groups[None, None].double(), labels.shape, mode='nearest-exact'
    )[0, 0].long()
    counted = torch.ones_like(labels, dtype=torch.bool)
    if ignore_index is not None:
        counted = labels != ignore_index
    segments, places = labels[counted].unique(return_inverse=True)
    number = int(groups.max()) + 1
    both = places * number + enlarged[counted]
    overlap = both.bincount(minlength=len(segments) * number).view(-1, number).double()
    union = overlap.sum(1, keepdim=True) + overlap.sum(0) - overlap
    return (overlap / union.clamp_min(1)).amax(1)


@METRICS.register_module()
class GroupingJaccard(BaseMetric):
    """Jaccard index of class-free grouping, in percent.

    CLIPpy (arXiv 2210.09996) reports one for VOC, 47.5, without public code. The
    definition here is ours: the tokens of an image, those that are compared with texts,
    are put into ``groups`` groups (:func:`group_tokens`); each ground-truth segment of
    the image, all pixels of one label, takes the best IoU of any group, whatever their
    class (:func:`best_ious`); and these are averaged over all segments of all images.
    Background is a segment where the data set labels it. No text takes part.

    The model has to keep its tokens: ``model.test_cfg.keep_tokens``.

    Args:
        groups: Number of groups of every image.
        seed: Of k-means; an image's groups do not depend on other images.
        ignore_index: The ignored label; None: all pixels count.

    Raises:
        ValueError: Less than one group. When testing: the model kept no tokens.
    """

    def __init__(
        self,
        groups: int = 5,
        seed: int = 0,
        ignore_index: int | None = 255,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        if groups < 1:
            raise ValueError(f'groups must be 1 or more, not {groups}.')
        self.groups = groups
        self.seed = seed
        self.ignore_index = ignore_index

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            if 'tokens' not in sample:
                raise ValueError(
                    'GroupingJaccard needs the tokens of each image: set '
                    'model.test_cfg.keep_tokens=True, of a ZeroShotSegmentor.'
                )
            groups = group_tokens(sample['tokens']['data'], self.groups, self.seed)
            labels = sample['gt_sem_seg']['data'][0]
            self.results.append(best_ious(groups, labels, self.ignore_index))

    def compute_metrics(self, results: list[Tensor]) -> dict[str, float]:
        ious = torch.cat(results)
        mean = 100 * float(ious.mean()) if len(ious) else math.nan
        return dict(grouping_jaccard=round(mean, 2))
