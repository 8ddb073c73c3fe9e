"""Accuracy averaged over classes, against MMPretrain's recall and a known answer."""

import pytest
import torch
from mmpretrain.evaluation import SingleLabelMetric

from pacl_mmseg.evaluation import MeanClassAccuracy


def measure(labels, predicted):
    metric = MeanClassAccuracy()
    samples = [
        dict(gt_label=torch.tensor([label]), pred_label=torch.tensor([guess]))
        for label, guess in zip(labels, predicted, strict=True)
    ]
    metric.process({}, samples)
    return metric.evaluate(len(samples))


def test_where_all_classes_occur_it_is_their_mean_recall():
    generator = torch.Generator().manual_seed(0)
    labels, predicted = torch.randint(4, (2, 50), generator=generator)
    _, recall, *_ = SingleLabelMetric.calculate(predicted, labels, num_classes=4)
    found = measure(labels.tolist(), predicted.tolist())
    assert found == {'accuracy/mean_per_class': pytest.approx(recall.item())}


def test_classes_without_images_do_not_count():
    found = measure([1, 1, 1, 3, 3, 6], [1, 1, 1, 3, 9, 0])
    assert found == {'accuracy/mean_per_class': 50}  # of 100, 50 and 0
