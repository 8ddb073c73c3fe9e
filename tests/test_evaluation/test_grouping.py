"""Class-free grouping of tokens, against truth that is known."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pacl_mmseg.datasets.small_world import CLASSES, render_scene
from pacl_mmseg.evaluation import GroupingJaccard
from pacl_mmseg.evaluation.grouping import best_ious, group_tokens


def tokens_of(labels, noise=0.02):
    """A direction for each label, of any length, and a little noise: ``(C, H, W)``."""
    generator = torch.Generator().manual_seed(0)
    one_hot = F.one_hot(labels.long(), 256).permute(2, 0, 1).float()
    lengths = 0.5 + torch.rand(labels.shape, generator=generator)
    disturbed = one_hot + noise * torch.randn(one_hot.shape, generator=generator) / 16
    return disturbed * lengths


@pytest.mark.parametrize('index', range(4))
def test_groups_are_the_segments_of_scenes(index):
    mask = torch.from_numpy(render_scene(index, split='test').mask)
    values = mask.unique()  # objects and background
    groups = group_tokens(tokens_of(mask), len(values))
    assert len(groups.unique()) == len(values)
    assert (best_ious(groups, mask) == 1).all()
    assert len(best_ious(groups, mask)) == len(values) - 1
    assert len(best_ious(groups, mask, ignore_index=None)) == len(values)


def test_too_few_groups_join_segments():
    """Two equal halves in one group: each is half of it."""
    labels = torch.zeros(8, 8, dtype=torch.uint8)
    labels[:, 4:] = 1
    assert best_ious(group_tokens(tokens_of(labels), 1), labels).tolist() == [0.5, 0.5]


def test_best_ious_are_those_of_all_pairs():
    random = np.random.default_rng(0)
    groups = random.integers(0, 4, (3, 5))
    labels = random.choice([0, 2, 7, 255], (12, 10))
    enlarged = groups.repeat(4, 0).repeat(2, 1)
    counted = labels != 255
    expected = []
    for label in (0, 2, 7):
        segment = labels == label
        pairs = [(segment, (enlarged == g) & counted) for g in range(4)]
        expected.append(max((s & g).sum() / (s | g).sum() for s, g in pairs))
    result = best_ious(torch.from_numpy(groups), torch.from_numpy(labels))
    assert result.tolist() == pytest.approx(expected)


def test_a_seed_decides():
    tokens = torch.randn(6, 9, 9, generator=torch.Generator().manual_seed(1))
    first, again, other = (group_tokens(tokens, 5, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(group_tokens(3 * tokens, 5), first)  # directions alone


def test_fewer_different_tokens_than_groups():
    tokens = torch.zeros(3, 4, 4)
    tokens[0], tokens[1, :, 2:] = 1, 5
    assert len(group_tokens(tokens, 5).unique()) == 2


def sample(labels, tokens=None):
    data = dict(gt_sem_seg=dict(data=labels[None]))
    return data if tokens is None else dict(data, tokens=dict(data=tokens))


def test_metric_averages_over_segments():
    halves = torch.zeros(8, 8, dtype=torch.uint8)
    halves[:, 4:] = 1
    whole = torch.full((6, 6), 3, dtype=torch.uint8)
    metric = GroupingJaccard(groups=1)
    metric.process({}, [sample(x, tokens_of(x)) for x in (halves, whole)])
    assert metric.compute_metrics(metric.results) == dict(grouping_jaccard=66.67)


def test_nothing_to_measure():
    metric = GroupingJaccard()
    ignored = torch.full((4, 4), 255, dtype=torch.uint8)
    metric.process({}, [sample(ignored, torch.rand(3, 4, 4))])
    assert math.isnan(metric.compute_metrics(metric.results)['grouping_jaccard'])


def test_bad_input():
    with pytest.raises(ValueError, match='groups must be 1 or more, not 0'):
        GroupingJaccard(groups=0)
    with pytest.raises(ValueError, match='set model.test_cfg.keep_tokens=True'):
        GroupingJaccard().process({}, [sample(torch.zeros(4, 4))])
    with pytest.raises(ValueError, match='not finite'):
        group_tokens(torch.full((3, 4, 4), math.nan), 2)
    assert len(CLASSES) < 255  # what tokens_of can tell apart
