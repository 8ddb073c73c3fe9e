"""Tests of the compatibility function."""

import itertools
import math
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pacl_mmseg.ops import (
    MODES,
    compatibility,
    compatibility_reference,
    own_caption_compatibility,
    weight_entropy,
)
from pacl_mmseg.ops import compatibility_blockwise as blockwise
from pacl_mmseg.ops.compiled import compiled

BLOCKWISE = ('softmax', 'sigmoid')
FUNCTIONS = (compatibility_reference, compatibility)


def make_inputs(
    images: int = 5,
    tokens: int = 6,
    dim: int = 4,
    texts: int = 7,
    masked: bool = False,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor | None]:
    """Random arguments of the two functions; leaves that require gradients."""
    generator = torch.Generator().manual_seed(images + tokens * dim + texts)

    def normal(*shape: int) -> Tensor:
        values = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return values.to(dtype).requires_grad_()

    valid = None
    if masked:
        lengths = torch.arange(images) % tokens + 1
        valid = torch.arange(tokens) < lengths[:, None]
    return {
        'patch_tokens': normal(images, tokens, dim),
        'texts': normal(texts, dim),
        'cls_tokens': normal(images, dim),
        'valid': valid,
    }


def values_and_gradients(function, inputs: dict, **options) -> dict[str, Tensor]:
    """phi and its gradients for random weights of the (B, N) entries."""
    phi = function(**inputs, **options)
    leaves = {k: v for k, v in {**inputs, **options}.items() if _is_leaf(v)}
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(phi.shape, generator=generator, dtype=torch.float64)
    gradients = torch.autograd.grad(
        phi, list(leaves.values()), weights.to(phi), allow_unused=True
    )
    return {'phi': phi.detach(), **dict(zip(leaves, gradients, strict=True))}


def _is_leaf(value: object) -> bool:
    """Whether a gradient is wanted for it."""
    return isinstance(value, Tensor) and value.requires_grad


def assert_same(left: dict, right: dict, tolerance: float) -> None:
    """Same keys and values; the tolerance is relative to each tensor's maximum."""
    assert left.keys() == right.keys()
    for key, expected in right.items():
        if expected is None:
            assert left[key] is None or not left[key].any(), key
            continue
        assert left[key] is not None, key
        error = (left[key].double() - expected.double()).abs().max().item()
        bound = tolerance * max(1.0, expected.abs().max().item())
        assert error <= bound, f'{key}: {error} > {bound}'


def cosine(left: list[float], right: list[float]) -> float:
    """Cosine of two vectors."""
    dot = sum(x * y for x, y in zip(left, right, strict=True))
    return dot / math.hypot(*left) / math.hypot(*right)


def oracle_pair(
    tokens: list[list[float]],
    text: list[float],
    cls_token: list[float],
    mode: str,
    weight_scale: float | None,
    normalize_first: bool,
    renormalize: bool,
) -> float:
    """phi of one image and one text in plain Python."""
    similarities = [cosine(token, text) for token in tokens]
    if normalize_first:
        tokens = [[x / math.hypot(*token) for x in token] for token in tokens]
        cls_token = [x / math.hypot(*cls_token) for x in cls_token]

    def compare(pooled: list[float]) -> float:
        return cosine(pooled, text) * (1 if renormalize else math.hypot(*pooled))

    if mode == 'cls':
        return compare(cls_token)
    if mode == 'max':
        return compare([max(column) for column in zip(*tokens, strict=True)])
    if mode == 'mean':
        weights = [1 / len(tokens)] * len(tokens)
    elif mode == 'softmax':
        scale = 1.0 if weight_scale is None else weight_scale
        exponentials = [math.exp(scale * s) for s in similarities]
        weights = [e / sum(exponentials) for e in exponentials]
    else:
        scale = 10.0 if weight_scale is None else weight_scale
        weights = [1 / (1 + math.exp(-scale * s)) for s in similarities]
    pooled = [
        sum(w * x for w, x in zip(weights, column, strict=True))
        for column in zip(*tokens, strict=True)
    ]
    return compare(pooled)


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('normalize_first', [False, True])
@pytest.mark.parametrize('weight_scale', [None, 3.0])
@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('renormalize', [True, False])
def test_reference_equals_formula_pair_by_pair(
    mode, normalize_first, weight_scale, masked, renormalize
):
    inputs = make_inputs(masked=masked)
    phi = compatibility_reference(
        **inputs,
        mode=mode,
        normalize_first=normalize_first,
        weight_scale=weight_scale,
        renormalize=renormalize,
    )
    for image, text in itertools.product(range(5), range(7)):
        tokens = inputs['patch_tokens'][image]
        if masked:
            tokens = tokens[inputs['valid'][image]]
        expected = oracle_pair(
            tokens.tolist(),
            inputs['texts'][text].tolist(),
            inputs['cls_tokens'][image].tolist(),
            mode,
            weight_scale,
            normalize_first,
            renormalize,
        )
        assert phi[image, text].item() == pytest.approx(expected, abs=1e-12)


