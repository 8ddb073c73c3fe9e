import pytest
import torch
from torch.nn import functional as F

from pacl_mmseg.ops import activation_map, compatibility_reference


@pytest.fixture
def tokens_and_texts():
    generator = torch.manual_seed(0)
    maps = 3 * torch.randn(2, 16, 5, 6, generator=generator, dtype=torch.float64)
    return maps, torch.randn(4, 16, generator=generator, dtype=torch.float64)


def test_cosines(tokens_and_texts):
    maps, texts = tokens_and_texts
    found = activation_map(maps, texts)
    expected = F.cosine_similarity(maps[:, None], texts[None, :, :, None, None], dim=2)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize('mode, scale', [('softmax', None), ('sigmoid', 3.0)])
def test_weights_are_those_that_pool_in_training(tokens_and_texts, mode, scale):
    maps, texts = tokens_and_texts
    weights = activation_map(maps, texts, mode=mode, weight_scale=scale)
    pooled = torch.einsum('nkhw,ndhw->nkd', weights, maps)
    phi = compatibility_reference(
        maps.flatten(2).mT, texts, mode=mode, weight_scale=scale
    )
    torch.testing.assert_close(F.cosine_similarity(pooled, texts, dim=-1), phi)
    in_range = (
        weights.sum((2, 3)) - 1 if mode == 'softmax' else weights.clamp(0, 1) - weights
    )
    torch.testing.assert_close(in_range, torch.zeros_like(in_range))


def test_the_map_of_nms05(tokens_and_texts):
    """Sigmoid of ten times the cosine, and a Gaussian over 3 x 3 patches."""
    maps, texts = tokens_and_texts
    plain = torch.sigmoid(10 * activation_map(maps, texts))
    line = torch.exp(
        -(torch.tensor([-1.0, 0, 1], dtype=torch.float64) ** 2) / (2 * 1.3**2)
    )
    kernel = line[:, None] * line / line.sum() ** 2
    padded = F.pad(plain, (1, 1, 1, 1), mode='reflect')
    expected = F.conv2d(padded.flatten(0, 1)[:, None], kernel[None, None])
    found = activation_map(maps, texts, mode='sigmoid', blur=1.3)
    torch.testing.assert_close(found, expected.view_as(found))


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(mode='relu'), "mode must be one of .* not 'relu'"),
        (dict(weight_scale=2.0), 'Cosines have no weight_scale'),
        (dict(blur=-1.0), 'blur must be 0 or'),
    ],
)
def test_options_without_effect_are_refused(tokens_and_texts, options, message):
    with pytest.raises(ValueError, match=message):
        activation_map(*tokens_and_texts, **options)


def test_a_single_row_cannot_be_blurred(tokens_and_texts):
    maps, texts = tokens_and_texts
    with pytest.raises(ValueError, match='1 x 6 patches'):
        activation_map(maps[:, :, :1], texts, blur=1.0)
