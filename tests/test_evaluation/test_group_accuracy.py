"""Accuracy by class and background, against numbers that are known."""

import math

import pytest

from pacl_mmseg.evaluation import GroupAccuracy


@pytest.fixture
def metric():
    metric = GroupAccuracy()
    metric.dataset_meta = dict(
        classes=('landbird', 'waterbird'), places=('land', 'sea')
    )
    return metric


def measure(metric, counts):
    """``counts``: of label and place, images and how many of them are right."""
    for (label, place), (images, right) in counts.items():
        for index in range(images):
            predicted = label if index < right else 1 - label
            sample = dict(gt_label=label, pred_label=predicted, place=place)
            metric.process({}, [sample])
    return metric.compute_metrics(metric.results)


def test_groups(metric):
    counts = {(0, 0): (50, 50), (0, 1): (10, 4), (1, 0): (20, 10), (1, 1): (20, 19)}
    assert measure(metric, counts) == {
        'accuracy': 83.0,
        'worst_group': 40.0,
        'gap': 43.0,
        'group/landbird on land': 100.0,
        'group/landbird on sea': 40.0,
        'group/waterbird on land': 50.0,
        'group/waterbird on sea': 95.0,
    }


def test_groups_without_images_do_not_count(metric):
    found = measure(metric, {(0, 0): (4, 3), (1, 1): (4, 4)})
    assert (found['worst_group'], found['gap']) == (75, 12.5)
    assert math.isnan(found['group/landbird on sea'])


def test_a_sample_without_place_is_refused(metric):
    with pytest.raises(ValueError, match="add 'place' to the meta_keys"):
        metric.process({}, [dict(gt_label=0, pred_label=0)])
