"""Forward of the compatibility function as one Triton kernel.

A program holds the weights of one image over a block of texts in registers and writes
phi, the lengths |v| and the logits' log-sum-exps alone. Its tile sizes are chosen to
fit the registers and shared memory of one multiprocessor, not tuned: the kernel has
been tested in Triton's interpreter only.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .compatibility_blockwise import BlockwiseOptions

try:
    import triton
    import triton.language as tl
except ImportError:  # not on every platform
    triton = None

# All patches of an image have to fit one tile.
MAX_TOKENS = 256

_BLOCK_TEXTS = 64
_BLOCK_CHANNELS = 64
_WARPS = 8

_LOGGER = logging.getLogger(__name__)
_REPORTED: set[str] = set()
# What the kernel failed with, if it did; it is not tried again.
_FAILURES: list[str] = []


def report_blocks(reason: str) -> None:
    """Warn that blocks replace the kernel, once per reason."""
    if reason not in _REPORTED:
        _REPORTED.add(reason)
        _LOGGER.warning("implementation='triton' is computed in blocks, as %s.", reason)


def give_up(error: Exception) -> None:
    """Make an error of the kernel the obstacle from now on, and warn of it."""
    lines = str(error).strip().splitlines() or ['no reason given']
    _FAILURES[:] = [f'the kernel failed ({type(error).__name__}: {lines[0]})']
    report_blocks(_FAILURES[0])


def triton_obstacle(
    patch_tokens: Tensor, compute_dtype: torch.dtype, operand_dtype: torch.dtype
) -> str | None:
    """Why the kernel cannot serve these inputs; None if it can.

    Args:
        patch_tokens: (B, T, D).
        compute_dtype: Type of the result.
        operand_dtype: Type of the matrix products' operands.
    """
    if triton is None:
        return 'Triton is not installed'
    interpreted = os.environ.get('TRITON_INTERPRET') == '1'
    if not (patch_tokens.is_cuda or interpreted):
        return f'it does not run on {patch_tokens.device.type}'
    if _FAILURES:
        return _FAILURES[0]
    if interpreted and operand_dtype == torch.bfloat16:
        return 'its interpreter does not multiply bfloat16'
    if patch_tokens.shape[1] > MAX_TOKENS:
        return f'{patch_tokens.shape[1]} tokens per image are above {MAX_TOKENS}'
    if compute_dtype != torch.float32:
        return f'it computes in float32, not {compute_dtype}'
    if operand_dtype == torch.float32 and not interpreted:
        return 'it would multiply float32 without tensor cores: set matmul_dtype'
    return None


def triton_forward(
    patch_tokens: Tensor,
    text_units: Tensor,
    weight_scale: Tensor,
    valid: Tensor | None,
    options: BlockwiseOptions,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """phi, the lengths |v| and the log-sum-exps of the logits, each (B, N).

    There are no lengths without re-normalisation, and no log-sum-exps of sigmoid.

    Args:
        patch_tokens: (B, T, D).
        text_units: (N, D) of unit length, float32.
        weight_scale: Scalar, float32.
        valid: (B, T) bool or None.
        options: As :class:`BlockwiseCompatibility` gets.
    """
    images, tokens, dim = patch_tokens.shape
    if valid is not None:
        patch_tokens = patch_tokens.masked_fill(~valid[:, :, None], 0)
        valid = valid.contiguous().view(torch.uint8)
    norms = torch.linalg.vector_norm(patch_tokens, dim=2, dtype=text_units.dtype)
    operands = patch_tokens.to(options.operand_dtype).contiguous()
    texts = text_units.to(options.operand_dtype).contiguous()
    phi = text_units.new_empty(images, len(texts))
    lengths = torch.empty_like(phi) if options.renormalize else None
    totals = torch.empty_like(phi) if options.mode == 'softmax' else None
    text_blocks = triton.cdiv(len(texts), _BLOCK_TEXTS)
    _forward_kernel[(images * text_blocks,)](
        operands,
        texts,
        norms,
        weight_scale,
        valid,
        phi,
        lengths,
        totals,
        len(texts),
        text_blocks,
        TOKENS=tokens,
        DIM=dim,
        SIGMOID=options.mode == 'sigmoid',
        NORMALIZE_FIRST=options.normalize_first,
        RENORMALIZE=options.renormalize,
        MASKED=valid is not None,
        # Otherwise float32 operands would be rounded to TF32.
        PRECISION='ieee',
        PADDED_TOKENS=max(16, triton.next_power_of_2(tokens)),
        BLOCK_TEXTS=_BLOCK_TEXTS,
        BLOCK_CHANNELS=_BLOCK_CHANNELS,
        num_warps=_WARPS,
    )
    return phi, lengths, totals


if triton is not None:

    @triton.jit
    def _forward_kernel(
        tokens_ptr,
        texts_ptr,
        norms_ptr,
        scale_ptr,
        valid_ptr,
        phi_ptr,
        lengths_ptr,
        totals_ptr,
        texts,
        text_blocks,
        TOKENS: tl.constexpr,
        DIM: tl.constexpr,
        SIGMOID: tl.constexpr,
        NORMALIZE_FIRST: tl.constexpr,
        RENORMALIZE: tl.constexpr,
        MASKED: tl.constexpr,
        PRECISION: tl.constexpr,
        PADDED_TOKENS: tl.constexpr,
        BLOCK_TEXTS: tl.constexpr,
        BLOCK_CHANNELS: tl.constexpr,
    ):
        # Neighbours share an image, whose tokens then stay in the cache.
        image = (tl.program_id(0) // text_blocks).to(tl.int64)
        k = tl.arange(0, PADDED_TOKENS)
        n = tl.program_id(0) % text_blocks * BLOCK_TEXTS + tl.arange(0, BLOCK_TEXTS)
        real = k < TOKENS
        inside = n < texts
        token_rows = tokens_ptr + (image * TOKENS + k[:, None]) * DIM
        text_columns = texts_ptr + n[None, :].to(tl.int64) * DIM

        r = tl.zeros((PADDED_TOKENS, BLOCK_TEXTS), dtype=tl.float32)
        for first in range(0, DIM, BLOCK_CHANNELS):
            d = first + tl.arange(0, BLOCK_CHANNELS)
            p = tl.load(
                token_rows + d[None, :], real[:, None] & (d[None, :] < DIM), other=0.0
            )
            t = tl.load(
                text_columns + d[:, None],
                inside[None, :] & (d[:, None] < DIM),
                other=0.0,
            )
            r = tl.dot(p, t, r, input_precision=PRECISION)

        norms = tl.load(norms_ptr + image * TOKENS + k, real, other=1.0)
        norms = tl.maximum(norms, 1e-12)[:, None]
        if MASKED:
            real = real & (tl.load(valid_ptr + image * TOKENS + k, real, other=0) != 0)
        logits = tl.load(scale_ptr) * r / norms
        if SIGMOID:
            a = tl.where(real[:, None], tl.sigmoid(logits), 0.0)
        else:
            logits = tl.where(real[:, None], logits, float('-inf'))
            largest = tl.max(logits, axis=0)
            a = tl.exp(logits - largest[None, :])
            total = tl.sum(a, axis=0)
            a = a / total[None, :]
            # As backward needs it to have the weights again.
            total = largest + tl.log(total)
            tl.store(totals_ptr + image * texts + n, total, inside)
        if NORMALIZE_FIRST:
            # Tokens of no length are zero; half precision must not see the quotient.
            a = tl.where(norms > 1e-12, a / norms, 0.0)
        operand = tokens_ptr.dtype.element_ty
        rounded = a.to(operand)
        phi = tl.sum(rounded.to(tl.float32) * r, axis=0)

        if RENORMALIZE:
            squared = tl.zeros((BLOCK_TEXTS,), dtype=tl.float32)
            pool = tl.trans(rounded)
            for first in range(0, DIM, BLOCK_CHANNELS):
                d = first + tl.arange(0, BLOCK_CHANNELS)
                p = tl.load(
                    token_rows + d[None, :],
                    (k < TOKENS)[:, None] & (d[None, :] < DIM),
                    other=0.0,
                )
                v = tl.dot(pool, p, input_precision=PRECISION)
                squared += tl.sum(v * v, axis=1)
            # As in the blocks: |v| >= |v . t|.
            lengths = tl.sqrt(tl.maximum(squared, phi * phi))
            lengths = tl.maximum(lengths, 1e-12)
            phi = phi / lengths
            tl.store(lengths_ptr + image * texts + n, lengths, inside)
        tl.store(phi_ptr + image * texts + n, phi, inside)
