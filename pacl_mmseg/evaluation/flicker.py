"""How much the labels of a video flicker."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mmengine.evaluator import BaseMetric

from pacl_mmseg.ops.temporal import flicker
from pacl_mmseg.registry import METRICS
from pacl_mmseg.utils.frames import follows


@METRICS.register_module()
class Flicker(BaseMetric):
    """Share of pixels whose label changes though the truth does not, in percent.

    Of all pairs of a frame and the next of the same clip, and of all pixels whose true
    label is the same in both and not the ignored one. The samples' metainfo has
    ``clip`` and ``frame``, and frames come in order.

    Args:
        ignore_index: The ignored label.
    """

    def __init__(self, ignore_index: int = 255, **kwargs) -> None:
        super().__init__(**kwargs)
        self.ignore_index = ignore_index
        self._before: dict | None = None

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            last = self._before and (self._before['clip'], self._before['frame'])
            comes_after = follows(last, sample, 'Flicker')
            maps = [
                sample[key]['data'][0].cpu() for key in ('pred_sem_seg', 'gt_sem_seg')
            ]
            if comes_after:
                (labels, truth), (before, truth_before) = maps, self._before['maps']
                self.results.append(
                    flicker(labels, before, truth, truth_before, self.ignore_index)
                )
            self._before = dict(clip=sample['clip'], frame=sample['frame'], maps=maps)

    def compute_metrics(self, results: list[tuple[int, int]]) -> dict[str, float]:
        self._before = None
        if not results:  # no frame came after another
            return dict(flicker=math.nan)
        changed, counted = (sum(column) for column in zip(*results, strict=True))
        return dict(flicker=round(100 * changed / counted, 2) if counted else math.nan)
