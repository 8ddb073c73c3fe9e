import pytest
import torch
from scipy.stats import mannwhitneyu

from pacl_mmseg.ops import auroc, roc_curve


@pytest.mark.parametrize('levels', [3, 1000])  # many ties, few
def test_area_is_the_u_of_mann_and_whitney(levels):
    generator = torch.manual_seed(levels)
    scores = torch.randint(levels, (300,), generator=generator) / levels
    positive = torch.rand(300, generator=generator) < 0.2 + 0.5 * scores
    u = mannwhitneyu(scores[positive], scores[~positive]).statistic
    expected = u / (int(positive.sum()) * int((~positive).sum()))
    assert float(auroc(scores, positive)) == pytest.approx(expected, abs=1e-12)


def test_known_answer_with_ties():
    scores = torch.tensor([0.9, 0.5, 0.5, 0.1])
    positive = torch.tensor([True, True, False, False])
    # Of four pairs of a positive and a negative three are in order and one is a tie.
    assert float(auroc(scores, positive)) == 3.5 / 4
    false, true = roc_curve(scores, positive)
    assert false.tolist() == [0, 0, 0.5, 1]
    assert true.tolist() == [0, 0.5, 1, 1]
    assert float(auroc(torch.zeros(4), positive)) == 0.5
    assert auroc(scores, torch.ones(4, dtype=torch.bool)).isnan()


def test_a_weight_is_how_often_an_item_is_there():
    generator = torch.manual_seed(0)
    scores = torch.randint(9, (50,), generator=generator).float()
    positive = torch.rand(50, generator=generator) < 0.4
    times = torch.randint(4, (2, 50), generator=generator)
    found = auroc(scores, positive, times)
    for area, often in zip(found, times, strict=True):
        repeated = scores.repeat_interleave(often), positive.repeat_interleave(often)
        torch.testing.assert_close(area, auroc(*repeated))