# Both with T <= D and T > D, on both sides of the Gram matrix' break-even.
SHAPES = [(5, 6, 9, 20), (5, 6, 9, 3), (4, 11, 3, 7), (3, 8, 8, 40)]


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('normalize_first', [False, True])
@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('weight_scale', [None, 0.3, 25.0, -4.0])
def test_efficient_equals_reference(mode, normalize_first, masked, weight_scale):
    for shape in SHAPES:
        inputs = make_inputs(*shape, masked=masked)
        options = dict(
            mode=mode, normalize_first=normalize_first, weight_scale=weight_scale
        )
        expected = values_and_gradients(compatibility_reference, inputs, **options)
        tokens, dim, texts = shape[1:]
        two_images = 2 * tokens * max(dim, texts)
        for limit in (1, 2 * tokens + 1, two_images, None):
            actual = values_and_gradients(
                compatibility, inputs, **options, max_block_elements=limit
            )
            assert_same(actual, expected, 1e-9)


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('normalize_first', [False, True])
@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('renormalize', [True, False])
def test_learnt_scale_and_no_renormalisation(
    mode, normalize_first, masked, renormalize
):
    for shape in SHAPES:
        inputs = make_inputs(*shape, masked=masked)
        for scale in (0.0, 2.5):
            options = dict(
                mode=mode,
                normalize_first=normalize_first,
                renormalize=renormalize,
                weight_scale=torch.tensor(scale, dtype=torch.float64).requires_grad_(),
            )
            expected = values_and_gradients(compatibility_reference, inputs, **options)
            if mode in BLOCKWISE:
                assert expected['weight_scale'].abs() > 1e-6
            for limit in (2 * shape[1] + 1, None):
                actual = values_and_gradients(
                    compatibility, inputs, **options, max_block_elements=limit
                )
                assert_same(actual, expected, 1e-9)


@pytest.mark.parametrize('mode', BLOCKWISE)
def test_only_the_scale_learns(mode):
    inputs = make_inputs()
    for name in ('patch_tokens', 'texts', 'cls_tokens'):
        inputs[name].requires_grad_(False)
    scale = torch.tensor(3.0, requires_grad=True)  # float32, as a parameter is
    options = dict(mode=mode, weight_scale=scale)
    expected = values_and_gradients(compatibility_reference, inputs, **options)
    actual = values_and_gradients(compatibility, inputs, **options)
    assert actual['weight_scale'].dtype == torch.float32
    assert_same(actual, expected, 1e-6)


