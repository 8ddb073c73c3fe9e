"""Pictures of validation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mmcv
from mmengine.runner import Runner
from mmseg.engine import SegVisualizationHook
from mmseg.structures import SegDataSample

from pacl_mmseg.registry import HOOKS


@HOOKS.register_module()
class PretrainVisualizationHook(SegVisualizationHook):
    """``SegVisualizationHook`` with pictures of the same images in each validation.

    Drawn is the first image of every ``interval``-th batch, beginning with the first
    one, at the step that training has reached. MMSeg's own chooses by training
    iterations and batches together and adds them up to a step (onedl's), or draws all
    images of other batches (upstream's).

    Args:
        draw, interval, show, wait_time, backend_args: See ``SegVisualizationHook``.
    """

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence[SegDataSample] | None = None,
    ) -> None:
        if not self.draw or batch_idx % self.interval:
            return
        sample = outputs[0]
        self._visualizer.add_datasample(
            f'val_{Path(sample.img_path).name}',
            mmcv.imread(
                sample.img_path, channel_order='rgb', backend_args=self.backend_args
            ),
            data_sample=sample,
            show=self.show,
            wait_time=self.wait_time,
            step=runner.iter,
        )
