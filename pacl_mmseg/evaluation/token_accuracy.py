"""Patch classification accuracy of tokens."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.evaluator import BaseMetric

from pacl_mmseg.ops import patch_labels
from pacl_mmseg.registry import METRICS

# Labels of tokens in a data sample, and what the accuracy of each is called.
_NAMES = dict(
    pred_tokens='token_accuracy',
    pred_tokens_present_classes='present_classes/token_accuracy',
)


@METRICS.register_module()
class TokenAccuracy(BaseMetric):
    """Share of tokens whose own class is that of their patch, in percent.

    The patch classification accuracy of PACL (CVPR 2023), as accounts of the paper have
    it: the class of a token is that of its own scores, without any upsampling, and that
    of its patch the majority of the patch's pixels
    (:func:`pacl_mmseg.ops.patch_labels`); patches where most pixels are ignored do not
    count. :class:`PatchAccuracy` measures labels of pixels instead.

    Measured is what the model labels, which it does if told to by
    ``model.test_cfg.token_labels``, for whole images; else there is no result.
    ``token_accuracy`` is among all classes. Where the model also predicts among the
    present classes (``model.test_cfg.present_classes``),
    ``present_classes/token_accuracy`` is among these. Which of the two the paper has is
    not known.

    Args:
        ignore_index: The ignored label.
    """

    def __init__(self, ignore_index: int = 255, **kwargs) -> None:
        super().__init__(**kwargs)
        self.ignore_index = ignore_index

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            result = {}
            if 'pred_tokens' in sample:
                labels = patch_labels(
                    sample['gt_sem_seg']['data'][0].cpu(),
                    **sample['token_patches'],
                    padding=sample.get('img_padding_size', (0, 0, 0, 0)),
                    ignore_index=self.ignore_index,
                )
                counted = labels != self.ignore_index
                result['counted'] = int(counted.sum())
                for key in _NAMES.keys() & sample.keys():
                    correct = sample[key]['data'][0].cpu() == labels
                    result[key] = int((correct & counted).sum())
            self.results.append(result)

    def compute_metrics(self, results: list[dict[str, int]]) -> dict[str, float]:
        counted = sum(result.get('counted', 0) for result in results)
        return {
            name: round(100 * sum(r[key] for r in results) / counted, 2)
            for key, name in _NAMES.items()
            if counted and all(key in result for result in results)
        }
