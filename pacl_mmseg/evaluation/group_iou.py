"""mIoU of groups of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from mmseg.evaluation import IoUMetric

from pacl_mmseg.registry import METRICS
from pacl_mmseg.utils import check_name


@METRICS.register_module()
class GroupIoUMetric(IoUMetric):
    """``IoUMetric`` that also averages over named groups of classes.

    Every class competes for every pixel; only the averages are separate.

    Args:
        groups: Group name to class names; reported as ``mIoU/<group>`` in percent.
        **kwargs: As for ``IoUMetric``.

    Raises:
        ValueError: A group names a class that the dataset does not have.
    """

    def __init__(self, groups: Mapping[str, Sequence[str]], **kwargs) -> None:
        super().__init__(**kwargs)
        self.groups = groups

    @IoUMetric.dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict) -> None:
        # MMEngine sets it when it builds the loop: an error here costs no evaluation.
        for group, names in self.groups.items():
            for name in names:
                known = dataset_meta['classes']
                check_name(f'class for group {group!r} of GroupIoUMetric:', name, known)
        self._dataset_meta = dataset_meta

    def compute_metrics(self, results: list) -> dict[str, float]:
        metrics = super().compute_metrics(results)
        if self.format_only:
            return metrics
        intersection, union, *_ = (sum(areas) for areas in zip(*results, strict=True))
        iou = np.asarray(intersection) / np.asarray(union)
        classes = list(self.dataset_meta['classes'])
        for group, names in self.groups.items():
            values = iou[[classes.index(name) for name in names]]
            metrics[f'mIoU/{group}'] = round(float(np.nanmean(values)) * 100, 2)
        return metrics
