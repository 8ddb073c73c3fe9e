"""Tokens as colours, against NumPy's singular values."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pacl_mmseg.ops import principal_colours


@pytest.fixture
def maps():
    generator = torch.Generator().manual_seed(0)
    stretch = torch.tensor([5.0, 3.0, 2.0, 0.3, 0.1])[:, None, None]
    return [
        stretch * torch.randn(5, *size, generator=generator) + 2
        for size in ((7, 9), (4, 4))
    ]


def test_components_are_the_singular_vectors(maps):
    colours, shares = principal_colours(maps)
    tokens = np.concatenate([m.flatten(1).T for m in maps]).astype(float)
    tokens /= np.linalg.norm(tokens, axis=1, keepdims=True)
    tokens -= tokens.mean(0)
    left, values, _ = np.linalg.svd(tokens, full_matrices=False)
    np.testing.assert_allclose(shares, values[:3] ** 2 / (values**2).sum(), rtol=1e-5)
    assert [c.shape for c in colours] == [(7, 9, 3), (4, 4, 3)]
    painted = np.concatenate([c.reshape(-1, 3) for c in colours])
    inner = (painted > 0) & (painted < 1)
    for component in range(3):  # up to sign, a straight line of the scores
        kept = inner[:, component]
        scores = left[kept, component]
        correlation = np.corrcoef(painted[kept, component], scores)[0, 1]
        assert abs(correlation) == pytest.approx(1, abs=1e-6)
        assert painted[:, component].min() == 0 and painted[:, component].max() == 1


def test_only_directions_count(maps):
    scaled = [m * (1 + torch.rand(m.shape[1:])) for m in maps]
    for one, other in zip(
        *(principal_colours(x)[0] for x in (maps, scaled)), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def test_like_tokens_have_like_colours_across_images():
    axes = F.one_hot(torch.tensor([[0, 1, 2], [2, 0, 1]])).permute(0, 2, 1).float()
    (first, second), shares = principal_colours([a[:, None] for a in axes])
    assert torch.equal(first[0, [2, 0, 1]], second[0])
    assert (first[0, 0] - first[0, 1]).abs().max() > 0.3
    assert shares.sum() == pytest.approx(1)


def test_what_does_not_vary_is_grey():
    colours, shares = principal_colours([torch.ones(4, 3, 3)])
    assert (colours[0] == 0.5).all() and not shares.any()


def test_bad_maps():
    with pytest.raises(ValueError, match='3 channels or more'):
        principal_colours([torch.rand(2, 4, 4)])
    with pytest.raises(ValueError, match='not finite'):
        principal_colours([torch.full((3, 4, 4), torch.inf)])
