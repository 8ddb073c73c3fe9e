import pytest
import torch
from parity import recipe

from pacl_mmseg.ops import pamr


def test_equals_the_authors_code():
    image, scores = recipe.pamr_inputs()
    expected = recipe.golden('sclip', 'pamr')
    torch.testing.assert_close(pamr(image, scores), expected, rtol=0, atol=1e-5)
    expected = recipe.golden('sclip', 'pamr_1_2_4')
    result = pamr(image, scores, steps=2, dilations=(1, 2, 4))
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)


def test_scores_stay_within_an_object():
    """Two flat halves: scores average within each, and never across the edge."""
    image = torch.zeros(1, 3, 12, 12)
    image[..., 6:] = 1
    scores = torch.rand(1, 1, 12, 12)
    scores[..., 6:] += 10
    refined = pamr(image, scores, steps=50, dilations=(1, 2))
    left, right = refined[..., :6], refined[..., 6:]
    assert left.std() < 0.1 * scores[..., :6].std()
    assert left.max() < 1
    assert right.min() > 10


def test_probabilities_stay_probabilities():
    image = torch.rand(2, 3, 9, 14)
    probabilities = torch.rand(2, 21, 9, 14).softmax(1)
    refined = pamr(image, probabilities, steps=3)
    torch.testing.assert_close(refined.sum(1), torch.ones(2, 9, 14))
    assert refined.min() >= 0


def test_images_and_maps_are_independent():
    image, scores = torch.rand(2, 3, 9, 14), torch.rand(2, 11, 9, 14)
    together = pamr(image, scores)
    alone = pamr(image[1:], scores[1:, 6:7])
    torch.testing.assert_close(together[1:, 6:7], alone)


def test_sizes_must_agree():
    with pytest.raises(ValueError, match='of one size, not .9, 14. and .3, 4.'):
        pamr(torch.rand(1, 3, 9, 14), torch.rand(1, 2, 3, 4))