@pytest.mark.parametrize('mode', BLOCKWISE)
@pytest.mark.parametrize('normalize_first', [False, True])
@pytest.mark.parametrize('texts', [2, 12])
def test_gradcheck(mode, normalize_first, texts):
    inputs = make_inputs(3, 4, 5, texts, masked=True)

    def phi(patch_tokens: Tensor, texts: Tensor) -> Tensor:
        return compatibility(
            patch_tokens,
            texts,
            valid=inputs['valid'],
            mode=mode,
            normalize_first=normalize_first,
            max_block_elements=20,
        )

    assert torch.autograd.gradcheck(phi, (inputs['patch_tokens'], inputs['texts']))


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('frozen', ['texts', 'patch_tokens'])
def test_gradient_of_one_argument_only(mode, frozen):
    for texts in (3, 20):
        inputs = make_inputs(5, 6, 9, texts)
        inputs[frozen].requires_grad_(False)
        expected = values_and_gradients(compatibility_reference, inputs, mode=mode)
        actual = values_and_gradients(
            compatibility, inputs, mode=mode, max_block_elements=60
        )
        assert frozen not in actual
        assert_same(actual, expected, 1e-9)


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize(
    # bfloat16 has 8 bits; its inputs are exact in the float64 run, so what is left
    # is the rounding of the gradients.
    ('dtype', 'tolerance'),
    [(torch.float32, 2e-5), (torch.bfloat16, 5e-3), (torch.float16, 1e-3)],
)
def test_low_precision(mode, dtype, tolerance):
    inputs = make_inputs(4, 33, 24, 40, dtype=dtype, masked=True)
    wide = {
        k: v.detach().double().requires_grad_() if k != 'valid' else v
        for k, v in inputs.items()
    }
    expected = values_and_gradients(compatibility_reference, wide, mode=mode)
    actual = values_and_gradients(compatibility, inputs, mode=mode)
    assert actual['phi'].dtype == torch.float32
    for key, gradient in actual.items():
        assert key == 'phi' or gradient is None or gradient.dtype == dtype
    assert_same(actual, expected, tolerance)
    assert (actual['phi'] - expected['phi']).abs().max() < 1e-5


@pytest.mark.parametrize('mode', BLOCKWISE)
@pytest.mark.parametrize('renormalize', [True, False])
@pytest.mark.parametrize('normalize_first', [False, True])
@pytest.mark.parametrize(
    # A few roundings, to 8 and 11 bits.
    ('matmul_dtype', 'tolerance'),
    [('bfloat16', 1e-2), ('float16', 1.5e-3)],
)
def test_low_precision_products(
    mode, renormalize, normalize_first, matmul_dtype, tolerance
):
    for shape in [(4, 33, 24, 40), (4, 33, 48, 5)]:  # without and with Gram matrix
        inputs = make_inputs(*shape, dtype=torch.float32, masked=True)
        wide = {
            k: v.detach().double().requires_grad_() if k != 'valid' else v
            for k, v in inputs.items()
        }
        options = dict(
            mode=mode, renormalize=renormalize, normalize_first=normalize_first
        )
        scale = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
        expected = values_and_gradients(
            compatibility_reference, wide, weight_scale=scale, **options
        )
        sizes = {k: v.abs().max() for k, v in expected.items() if v is not None}
        # The scale's gradient sums terms of either sign; this is their usual sum.
        ends = [
            compatibility_reference(**wide, weight_scale=4.0 + step, **options)
            for step in (1e-4, -1e-4)
        ]
        sizes['weight_scale'] = ((ends[0] - ends[1]) / 2e-4).norm()
        actual = values_and_gradients(
            compatibility,
            inputs,
            weight_scale=scale,
            matmul_dtype=matmul_dtype,
            max_block_elements=1000,
            **options,
        )
        assert actual['phi'].dtype == torch.float32
        assert actual['patch_tokens'].dtype == torch.float32
        for key in ('phi', 'patch_tokens', 'texts', 'weight_scale'):
            error = (actual[key] - expected[key]).abs().max() / sizes[key]
            assert 0 < error < tolerance, (key, error)


@pytest.mark.parametrize('mode', BLOCKWISE)
def test_low_precision_products_keep_cosines_where_tokens_cancel(mode):
    inputs = make_inputs(3, 8, 6, 40, dtype=torch.float32)
    with torch.no_grad():
        inputs['patch_tokens'][:, 4:] = -inputs['patch_tokens'][:, :4]
    options = dict(mode=mode, weight_scale=0.0, matmul_dtype='bfloat16')
    values = values_and_gradients(compatibility, inputs, **options)
    assert values['phi'].abs().max() <= 1.0


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('function', FUNCTIONS)
def test_autocast_changes_nothing(mode, function):
    inputs = make_inputs(4, 33, 24, 40, dtype=torch.float32)
    expected = values_and_gradients(function, inputs, mode=mode)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        phi = function(**inputs, mode=mode)
        assert torch.equal(phi, expected['phi'])
        # PyTorch advises against backward under autocast, and its own operators do
        # not withstand it; the blockwise ones do.
        if function is compatibility and mode in BLOCKWISE:
            actual = values_and_gradients(function, inputs, mode=mode)
            for key in ('patch_tokens', 'texts'):
                assert torch.equal(actual[key], expected[key]), key


