"""Patch classification accuracy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.evaluator import BaseMetric
from torch.nn import functional as F

from pacl_mmseg.registry import METRICS


@METRICS.register_module()
class PatchAccuracy(BaseMetric):
    """Share of patches whose class is predicted correctly, in percent.

    PACL (CVPR 2023) measures the alignment of patch tokens and texts this way. Its
    account leaves open what the class of a patch with several labels is; here it is
    the majority of the patch's pixels, and patches where the ignored label has the
    majority do not count. The prediction is that at the patch's centre.

    Args:
        patch_size: Side of a patch in pixels of the original image.
        ignore_index: The ignored label.
    """

    default_prefix = None

    def __init__(self, patch_size: int = 16, ignore_index: int = 255, **kwargs) -> None:
        super().__init__(**kwargs)
        self.patch_size = patch_size
        self.ignore_index = ignore_index

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            logits = sample['seg_logits']['data'].float()
            labels = sample['gt_sem_seg']['data'].to(logits.device).long()[0]
            self.results.append(self._count(logits, labels))

    def _count(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[int, int]:
        """Correct and counted patches for ``(C, H, W)`` logits, ``(H, W)`` labels."""
        side = self.patch_size
        rows, columns = (length // side for length in labels.shape)
        height, width = rows * side, columns * side
        if height == 0 or width == 0:  # smaller than a patch
            return 0, 0
        # Halfway between the patch's middle pixels.
        centres = F.interpolate(
            logits[None, :, :height, :width], (rows, columns), mode='bilinear'
        )[0].argmax(0)
        patches = labels[:height, :width].unfold(0, side, side).unfold(1, side, side)
        majority = patches.flatten(2).mode(-1).values
        counted = majority != self.ignore_index
        correct = (centres == majority) & counted
        return int(correct.sum()), int(counted.sum())

    def compute_metrics(self, results: list[tuple[int, int]]) -> dict[str, float]:
        correct, counted = (sum(values) for values in zip(*results, strict=True))
        return dict(patch_accuracy=round(100 * correct / max(counted, 1), 2))
