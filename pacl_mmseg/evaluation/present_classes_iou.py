"""mIoU where only the classes of each image compete."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.logging import print_log
from mmseg.evaluation import IoUMetric

from pacl_mmseg.registry import METRICS


@METRICS.register_module()
class PresentClassesIoUMetric(IoUMetric):
    """``IoUMetric`` of the present-classes protocol, beside that of the standard one.

    It scores ``pred_present_classes``, the prediction among the classes that the ground
    truth of the image holds, which ``ZeroShotSegmentor`` adds in the same pass when
    ``model.test_cfg.present_classes`` is true. Its results are named
    ``present_classes/mIoU``, ``present_classes/mAcc``, ``present_classes/aAcc``.

    Args:
        **kwargs: As for ``IoUMetric``.

    Raises:
        ValueError: The model does not predict among the present classes.
    """

    default_prefix = 'present_classes'

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        if any('pred_present_classes' not in sample for sample in data_samples):
            raise ValueError(
                'PresentClassesIoUMetric needs a prediction among the classes of each '
                'image: set model.test_cfg.present_classes=True.'
            )
        samples = [
            {**sample, 'pred_sem_seg': sample['pred_present_classes']}
            for sample in data_samples
        ]
        super().process(data_batch, samples)

    def compute_metrics(self, results: list) -> dict[str, float]:
        print_log(
            'present-classes protocol (only the classes of each image compete):',
            logger='current',
        )
        return super().compute_metrics(results)