@pytest.mark.parametrize('function', FUNCTIONS)
@pytest.mark.parametrize('mode', [mode for mode in MODES if mode != 'cls'])
def test_single_token_gives_its_cosine(function, mode):
    inputs = make_inputs(tokens=1)
    phi = function(**inputs, mode=mode)
    expected = F.cosine_similarity(
        inputs['patch_tokens'], inputs['texts'][None], dim=-1
    )
    torch.testing.assert_close(phi, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize('function', FUNCTIONS)
def test_large_scale_selects_the_best_patch(function):
    inputs = make_inputs()
    phi = function(**inputs, mode='softmax', weight_scale=1e5)
    similarities = F.cosine_similarity(
        inputs['patch_tokens'][:, :, None], inputs['texts'], dim=-1
    )
    torch.testing.assert_close(phi, similarities.amax(dim=1), rtol=0, atol=1e-9)


@pytest.mark.parametrize('function', FUNCTIONS)
@pytest.mark.parametrize('mode', BLOCKWISE)
@pytest.mark.parametrize('masked', [False, True])
def test_zero_scale_is_the_mean(function, mode, masked):
    inputs = make_inputs(masked=masked)
    phi = function(**inputs, mode=mode, weight_scale=0.0)
    torch.testing.assert_close(phi, function(**inputs, mode='mean'), rtol=0, atol=1e-12)
    assert (phi - function(**inputs, mode=mode, weight_scale=5.0)).abs().max() > 1e-3


@pytest.mark.parametrize('function', FUNCTIONS)
@pytest.mark.parametrize('mode', MODES)
def test_order_of_patches_does_not_matter(function, mode):
    inputs = make_inputs()
    phi = function(**inputs, mode=mode)
    inputs['patch_tokens'] = inputs['patch_tokens'].flip(1)
    torch.testing.assert_close(function(**inputs, mode=mode), phi, rtol=0, atol=1e-12)


@pytest.mark.parametrize('function', FUNCTIONS)
@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('normalize_first', [False, True])
@pytest.mark.parametrize('padding', [100.0, float('nan')])
def test_masked_equals_truncated(function, mode, normalize_first, padding):
    options = dict(mode=mode, normalize_first=normalize_first)
    inputs = make_inputs()
    long = dict(inputs)
    shape = (5, 3, 4)
    long['patch_tokens'] = (
        torch.cat([inputs['patch_tokens'], torch.full(shape, padding)], dim=1)
        .detach()
        .requires_grad_()
    )
    long['valid'] = (torch.arange(9) < 6).expand(5, 9)
    expected = values_and_gradients(function, inputs, **options)
    actual = values_and_gradients(function, long, **options)
    gradient = actual['patch_tokens']
    if gradient is not None:
        assert not gradient[:, 6:].any()
        actual['patch_tokens'] = gradient[:, :6]
    assert_same(actual, expected, 1e-12)


@pytest.mark.parametrize('mode', BLOCKWISE)
def test_zero_token_stays_finite(mode):
    inputs = make_inputs()
    with torch.no_grad():
        inputs['patch_tokens'][0, 0] = 0
        inputs['patch_tokens'][1] = 0
    for value in values_and_gradients(compatibility, inputs, mode=mode).values():
        assert value is None or value.isfinite().all()


@pytest.mark.parametrize('function', FUNCTIONS)
def test_errors(function):
    inputs = make_inputs()
    with pytest.raises(ValueError, match='softmax, sigmoid, max, mean, cls'):
        function(**inputs, mode='median')
    with pytest.raises(ValueError, match='same D'):
        function(**{**inputs, 'texts': torch.zeros(7, 3)})
    with pytest.raises(ValueError, match='needs cls_tokens'):
        function(**{**inputs, 'cls_tokens': None}, mode='cls')
    with pytest.raises(ValueError, match='cls_tokens must be of shape'):
        function(**{**inputs, 'cls_tokens': torch.zeros(4, 4)}, mode='cls')
    with pytest.raises(ValueError, match='valid must be a bool tensor'):
        function(**{**inputs, 'valid': torch.ones(5, 5, dtype=torch.bool)})
    valid = torch.ones(5, 6, dtype=torch.bool)
    valid[3] = False
    with pytest.raises(ValueError, match='at least one valid token'):
        function(**{**inputs, 'valid': valid})


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(max_block_elements=0), 'max_block_elements must be at least 1'),
        (dict(matmul_dtype='half'), 'bfloat16'),
        (dict(matmul_dtype='bfloat16'), 'not for torch.float64'),
    ],
)
def test_unknown_options(options, message):
    with pytest.raises(ValueError, match=message):
        compatibility(**make_inputs(), **options)


