"""Patch classification accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from mmengine.evaluator import BaseMetric

from pacl_mmseg.registry import METRICS

# Predictions of a data sample, and what the accuracy of each is called.
_NAMES = dict(
    pred_sem_seg='patch_accuracy',
    pred_present_classes='present_classes/patch_accuracy',
)


@METRICS.register_module()
class PatchAccuracy(BaseMetric):
    """Share of patches whose class is predicted correctly, in percent.

    PACL (CVPR 2023) measures the alignment of patch tokens and texts this way. Its
    account leaves open what the class of a patch with several labels is; here it is
    the majority of the patch's pixels (of equals the lowest label), and patches where
    the ignored label has the majority do not count. The prediction is that at the
    patch's centre, pixel ``(patch_size // 2, patch_size // 2)`` of it: for an even side
    the pixel right of and below the middle. Rows and columns at the right and lower
    edge that make no whole patch do not count.

    Whether the paper lets all classes compete or those of the image alone is open too:
    ``patch_accuracy`` is the former, and where the model predicts among the present
    classes (``model.test_cfg.present_classes``), ``present_classes/patch_accuracy`` is
    the latter.

    Args:
        patch_size: Side of a patch in pixels of the original image.
        ignore_index: The ignored label.
    """

    def __init__(self, patch_size: int = 16, ignore_index: int = 255, **kwargs) -> None:
        super().__init__(**kwargs)
        self.patch_size = patch_size
        self.ignore_index = ignore_index

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        centre = self.patch_size // 2 * (self.patch_size + 1)
        for sample in data_samples:
            # On the CPU, where of equals the lowest is sure to be the mode.
            patches = self._patches(sample['gt_sem_seg']['data'][0].cpu())
            labels = patches.mode().values
            counted = labels != self.ignore_index
            result = dict(counted=int(counted.sum()))
            for key in _NAMES.keys() & sample.keys():
                predicted = self._patches(sample[key]['data'][0])[:, centre]
                correct = predicted.cpu() == labels
                result[key] = int((correct & counted).sum())
            self.results.append(result)

    def _patches(self, labels: torch.Tensor) -> torch.Tensor:
        """Labels ``(H, W)`` of whole patches, ``(patches, patch_size ** 2)``."""
        side = self.patch_size
        rows, columns = (length // side for length in labels.shape)
        whole = labels[: rows * side, : columns * side]
        patches = whole.unflatten(0, (rows, side)).unflatten(2, (columns, side))
        return patches.transpose(1, 2).reshape(rows * columns, side**2)

    def compute_metrics(self, results: list[dict[str, int]]) -> dict[str, float]:
        counted = sum(result['counted'] for result in results)
        if not counted:
            return dict.fromkeys(_NAMES.values(), math.nan)
        return {
            name: round(100 * sum(r[key] for r in results) / counted, 2)
            for key, name in _NAMES.items()
            if all(key in result for result in results)
        }
