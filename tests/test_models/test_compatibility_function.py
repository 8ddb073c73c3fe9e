"""Tests of the compatibility function as a part of a model."""

import math

import pytest
import torch
import torch.nn.functional as F

from pacl_mmseg.models.decode_heads import CompatibilityFunction
from pacl_mmseg.ops import (
    compatibility_reference,
    own_caption_compatibility,
    weight_entropy,
)
from pacl_mmseg.registry import MODELS


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(0)).double()


@pytest.fixture
def texts() -> torch.Tensor:
    return torch.randn(8, 5, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(mode='sigmoid'),
        dict(mode='softmax', weight_scale=10.0, normalize_first=True),
        dict(mode='max', weight_scale=None, renormalize=False),
        dict(mode='cls'),
    ],
)
def test_is_the_function_of_its_options(tokens, texts, options):
    module = MODELS.build(dict(type='CompatibilityFunction', **options))
    assert not list(module.parameters())
    cls_tokens = tokens[:, 0] + 1
    phi = module(tokens, texts, 2, cls_tokens)
    expected = compatibility_reference(tokens, texts, cls_tokens=cls_tokens, **options)
    torch.testing.assert_close(phi, expected)


def test_precision_of_products_reaches_the_blocks(tokens, texts):
    module = CompatibilityFunction(matmul_dtype='bfloat16')
    phi = module(tokens.float(), texts.float())
    error = (phi - CompatibilityFunction()(tokens, texts)).abs().max()
    assert 1e-5 < error < 1e-2


def test_own_captions_begin_at_the_offset(tokens, texts):
    module = CompatibilityFunction(pooling='own_caption', weight_scale=4.0)
    expected = own_caption_compatibility(tokens, texts[2:5], texts, weight_scale=4.0)
    torch.testing.assert_close(module(tokens, texts, offset=2), expected)


@pytest.mark.parametrize(
    'options',
    [
        dict(learnable=True, weight_scale=3.0),
        dict(mode='sigmoid', learnable=True),
        dict(pooling='own_caption', learnable=True),
        dict(mode='max'),
    ],
)
def test_equal_texts_change_neither_values_nor_gradients(tokens, texts, options):
    ids = torch.tensor([4, 2, 4, 4, 9, 1, 2, 4])
    embeddings = texts.requires_grad_()  # of each id, as a text encoder's
    weights = torch.randn(3, 8, generator=torch.Generator().manual_seed(2)).double()
    module = CompatibilityFunction(**options)
    leaves = [tokens.requires_grad_(), embeddings, *module.parameters()]
    results = []
    for known in (None, ids):
        phi = module(tokens, embeddings[ids % 8], 2, None, known)
        gradients = torch.autograd.grad((weights * phi).sum(), leaves)
        results.append((phi, gradients))
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.parametrize('pooling', ['pairwise', 'own_caption'])
@pytest.mark.parametrize('mode', ['softmax', 'sigmoid'])
def test_learnt_scale_descends(tokens, texts, pooling, mode):
    module = CompatibilityFunction(mode=mode, learnable=True, pooling=pooling)
    start = module.weight_scale.item()
    assert start == pytest.approx({'softmax': 1, 'sigmoid': 10}[mode])
    target = torch.arange(3)
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    losses = []
    for _ in range(10):
        loss = F.cross_entropy(20 * module(tokens, texts), target)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    assert module.weight_scale.item() != pytest.approx(start)


def test_learnt_scale_stays_in_its_bounds_and_can_leave_them(tokens, texts):
    module = CompatibilityFunction(learnable=True)
    for value, bound in ((300.0, 100.0), (1e-3, 0.01)):
        with torch.no_grad():
            module.log_weight_scale.fill_(math.log(value))
        module.zero_grad()
        phi = module(tokens, texts)
        expected = compatibility_reference(tokens, texts, weight_scale=bound)
        torch.testing.assert_close(phi, expected, rtol=0, atol=1e-6)
        phi.sum().backward()
        assert module.log_weight_scale.grad.abs() > 0


def test_statistics(tokens, texts):
    module = CompatibilityFunction(weight_scale=3.0, learnable=True)
    statistics = module.statistics(tokens, texts[:3])
    entropy = weight_entropy(tokens, texts[:3], weight_scale=3.0).mean()
    torch.testing.assert_close(statistics['weight_entropy'], entropy)
    torch.testing.assert_close(statistics['effective_patches'], entropy.exp())
    assert statistics['weight_scale'].item() == pytest.approx(3)
    assert not any(value.requires_grad for value in statistics.values())
    assert CompatibilityFunction(mode='max').statistics(tokens, texts[:3]) == {}


def test_statistics_of_the_first_images():
    tokens, texts = torch.randn(260, 4, 8), torch.randn(260, 8)
    module = CompatibilityFunction(weight_scale=3.0)
    first = module.statistics(tokens[:256], texts[:256])
    tokens[256:] = float('nan')
    assert module.statistics(tokens, texts) == first
    tokens[255] = float('nan')
    assert module.statistics(tokens, texts)['weight_entropy'].isnan()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(mode='softmin'), "mode must be .* Did you mean 'softmax'"),
        (dict(pooling='own'), 'pairwise'),
        (dict(mode='max', learnable=True), "'max' weighs no patches"),
        (dict(mode='mean', pooling='own_caption'), "'mean' weighs no patches"),
        (dict(learnable=True, weight_scale=0.0), 'from 0.01 to 100'),
        (dict(learnable=True, weight_scale=200.0), 'from 0.01 to 100'),
        (dict(matmul_dtype='float8'), 'bfloat16'),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        CompatibilityFunction(**options)


@pytest.mark.parametrize('mode', ['softmax', 'max', 'mean'])
def test_the_class_token_may_be_one_of_the_patches(tokens, texts, mode):
    module = CompatibilityFunction(mode, include_cls=True)
    phi = module(tokens[:, 1:], texts, cls_tokens=tokens[:, 0])
    expected = compatibility_reference(tokens, texts, mode=mode)
    torch.testing.assert_close(phi, expected)


def test_a_class_token_that_is_not_there(tokens, texts):
    with pytest.raises(ValueError, match='model.backbone.output_cls_token=True'):
        CompatibilityFunction('max', include_cls=True)(tokens, texts)
    with pytest.raises(ValueError, match="Mode 'cls' pools nothing"):
        CompatibilityFunction('cls', include_cls=True)
