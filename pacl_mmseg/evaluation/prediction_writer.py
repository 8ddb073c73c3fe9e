"""Predictions as image files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from PIL import Image

from pacl_mmseg.registry import METRICS


@METRICS.register_module()
class PredictionWriter(BaseMetric):
    """Writes every prediction as ``<output_dir>/<image name>.png``; measures nothing.

    As ``IoUMetric``'s ``output_dir`` does, labels are those of the dataset's files: one
    higher where it has ``reduce_zero_label``. Unlike it, label sets of more than 255
    classes are written too, as 16-bit images.

    Args:
        output_dir: Made if it does not exist.
    """

    def __init__(self, output_dir: str, **kwargs) -> None:
        super().__init__(**kwargs)
        self.output_dir = Path(output_dir)
        self.output_dir.mkdir(parents=True, exist_ok=True)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        dtype = np.uint8 if len(self.dataset_meta['classes']) < 256 else np.uint16
        for sample in data_samples:
            labels = sample['pred_sem_seg']['data'][0].cpu().numpy()
            shift = bool(sample.get('reduce_zero_label'))
            path = self.output_dir / f'{Path(sample["img_path"]).stem}.png'
            Image.fromarray((labels + shift).astype(dtype)).save(path)
            self.results.append(path.name)

    def compute_metrics(self, results: list[str]) -> dict[str, float]:
        print_log(f'{len(results)} predictions are in {self.output_dir}', 'current')
        return {}