@pytest.mark.parametrize('mode', BLOCKWISE)
@pytest.mark.parametrize('normalize_first', [False, True])
@pytest.mark.parametrize('renormalize', [True, False])
@pytest.mark.parametrize('masked', [False, True])
def test_own_caption_pooling(mode, normalize_first, renormalize, masked):
    inputs = make_inputs(masked=masked)
    tokens, texts, valid = inputs['patch_tokens'], inputs['texts'], inputs['valid']
    options = dict(mode=mode, normalize_first=normalize_first, renormalize=renormalize)
    phi = own_caption_compatibility(
        tokens, texts[1:6], texts, valid=valid, weight_scale=4.0, **options
    )
    own = compatibility_reference(
        tokens, texts, valid=valid, weight_scale=4.0, **options
    )
    rows = torch.arange(5)
    torch.testing.assert_close(phi[rows, rows + 1], own[rows, rows + 1])
    # The pooled image does not depend on the text it is compared with: each row is
    # linear in the texts' directions, of which there are more than channels.
    units = F.normalize(texts, dim=1)
    solution = torch.linalg.lstsq(units, phi.T).solution
    torch.testing.assert_close(units @ solution, phi.T)
    assert (phi - own).abs().max() > 1e-3
    phi.sum().backward()
    assert tokens.grad.isfinite().all()


