"""Modes softmax and sigmoid of the compatibility function, in blocks.

What :func:`pacl_mmseg.ops.compatibility` consists of; call that.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from .compiled import compiled

# Below this a norm counts as zero, as in torch.nn.functional.normalize.
EPS = 1e-12


@dataclass(frozen=True)
class BlockwiseOptions:
    """Options of :class:`BlockwiseCompatibility`, as the public function describes.

    Attributes:
        operand_dtype: Precision of the matrix products' operands.
        compile: Whether to fuse what is between the products with torch.compile.
    """

    mode: str
    normalize_first: bool
    renormalize: bool
    operand_dtype: torch.dtype
    max_block_elements: int
    compile: bool


class BlockwiseCompatibility(torch.autograd.Function):
    """Modes softmax and sigmoid in blocks of images and texts.

    With unit texts t_n, weight scale w and, for one image, tokens P_k, norms
    rho_k = |P_k| and weights a_kn, everything follows from (T x texts) matrices:

        r_kn = P_k . t_n               s_kn = r_kn / rho_k
        h_kn = P_k . v_n = (G a)_kn    with the Gram matrix G = P P^T, or v = a^T P
        phi_n = num_n / den_n          num_n = sum_k a_kn r_kn
                                       den_n^2 = |v_n|^2 = sum_k a_kn h_kn

    and for the gradient g_n of phi_n, with db that of the logits b = w s,

        da_kn = g_n (r_kn / den_n - num_n h_kn / den_n^3)
        db_kn = a_kn da_kn                           (softmax)
        db_kn = a_kn (1 - a_kn) da_kn                (sigmoid)
        dr_kn = g_n a_kn / den_n + w db_kn / rho_k
        dP_k  = sum_n dr_kn t_n - sum_n q_n a_kn v_n
                - w (sum_n db_kn s_kn) P_k / rho_k^2
        q_n   = g_n num_n / den_n^3
        dt_n  = sum_k dr_kn P_k
        dw    = sum_k sum_n db_kn s_kn               (over all images)

    Softmax's backward has no term for the normalisation of the weights: phi does not
    change when a is scaled, hence sum_k a_kn da_kn = 0.

    Without re-normalisation phi_n = num_n: den_n is 1 and no h, q or v occur. Then
    sum_k a_kn da_kn = g_n num_n, which softmax's backward subtracts:

        db_kn = a_kn g_n (r_kn - num_n)              (softmax)

    With low precision operands a is rounded once and that value is used throughout.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        patch_tokens: Tensor,
        text_units: Tensor,
        weight_scale: Tensor,
        valid: Tensor | None,
        options: BlockwiseOptions,
    ) -> Tensor:
        """(B, T, D) tokens, (N, D) unit texts and a scalar to (B, N) compatibilities.

        The type of ``text_units`` is the one to compute in.
        """
        phi, lengths, totals = _forward(
            patch_tokens, text_units, weight_scale, valid, options
        )
        ctx.save_for_backward(
            patch_tokens, text_units, weight_scale, valid, phi, lengths, totals
        )
        ctx.options = options
        return phi

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_phi: Tensor) -> tuple[Tensor | None, ...]:
        """(B, N) gradient to those of tokens, texts and weight scale."""
        # On the CPU backward runs in the caller's thread, under its autocast.
        with torch.autocast(grad_phi.device.type, enabled=False):
            return (*_backward(ctx, grad_phi), None, None)


