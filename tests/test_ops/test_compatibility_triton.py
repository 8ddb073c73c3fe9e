"""The Triton kernel of the compatibility function, in Triton's interpreter.

The interpreter is chosen when Triton is imported, hence a process of its own: this
file is run there as a script.
"""

import itertools
import os
import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode


def worst_errors() -> dict[str, float]:
    """Largest error of values and gradients against float64, per kind of operands."""
    from pacl_mmseg.ops import compatibility, compatibility_reference
    from pacl_mmseg.ops import compatibility_triton as kernel

    reported = kernel._REPORTED
    runs = []
    forward = kernel.triton_forward
    blockwise = sys.modules['pacl_mmseg.ops.compatibility_blockwise']
    blockwise.triton_forward = lambda *args: runs.append(1) or forward(*args)
    torch.manual_seed(0)
    errors = {'None': 0.0, 'float16': 0.0}
    cases = 0
    # Ragged in patches, channels and texts; one and two blocks of the latter two.
    for shape, mode, normalize_first, renormalize, masked, dtype in itertools.product(
        [(2, 5, 7, 3), (2, 17, 70, 66)],
        ['softmax', 'sigmoid'],
        [False, True],
        [True, False],
        [False, True],
        [None, 'float16'],
    ):
        images, count, dim, number = shape
        tokens = torch.randn(images, count, dim, requires_grad=True)
        texts = torch.randn(number, dim, requires_grad=True)
        scale = torch.tensor(3.0, requires_grad=True)
        valid = None
        if masked:
            valid = torch.arange(count) < torch.tensor([[count - 2], [1]])
        options = dict(
            mode=mode,
            weight_scale=scale,
            normalize_first=normalize_first,
            renormalize=renormalize,
            valid=valid,
        )
        leaves = (tokens, texts, scale)
        phi = compatibility(
            tokens, texts, implementation='triton', matmul_dtype=dtype, **options
        )
        actual = (phi, *torch.autograd.grad(phi.square().sum(), leaves))
        phi = compatibility_reference(tokens.double(), texts.double(), **options)
        expected = (phi, *torch.autograd.grad(phi.square().sum(), leaves))
        for left, right in zip(actual, expected, strict=True):
            error = (left - right).abs().max() / right.abs().max().clamp(min=1)
            errors[str(dtype)] = max(errors[str(dtype)], error.item())
        cases += 1
    assert len(runs) == cases and not reported
    # What it cannot do is done in blocks, and said.
    few = torch.randn(1, 300, 4)
    other = torch.randn(2, 4)
    phi = compatibility(few, other, implementation='triton')
    assert torch.equal(phi, compatibility(few, other))
    compatibility(few.double(), other, implementation='triton')
    assert len(runs) == cases and len(reported) == 1
    fails_once_and_for_all()
    return errors


def fails_once_and_for_all() -> None:
    """A kernel that does not compile is replaced by blocks; not one without memory."""
    from pacl_mmseg.ops import compatibility
    from pacl_mmseg.ops import compatibility_triton as kernel

    tokens, texts = torch.randn(2, 5, 7, requires_grad=True), torch.randn(3, 7)
    reported = len(kernel._REPORTED)
    compatibility(tokens, texts, implementation='triton')
    assert not kernel._FAILURES
    forward_kernel = kernel._forward_kernel

    class WithoutMemory:
        def __getitem__(self, grid):
            raise torch.OutOfMemoryError('no memory left')

    kernel._forward_kernel = WithoutMemory()
    with pytest.raises(torch.OutOfMemoryError):
        compatibility(tokens, texts, implementation='triton')
    assert not kernel._FAILURES
    kernel._forward_kernel = forward_kernel
    kernel._BLOCK_TEXTS = 3  # tiles are powers of two
    for _ in range(2):
        phi = compatibility(tokens, texts, implementation='triton')
        assert torch.equal(phi, compatibility(tokens, texts))
        (gradient,) = torch.autograd.grad(phi.sum(), tokens)
        assert gradient.isfinite().all()
    assert len(kernel._FAILURES) == 1 and len(kernel._REPORTED) == reported + 1


def test_what_the_kernel_cannot_serve(monkeypatch):
    pytest.importorskip('triton')
    from pacl_mmseg.ops.compatibility_triton import triton_obstacle

    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    single, half = torch.float32, torch.bfloat16
    with FakeTensorMode():  # which needs no device
        tokens = torch.empty(2, 5, 8, device='cuda')
        assert triton_obstacle(tokens, single, half) is None
        assert 'tensor cores' in triton_obstacle(tokens, single, single)
        assert 'float64' in triton_obstacle(tokens, torch.float64, torch.float64)
        many = torch.empty(2, 257, 8, device='cuda')
        assert '257 tokens' in triton_obstacle(many, single, half)
    assert 'cpu' in triton_obstacle(torch.empty(2, 5, 8), single, half)


def test_equals_reference_in_the_interpreter():
    pytest.importorskip('triton')
    environment = {**os.environ, 'TRITON_INTERPRET': '1'}
    result = subprocess.run(
        [sys.executable, __file__],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    exact, rounded = map(float, result.stdout.split()[-2:])
    assert 0 < exact < 2e-5
    assert 0 < rounded < 5e-3


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('matmul_dtype', [None, 'bfloat16', 'float16'])
@pytest.mark.parametrize('mode', ['softmax', 'sigmoid'])
@pytest.mark.parametrize('normalize_first', [False, True])
@pytest.mark.parametrize('renormalize', [True, False])
def test_equals_reference_on_cuda(matmul_dtype, mode, normalize_first, renormalize):
    from pacl_mmseg.ops import compatibility, compatibility_reference

    torch.manual_seed(0)
    tokens, texts = torch.randn(3, 196, 512).cuda(), torch.randn(130, 512).cuda()
    options = dict(mode=mode, normalize_first=normalize_first, renormalize=renormalize)
    expected = compatibility_reference(tokens.double(), texts.double(), **options)
    bound = {None: 2e-5, 'bfloat16': 3e-2, 'float16': 5e-3}[matmul_dtype]
    for implementation in ('triton', 'blockwise'):
        phi = compatibility(
            tokens,
            texts,
            implementation=implementation,
            matmul_dtype=matmul_dtype,
            **options,
        )
        error = (phi - expected).abs().max() / expected.abs().max()
        assert error < bound, implementation


if __name__ == '__main__':
    torch.set_num_threads(1)
    print(*worst_errors().values())