def test_own_caption_pooling_leaks_the_answer():
    """Images that have nothing to do with the texts are retrieved all the same."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(64, 49, 16, generator=generator)
    texts = torch.randn(64, 16, generator=generator)
    own = torch.arange(64)
    leaky = own_caption_compatibility(tokens, texts, texts, weight_scale=10.0)
    honest = compatibility(tokens, texts, weight_scale=10.0)
    assert (leaky.argmax(dim=1) == own).float().mean() > 0.5
    assert (honest.argmax(dim=1) == own).float().mean() < 0.1


@pytest.mark.parametrize('mode', BLOCKWISE)
@pytest.mark.parametrize('masked', [False, True])
def test_weight_entropy(mode, masked, monkeypatch):
    module = sys.modules[compatibility.__module__]
    monkeypatch.setattr(module, '_DEFAULT_BLOCK_ELEMENTS_GPU', 2 * 6 * 4)
    inputs = make_inputs(masked=masked)
    tokens, texts, valid = inputs['patch_tokens'], inputs['texts'][:5], inputs['valid']
    entropy = weight_entropy(tokens, texts, mode=mode, weight_scale=3.0, valid=valid)
    assert not entropy.requires_grad
    for image in range(5):
        kept = tokens[image] if valid is None else tokens[image][valid[image]]
        scaled = [3 * cosine(k, texts[image].tolist()) for k in kept.tolist()]
        if mode == 'softmax':
            weights = [math.exp(x) for x in scaled]
        else:
            weights = [1 / (1 + math.exp(-x)) for x in scaled]
        shares = [w / sum(weights) for w in weights]
        expected = -sum(p * math.log(p) for p in shares)
        assert entropy[image].item() == pytest.approx(expected, abs=1e-12)


def test_weight_entropy_from_one_patch_to_all():
    tokens, texts = make_inputs()['patch_tokens'], make_inputs()['texts'][:5]
    one = weight_entropy(tokens, texts, weight_scale=1e5).exp()
    all_of_them = weight_entropy(tokens, texts, weight_scale=0.0).exp()
    torch.testing.assert_close(one, torch.ones_like(one))
    torch.testing.assert_close(all_of_them, torch.full_like(one, 6.0))
    with torch.no_grad():
        tokens[2, 3, 1] = float('nan')
    assert weight_entropy(tokens, texts).isnan().tolist() == [0, 0, 1, 0, 0]


def test_own_caption_errors():
    inputs = make_inputs()
    tokens, texts = inputs['patch_tokens'], inputs['texts']
    with pytest.raises(ValueError, match="'max' has no weights"):
        weight_entropy(tokens, texts[:5], mode='max')
    with pytest.raises(ValueError, match='5 images need as many own texts, not 7'):
        own_caption_compatibility(tokens, texts, texts)


@pytest.mark.parametrize(
    ('mode', 'renormalize', 'shape'),
    [
        ('softmax', True, (5, 6, 9, 20)),
        ('softmax', True, (5, 6, 9, 3)),
        ('softmax', False, (2, 4, 3, 3)),
        ('sigmoid', True, (2, 4, 3, 3)),
    ],
)
def test_compiled_parts(mode, renormalize, shape, monkeypatch):
    """What is compiled has no graph breaks and computes the same."""
    for name, part in list(blockwise._COMPILED.items()):
        fast = compiled(part.function, backend='aot_eager', fullgraph=True)
        monkeypatch.setitem(blockwise._COMPILED, name, fast)
    inputs = make_inputs(*shape, masked=True)
    options = dict(mode=mode, renormalize=renormalize)
    expected = values_and_gradients(compatibility, inputs, **options)
    actual = values_and_gradients(
        compatibility, inputs, **options, compile=True, max_block_elements=100
    )
    assert_same(actual, expected, 1e-12)
    assert not any(part.failed for part in blockwise._COMPILED.values())
    for name in ('weights', 'weights_again', 'score_gradients'):
        assert blockwise._COMPILED[name]._compiled is not None


@pytest.mark.parametrize('masked', [False, True])
def test_weights_again_from_the_log_sum_exps(masked):
    """Backward's weights are forward's, which are the softmax, at any logits."""
    generator = torch.Generator().manual_seed(0)
    r = torch.randn(2, 13, 5, generator=generator, dtype=torch.float64)
    norms = torch.rand(2, 13, 1, generator=generator, dtype=torch.float64) + 0.5
    mask = torch.arange(13)[None, :, None].ge(torch.tensor([4, 13])[:, None, None])
    mask = mask if masked else None
    options = blockwise.BlockwiseOptions(
        'softmax', False, True, r.dtype, 100, compile=False
    )
    for scale in (0.0, 3.0, 1e5):
        scale = torch.tensor(scale, dtype=torch.float64)
        logits = scale * r / norms
        if masked:
            logits = logits.masked_fill(mask, float('-inf'))
        a, numerators, total = blockwise._weights(r, norms, mask, scale, options)
        again = blockwise._weights_again(r, norms, mask, scale, total[:, None], options)
        torch.testing.assert_close(a, logits.softmax(dim=1), rtol=0, atol=1e-9)
        torch.testing.assert_close(again, a, rtol=0, atol=1e-9)
        torch.testing.assert_close(total, logits.logsumexp(dim=1))
        torch.testing.assert_close(numerators, (a * r).sum(dim=1))


@pytest.mark.parametrize('tokens', [8, 13, 196])
def test_rows_of_the_gram_matrix_are_aligned(tokens):
    gram = torch.randn(2, tokens, tokens)
    operand = blockwise._as_operand(gram, torch.bfloat16)
    assert torch.equal(operand, gram.to(torch.bfloat16))
    assert operand.stride(1) * operand.element_size() % 16 == 0
    assert operand.stride(0) == tokens * operand.stride(1)
    assert blockwise._as_operand(gram, torch.float32) is gram


class CountProducts(TorchDispatchMode):
    """Counts the multiplications of all matrix products."""

    multiplications = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split('::')[1].split('.')[0].rstrip('_')
        if name in ('mm', 'bmm', 'addmm', 'baddbmm'):
            left, right = args[-2:]
            self.multiplications += left.numel() * right.shape[-1]
        assert name not in ('matmul', 'einsum', 'dot', 'mv')
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize('renormalize', [True, False])
@pytest.mark.parametrize('texts_need_grad', [True, False])
@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('limit', [100, None])
def test_count_of_multiply_adds(renormalize, texts_need_grad, shape, limit):
    images, tokens, dim, texts = shape
    inputs = make_inputs(*shape)
    inputs['texts'].requires_grad_(texts_need_grad)
    counted = {}
    with CountProducts() as count:
        phi = compatibility(**inputs, renormalize=renormalize, max_block_elements=limit)
        counted['forward'] = count.multiplications
        phi.sum().backward()
        counted['backward'] = count.multiplications - counted['forward']
    project = images * tokens * dim * texts
    gram, pool = images * tokens**2 * dim, images * tokens**2 * texts
    forward, backward = project, (3 if texts_need_grad else 2) * project
    if renormalize:  # with the Gram matrix or, where that takes more, without it
        cheaper = 3 * gram + 3 * pool < 4 * project
        forward += gram + pool if cheaper else project
        backward += 2 * gram + 2 * pool if cheaper else 3 * project
    assert counted == dict(forward=forward, backward=backward)


class LargestOutput(TorchDispatchMode):
    """Records the element count of the largest tensor storage any operator returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                size = leaf.untyped_storage().nbytes() // leaf.element_size()
                self.elements = max(self.elements, size)
        return result