def _forward(
    patch_tokens: Tensor,
    text_units: Tensor,
    weight_scale: Tensor,
    valid: Tensor | None,
    options: BlockwiseOptions,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """phi, the lengths |v| and the log-sum-exps of the logits, each (B, N).

    There are no lengths without re-normalisation, and no log-sum-exps of sigmoid.
    """
    dtype = text_units.dtype
    texts = text_units.to(options.operand_dtype)
    weights, cosines = (_weights, _cosines)
    if options.compile:
        weights, cosines = _COMPILED['weights'], _COMPILED['cosines']
    use_gram = _gram_is_cheaper(*patch_tokens.shape[1:], len(texts))
    phi = text_units.new_empty(len(patch_tokens), len(texts))
    lengths = torch.empty_like(phi) if options.renormalize else None
    totals = torch.empty_like(phi) if options.mode == 'softmax' else None
    image_blocks, text_blocks = _blocks(patch_tokens, texts, options)
    for images in image_blocks:
        tokens, norms, mask = _load(patch_tokens[images], valid, images, dtype, options)
        gram = None
        if options.renormalize and use_gram:
            gram = _as_operand(_product(tokens, tokens.mT, dtype), tokens.dtype)
        if options.normalize_first:
            norms = None
        for columns in text_blocks:
            r = _product(tokens, texts[columns].T, dtype)
            a, numerators, total = weights(r, norms, mask, weight_scale, options)
            if totals is not None:
                totals[images, columns] = total
            if not options.renormalize:
                phi[images, columns] = numerators
                continue
            h = v = None
            if gram is None:
                v = _product(a.mT, tokens, dtype)
            else:
                h = _product(gram, a, dtype)
            phi[images, columns], lengths[images, columns] = cosines(
                numerators, a, h, v
            )
    return phi, lengths, totals


def _backward(
    ctx: FunctionCtx, grad_phi: Tensor
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of :class:`BlockwiseCompatibility`, whose names are used here."""
    patch_tokens, text_units, weight_scale, valid = ctx.saved_tensors[:4]
    phi, lengths, totals = ctx.saved_tensors[4:]
    options = ctx.options
    tokens_need_grad, texts_need_grad, scale_needs_grad = ctx.needs_input_grad[:3]
    dtype = text_units.dtype
    texts = text_units.to(options.operand_dtype)
    weights, score_gradients = (_weights_again, _score_gradients)
    if options.compile:
        weights = _COMPILED['weights_again']
        score_gradients = _COMPILED['score_gradients']
    use_gram = _gram_is_cheaper(*patch_tokens.shape[1:], len(texts))
    grad_patch_tokens = torch.empty_like(patch_tokens) if tokens_need_grad else None
    grad_texts = torch.zeros_like(text_units) if texts_need_grad else None
    grad_scale = torch.zeros_like(weight_scale) if scale_needs_grad else None

    image_blocks, text_blocks = _blocks(patch_tokens, texts, options)
    for images in image_blocks:
        tokens, token_norms, mask = _load(
            patch_tokens[images], valid, images, dtype, options
        )
        # Unit tokens need no division in s; their norm's gradient is along P_k, which
        # the gradient of the normalisation, below, removes.
        norms = None if options.normalize_first else token_norms
        gram = grad_gram = None
        if options.renormalize and use_gram:
            gram = _product(tokens, tokens.mT, dtype)
            grad_gram = torch.zeros_like(gram)
            gram = _as_operand(gram, tokens.dtype)
        grad_tokens = tokens.new_zeros(tokens.shape, dtype=dtype)
        along = tokens.new_zeros((*tokens.shape[:2], 1), dtype=dtype)
        for columns in text_blocks:
            r = _product(tokens, texts[columns].T, dtype)
            total = None if totals is None else totals[images, None, columns]
            a = weights(r, norms, mask, weight_scale, total, options)
            h = v = q = None
            g = grad_phi[images, None, columns]
            if options.renormalize:
                length = lengths[images, None, columns]
                g = g / length
                q = g * phi[images, None, columns] / length
                if gram is None:
                    v = _product(a.mT, tokens, dtype)
                    h = _product(tokens, v.to(tokens.dtype).mT, dtype)
                else:
                    h = _product(gram, a, dtype)
            dr, weighted, block_along = score_gradients(
                r, a, h, g, q, phi[images, None, columns], norms, weight_scale, options
            )
            along += block_along
            if grad_texts is not None:
                _accumulate(
                    grad_texts[columns], dr.flatten(0, 1).T, tokens.flatten(0, 1)
                )
            if grad_patch_tokens is None:
                continue
            _accumulate(grad_tokens.flatten(0, 1), dr.flatten(0, 1), texts[columns])
            if grad_gram is not None:
                _accumulate(grad_gram, weighted, a.mT)
            elif v is not None:
                _accumulate(grad_tokens, weighted, v.to(tokens.dtype), alpha=-1)
        if grad_scale is not None:
            grad_scale += along.sum()
        if grad_patch_tokens is None:
            continue
        if grad_gram is not None:
            grad_gram = _as_operand(grad_gram, tokens.dtype)
            _accumulate(grad_tokens, grad_gram, tokens, alpha=-1)
        if options.normalize_first:
            along = (grad_tokens * tokens).sum(dim=2, keepdim=True)
            grad_tokens.sub_(along * tokens).div_(token_norms)
        else:
            grad_tokens.sub_(along.mul_(weight_scale).div_(norms**2) * tokens)
        grad_patch_tokens[images] = grad_tokens
    return grad_patch_tokens, grad_texts, grad_scale


def _load(
    tokens: Tensor,
    valid: Tensor | None,
    images: slice,
    dtype: torch.dtype,
    options: BlockwiseOptions,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """One block of tokens, as operands.

    Returns:
        Tokens (b, T, D) in the operands' type, padding zeroed, of unit length if they
        are normalised first; norms (b, T, 1) in ``dtype``; padding (b, T, 1) bool.
    """
    mask = None
    if valid is not None:
        mask = ~valid[images, :, None]
        tokens = tokens.masked_fill(mask, 0)
    norms = torch.linalg.vector_norm(tokens, dim=2, keepdim=True, dtype=dtype)
    norms.clamp_min_(EPS)
    if options.normalize_first:
        tokens = tokens / norms
    return tokens.to(options.operand_dtype).contiguous(), norms, mask


def _weights(
    r: Tensor,
    norms: Tensor | None,
    mask: Tensor | None,
    weight_scale: Tensor,
    options: BlockwiseOptions,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Pooling weights and what else is known where projections r (b, T, n) are read.

    Returns:
        a (b, T, n), as operands; the numerators sum_k a_kn r_kn, (b, n); the
        log-sum-exps of the logits over the patches, (b, n), None for sigmoid.
    """
    logits = _logits(r, norms, mask, weight_scale)
    total = None
    if options.mode == 'sigmoid':
        weights = logits.sigmoid_()
    else:
        # What softmax does inside, which keeps what the log-sum-exp needs.
        largest = logits.amax(dim=1, keepdim=True)
        weights = logits.sub_(largest).exp_()
        exponentials = weights.sum(dim=1, keepdim=True)
        weights.div_(exponentials)
        total = (largest + exponentials.log())[:, 0]
    a = weights.to(options.operand_dtype)
    return a, (a * r).sum(dim=1), total


def _weights_again(
    r: Tensor,
    norms: Tensor | None,
    mask: Tensor | None,
    weight_scale: Tensor,
    total: Tensor | None,
    options: BlockwiseOptions,
) -> Tensor:
    """Weights of :func:`_weights` from its log-sum-exps (b, 1, n): no reduction."""
    logits = _logits(r, norms, mask, weight_scale)
    weights = logits.sigmoid_() if total is None else logits.sub_(total).exp_()
    return weights.to(options.operand_dtype)


def _logits(
    r: Tensor, norms: Tensor | None, mask: Tensor | None, weight_scale: Tensor
) -> Tensor:
    """Logits (b, T, n) of the weights, -inf where the mask (b, T, 1) is set."""
    logits = r * (weight_scale if norms is None else weight_scale / norms)
    if mask is not None:
        logits.masked_fill_(mask, float('-inf'))
    return logits


def _cosines(
    numerators: Tensor, a: Tensor, h: Tensor | None, v: Tensor | None
) -> tuple[Tensor, Tensor]:
    """phi and the lengths |v|, both (b, n), from h (b, T, n) or from v (b, n, D)."""
    squared = (h * a).sum(dim=1) if v is None else v.square().sum(dim=2)
    # |v| >= |v . t|: holds |phi| to 1 where tokens cancel and rounding prevails.
    lengths = squared.maximum(numerators.square()).sqrt().clamp_min(EPS)
    return numerators / lengths, lengths


def _score_gradients(
    r: Tensor,
    a: Tensor,
    h: Tensor | None,
    g: Tensor,
    q: Tensor | None,
    phi: Tensor,
    norms: Tensor | None,
    weight_scale: Tensor,
    options: BlockwiseOptions,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """What backward needs beside matrix products, for one block.

    Args:
        r, a, h: (b, T, n), as in :class:`BlockwiseCompatibility`.
        g, q, phi: (b, 1, n); g divided by den already, which is 1 without h.
        norms: (b, T, 1).

    Returns:
        dr and q a, (b, T, n), as operands, and sum_n db_kn s_kn, (b, T, 1).
    """
    weights = a.to(r.dtype)
    if h is not None:
        db = (r * g).addcmul_(h, q, value=-1).mul_(weights)
    elif options.mode == 'softmax':
        db = (r - phi).mul_(g).mul_(weights)
    else:
        db = (r * g).mul_(weights)
    if options.mode == 'sigmoid':
        db.addcmul_(db, weights, value=-1)
    along = (db * r).sum(dim=2, keepdim=True)
    if norms is None:
        db.mul_(weight_scale)
    else:
        along /= norms
        db.mul_(weight_scale / norms)
    dr = db.addcmul_(weights, g).to(a.dtype)
    return dr, None if q is None else (weights * q).to(a.dtype), along


# One each per process: torch.compile tells options apart, and shapes up to the second,
# for which it compiles code for any size.
_COMPILED = {
    'weights': compiled(_weights),
    'weights_again': compiled(_weights_again),
    'cosines': compiled(_cosines),
    'score_gradients': compiled(_score_gradients),
}


def _as_operand(gram: Tensor, dtype: torch.dtype) -> Tensor:
    """A (b, T, T) result in the type of the operands, each row at 16 bytes.

    Otherwise cuBLAS could not use its fastest kernels on 16-bit rows of, say, T = 196.
    """
    if gram.dtype == dtype:
        return gram
    count = gram.shape[2]
    rows = gram.new_empty(*gram.shape[:2], count + -count % 8, dtype=dtype)
    return rows[:, :, :count].copy_(gram)


def _product(left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """(b, m, k) times (b, k, n) or (k, n), accumulated and returned in ``dtype``."""
    if left.dtype == dtype:
        return left @ right
    if left.is_cuda and 'dtype' in torch.ops.aten.bmm.overloads():
        if right.dim() == 2:
            flat = torch.mm(left.flatten(0, 1), right, out_dtype=dtype)
            return flat.unflatten(0, left.shape[:2])
        return torch.bmm(left, right, out_dtype=dtype)
    # The same values, slower: products of rounded operands are exact in `dtype`.
    return left.to(dtype) @ right.to(dtype)


def _accumulate(total: Tensor, left: Tensor, right: Tensor, alpha: float = 1) -> None:
    """total += alpha left @ right, for matrices or batches of them, in place."""
    if left.dtype == total.dtype:
        add = total.addmm_ if total.dim() == 2 else total.baddbmm_
        add(left, right, alpha=alpha)
    elif total.dim() == 2:
        total.add_(_product(left[None], right, total.dtype)[0], alpha=alpha)
    else:
        total.add_(_product(left, right, total.dtype), alpha=alpha)


def _gram_is_cheaper(tokens: int, dim: int, texts: int) -> bool:
    """Whether forward and backward multiply less with G = P P^T than without it.

    Per image, with G: 3 T N D + 3 T^2 D + 3 T^2 N multiplications; without: 7 T N D.
    """
    return 3 * tokens * (dim + texts) < 4 * texts * dim


def _blocks(
    patch_tokens: Tensor, texts: Tensor, options: BlockwiseOptions
) -> tuple[list[slice], list[slice]]:
    """Slices of images and texts such that T x images x texts is within the limit.

    The (images, T, D) copies of a block stay within it too, where it has more than
    one image.
    """
    images, tokens, dim = patch_tokens.shape
    limit = options.max_block_elements
    text_step = min(len(texts), max(1, limit // tokens))
    image_step = max(1, limit // (tokens * max(text_step, dim)))
    return _slices(images, image_step), _slices(len(texts), text_step)


def _slices(total: int, step: int) -> list[slice]:
    """Consecutive slices of `step` items over `total`; the last may reach beyond."""
    return [slice(start, start + step) for start in range(0, total, step)]
