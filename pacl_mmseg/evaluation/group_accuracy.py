"""Accuracy of classes on backgrounds: does the one go by the other?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from mmengine.evaluator import BaseMetric

from pacl_mmseg.registry import METRICS


@METRICS.register_module()
class GroupAccuracy(BaseMetric):
    """Accuracy of each class on each background, in percent; for WaterBirds.

    Reported are ``accuracy`` of all images; ``group/<class> on <place>``;
    ``worst_group``, the lowest of these; and ``gap``, the first minus that: how much
    worse than on average the model is where classes and backgrounds do not go together.
    Groups without images do not count.

    Names are those of the data set's ``classes`` and ``places``; samples have
    ``gt_label``, ``pred_label`` and ``place``.

    Raises:
        ValueError: A sample has no ``place``.
    """

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            if 'place' not in sample:
                raise ValueError(
                    "GroupAccuracy needs the place of each image: add 'place' to the "
                    'meta_keys of mmpretrain.PackInputs, for a data set that has it.'
                )
            label = int(sample['gt_label'])
            hit = int(sample['pred_label']) == label
            self.results.append((label, int(sample['place']), hit))

    def compute_metrics(self, results: list[tuple[int, int, bool]]) -> dict[str, float]:
        classes, places = self.dataset_meta['classes'], self.dataset_meta['places']
        hits = torch.zeros(2, len(classes), len(places), dtype=torch.float64)
        for label, place, hit in results:
            hits[0, label, place] += hit
            hits[1, label, place] += 1
        groups = 100 * hits[0] / hits[1]
        total = 100 * float(hits[0].sum() / hits[1].sum())
        worst = min((v for v in groups.flatten().tolist() if v == v), default=math.nan)
        metrics = dict(accuracy=total, worst_group=worst, gap=total - worst)
        for label, name in enumerate(classes):
            for place, where in enumerate(places):
                metrics[f'group/{name} on {where}'] = float(groups[label, place])
        return {name: round(value, 2) for name, value in metrics.items()}