@pytest.mark.parametrize('mode', BLOCKWISE)
@pytest.mark.parametrize('normalize_first', [False, True])
@pytest.mark.parametrize('masked', [False, True])
def test_no_tensor_of_images_times_texts_times_more(mode, normalize_first, masked):
    # Without and with the Gram matrix.
    for images, tokens, dim, texts in [(32, 40, 16, 48), (32, 10, 16, 64)]:
        inputs = make_inputs(images, tokens, dim, texts, masked=masked)
        sizes = {}
        options = dict(mode=mode, normalize_first=normalize_first)
        for function, limit in (
            (compatibility_reference, {}),
            (compatibility, {'max_block_elements': 512}),
        ):
            with LargestOutput() as largest:
                values_and_gradients(function, inputs, **options, **limit)
            sizes[function] = largest.elements
        # The recorder sees what the reference holds, forward and backward.
        assert sizes[compatibility_reference] >= images * texts * max(tokens, dim)
        # The gradient of the patch tokens is the largest thing that has to exist.
        assert sizes[compatibility] == images * tokens * dim
        assert sizes[compatibility] < images * texts * min(tokens, dim)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('normalize_first', [False, True])
def test_cuda_equals_cpu(mode, normalize_first):
    inputs = make_inputs(6, 33, 24, 40, masked=True)
    on_cuda = {
        k: v.detach().cuda().requires_grad_() if k != 'valid' else v.cuda()
        for k, v in inputs.items()
    }
    options = dict(mode=mode, normalize_first=normalize_first)
    expected = values_and_gradients(compatibility_reference, inputs, **options)
    for limit in (500, None):
        actual = values_and_gradients(
            compatibility, on_cuda, **options, max_block_elements=limit
        )
        actual = {k: None if v is None else v.cpu() for k, v in actual.items()}
        assert_same(actual, expected, 1e-9)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('mode', BLOCKWISE)
@pytest.mark.parametrize('renormalize', [True, False])
def test_low_precision_products_on_cuda_equal_those_on_cpu(mode, renormalize):
    for shape in [(6, 33, 24, 40), (6, 33, 48, 5)]:
        inputs = make_inputs(*shape, dtype=torch.float32)
        on_cuda = {
            k: None if v is None else v.detach().cuda().requires_grad_()
            for k, v in inputs.items()
        }
        options = dict(mode=mode, renormalize=renormalize, matmul_dtype='bfloat16')
        expected = values_and_gradients(compatibility, inputs, **options)
        actual = values_and_gradients(compatibility, on_cuda, **options)
        actual = {k: None if v is None else v.cpu() for k, v in actual.items()}
        # Sums in another order now and then round an operand the other way.
        assert_same(actual, expected, 5e-3)
