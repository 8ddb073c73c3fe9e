"""Accuracy that counts every class alike."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.evaluator import BaseMetric
from torch import Tensor

from pacl_mmseg.registry import METRICS


@METRICS.register_module()
class MeanClassAccuracy(BaseMetric):
    """Share of each class's images that get its label, averaged over classes; percent.

    CLIP's paper calls it "mean per class". Classes without images, as in a subset, do
    not count, unlike in the recall of MMPretrain's ``SingleLabelMetric``, where they
    count 0; where all classes occur both are equal.
    """

    default_prefix = 'accuracy'

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            labels = sample['gt_label'], sample['pred_label']
            self.results.append(tuple(int(label) for label in labels))

    def compute_metrics(self, results: list[tuple[int, int]]) -> dict[str, float]:
        labels, predicted = torch.tensor(results).T
        images = labels.bincount()
        right = labels[labels == predicted].bincount(minlength=len(images))
        share: Tensor = right[images > 0].double() / images[images > 0]
        return dict(mean_per_class=100 * share.mean().item())
