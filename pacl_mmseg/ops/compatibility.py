"""The compatibility function of PACL between every image and every text.

For image i with patch tokens P_ik (k = 1..T) and text j with embedding t_j, PACL
(Mukhoti et al., CVPR 2023, arXiv 2212.04994, section 3) defines

    s_ijk = cos(P_ik, t_j)                      similarity of a patch and the text
    a_ij. = softmax_k(weight_scale * s_ij.)     weights over the patches
    v_ij  = sum_k a_ijk P_ik                    image pooled for that text
    phi_ij = cos(v_ij, t_j)

:func:`compatibility_reference` writes this down literally and holds tensors of
B x T x N and B x N x D elements. :func:`compatibility` computes the same values and
gradients in blocks and holds neither.

Modes (``MODES``), which differ in how the image is pooled:

* ``softmax``: PACL, as above; ``weight_scale`` is 1 by default.
* ``sigmoid``: a_ijk = sigmoid(weight_scale * s_ijk), with ``weight_scale`` 10 by
  default, as in github.com/NMS05/Patch-Aligned-Contrastive-Learning. The weights need
  not sum to one: phi does not depend on the length of v.
* ``max``: elementwise maximum over the patches, as in CLIPpy (arXiv 2210.09996).
* ``mean``: mean over the patches.
* ``cls``: the class token in place of pooled patches, as in CLIP.

The last three pool without regard to the text and ignore ``weight_scale``.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

MODES = ('softmax', 'sigmoid', 'max', 'mean', 'cls')

_DEFAULT_WEIGHT_SCALE = {'softmax': 1.0, 'sigmoid': 10.0}

# Below this a norm counts as zero, as in torch.nn.functional.normalize.
_EPS = 1e-12

# Elements of one (images x patches x texts) block; backward holds about five such
# blocks. On a CPU they should stay near the cache, a GPU needs large ones to be busy.
_DEFAULT_BLOCK_ELEMENTS_CPU = 2**20
_DEFAULT_BLOCK_ELEMENTS_GPU = 2**26


def compatibility_reference(
    patch_tokens: Tensor,
    texts: Tensor,
    *,
    mode: str = 'softmax',
    weight_scale: float | None = None,
    normalize_first: bool = False,
    valid: Tensor | None = None,
    cls_tokens: Tensor | None = None,
) -> Tensor:
    """Compatibility of every image with every text, by the formulas and autograd.

    Takes memory of B x T x N and B x N x D elements; it is what
    :func:`compatibility` is tested and measured against.

    Args:
        patch_tokens: (B, T, D) patch tokens in the space of the texts; they need not
            be of unit length.
        texts: (N, D) text embeddings, of any length.
        mode: One of ``MODES``, see the module's description.
        weight_scale: Factor on the cosine similarities before softmax or sigmoid
            (an inverse temperature, no unit). None: 1 for softmax, 10 for sigmoid.
        normalize_first: Bring tokens to unit length before they are pooled.
        valid: (B, T) bool, True where a token is real. The content of other tokens
            does not matter and their gradient is zero. None: all are real.
        cls_tokens: (B, D) class tokens; needed, and used, by mode ``cls`` only.

    Returns:
        (B, N) cosines in [-1, 1], float64 for float64 inputs and float32 for any
        other.

    Raises:
        ValueError: Unknown mode, shapes that do not fit, an image without a valid
            token, or mode ``cls`` without class tokens.
    """
    _check(patch_tokens, texts, mode, valid, cls_tokens)
    with torch.autocast(patch_tokens.device.type, enabled=False):
        if mode not in _DEFAULT_WEIGHT_SCALE:
            return _text_independent(
                patch_tokens, texts, mode, normalize_first, valid, cls_tokens
            )
        if weight_scale is None:
            weight_scale = _DEFAULT_WEIGHT_SCALE[mode]
        dtype = _compute_dtype(patch_tokens, texts)
        tokens = patch_tokens.to(dtype)
        if valid is not None:
            tokens = tokens.masked_fill(~valid[:, :, None], 0)
        text_units = F.normalize(texts.to(dtype), dim=-1, eps=_EPS)
        token_units = F.normalize(tokens, dim=-1, eps=_EPS)

        logits = weight_scale * torch.einsum('btd,nd->btn', token_units, text_units)
        if valid is not None:
            logits = logits.masked_fill(~valid[:, :, None], float('-inf'))
        weights = logits.softmax(dim=1) if mode == 'softmax' else logits.sigmoid()
        values = token_units if normalize_first else tokens
        pooled = torch.einsum('btn,btd->bnd', weights, values)
        pooled_units = F.normalize(pooled, dim=-1, eps=_EPS)
        return torch.einsum('bnd,nd->bn', pooled_units, text_units)


def compatibility(
    patch_tokens: Tensor,
    texts: Tensor,
    *,
    mode: str = 'softmax',
    weight_scale: float | None = None,
    normalize_first: bool = False,
    valid: Tensor | None = None,
    cls_tokens: Tensor | None = None,
    max_block_elements: int | None = None,
) -> Tensor:
    """Compatibility of every image with every text, in little memory.

    Same values and gradients as :func:`compatibility_reference`, up to rounding; no
    double backward. In modes softmax and sigmoid nothing of B x T x N or B x N x D
    elements is held, in forward or backward: blocks are recomputed in backward, and
    only the arguments and one (B, N) tensor beside the result are kept. Half
    precision inputs are computed in float32 and get gradients of their own type; the
    result does not depend on autocast.

    Args:
        patch_tokens: As in :func:`compatibility_reference`, (B, T, D).
        texts: As there, (N, D).
        mode: As there.
        weight_scale: As there.
        normalize_first: As there.
        valid: As there, (B, T) bool.
        cls_tokens: As there, (B, D).
        max_block_elements: Upper limit for the elements of one images x patches x
            texts block (a block has at least one image and one text). None: 2**20 on
            the CPU, 2**26 elsewhere.

    Returns:
        (B, N) cosines in [-1, 1], float64 for float64 inputs and float32 for any
        other.

    Raises:
        ValueError: As :func:`compatibility_reference`, and for
            ``max_block_elements`` below 1.
    """
    _check(patch_tokens, texts, mode, valid, cls_tokens)
    if max_block_elements is None:
        on_cpu = patch_tokens.device.type == 'cpu'
        max_block_elements = (
            _DEFAULT_BLOCK_ELEMENTS_CPU if on_cpu else _DEFAULT_BLOCK_ELEMENTS_GPU
        )
    if max_block_elements < 1:
        raise ValueError(
            f'max_block_elements must be at least 1, not {max_block_elements}.'
        )
    with torch.autocast(patch_tokens.device.type, enabled=False):
        if mode not in _DEFAULT_WEIGHT_SCALE:
            return _text_independent(
                patch_tokens, texts, mode, normalize_first, valid, cls_tokens
            )
        if weight_scale is None:
            weight_scale = _DEFAULT_WEIGHT_SCALE[mode]
        dtype = _compute_dtype(patch_tokens, texts)
        text_units = F.normalize(texts.to(dtype), dim=-1, eps=_EPS)
        return _BlockwiseCompatibility.apply(
            patch_tokens,
            text_units,
            valid,
            mode,
            float(weight_scale),
            normalize_first,
            max_block_elements,
        )


def _check(
    patch_tokens: Tensor,
    texts: Tensor,
    mode: str,
    valid: Tensor | None,
    cls_tokens: Tensor | None,
) -> None:
    """Raise ValueError where the arguments of the two functions do not fit."""
    if mode not in MODES:
        raise ValueError(f'Unknown mode {mode!r}; the modes are {", ".join(MODES)}.')
    shape = tuple(patch_tokens.shape)
    if patch_tokens.dim() != 3 or texts.dim() != 2 or shape[2] != texts.shape[1]:
        raise ValueError(
            'patch_tokens must be (B, T, D) and texts (N, D) with the same D, not '
            f'{shape} and {tuple(texts.shape)}.'
        )
    if shape[1] == 0:
        raise ValueError('patch_tokens must have at least one token per image.')
    if valid is not None:
        if tuple(valid.shape) != shape[:2] or valid.dtype != torch.bool:
            raise ValueError(
                f'valid must be a bool tensor of shape {shape[:2]}, not '
                f'{valid.dtype} of shape {tuple(valid.shape)}.'
            )
        if not valid.any(dim=1).all():
            raise ValueError('Every image must have at least one valid token.')
    if mode == 'cls':
        if cls_tokens is None:
            raise ValueError("Mode 'cls' needs cls_tokens.")
        if tuple(cls_tokens.shape) != (shape[0], shape[2]):
            raise ValueError(
                f'cls_tokens must be of shape {(shape[0], shape[2])}, not '
                f'{tuple(cls_tokens.shape)}.'
            )


def _compute_dtype(patch_tokens: Tensor, texts: Tensor) -> torch.dtype:
    """Type to compute in: the wider of the two inputs' types, at least float32."""
    dtype = torch.promote_types(patch_tokens.dtype, texts.dtype)
    return torch.promote_types(dtype, torch.float32)


def _text_independent(
    patch_tokens: Tensor,
    texts: Tensor,
    mode: str,
    normalize_first: bool,
    valid: Tensor | None,
    cls_tokens: Tensor | None,
) -> Tensor:
    """Compatibility in modes max, mean and cls; arguments and result as above."""
    dtype = _compute_dtype(patch_tokens, texts)
    if mode == 'cls':
        pooled = cls_tokens.to(dtype)
        if normalize_first:
            pooled = F.normalize(pooled, dim=-1, eps=_EPS)
    else:
        tokens = patch_tokens
        if valid is not None:
            tokens = tokens.masked_fill(~valid[:, :, None], 0)
        if normalize_first:
            tokens = F.normalize(tokens.to(dtype), dim=-1, eps=_EPS)
        if mode == 'max':
            if valid is not None:
                tokens = tokens.masked_fill(~valid[:, :, None], float('-inf'))
            pooled = tokens.amax(dim=1).to(dtype)
        else:
            # The sum serves as well as the mean: only its direction is used.
            pooled = tokens.sum(dim=1, dtype=dtype)
    pooled_units = F.normalize(pooled, dim=-1, eps=_EPS)
    return pooled_units @ F.normalize(texts.to(dtype), dim=-1, eps=_EPS).T


class _BlockwiseCompatibility(torch.autograd.Function):
    """Modes softmax and sigmoid in blocks of images and texts.

    With unit texts t_n and, for one image, tokens P_k, norms rho_k = |P_k| and
    weights a_kn, everything follows from (T x texts) matrices:

        r_kn = P_k . t_n               s_kn = r_kn / rho_k
        h_kn = P_k . v_n = (G a)_kn    with the Gram matrix G = P P^T, or v = a^T P
        phi_n = num_n / den_n          num_n = sum_k a_kn r_kn
                                       den_n^2 = |v_n|^2 = sum_k a_kn h_kn

    and for the gradient g_n of phi_n

        da_kn = g_n (r_kn / den_n - num_n h_kn / den_n^3)
        ds_kn = weight_scale a_kn da_kn              (softmax)
        ds_kn = weight_scale a_kn (1 - a_kn) da_kn   (sigmoid)
        dr_kn = g_n a_kn / den_n + ds_kn / rho_k
        dP_k  = sum_n dr_kn t_n - sum_n q_n a_kn v_n - (sum_n ds_kn s_kn) P_k / rho_k^2
        q_n   = g_n num_n / den_n^3
        dt_n  = sum_k dr_kn P_k

    Softmax's backward has no term for the normalisation of the weights: phi does not
    change when a is scaled, hence sum_k a_kn da_kn = 0.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        patch_tokens: Tensor,
        text_units: Tensor,
        valid: Tensor | None,
        mode: str,
        weight_scale: float,
        normalize_first: bool,
        max_block_elements: int,
    ) -> Tensor:
        """(B, T, D) tokens and (N, D) unit texts to (B, N) cosines."""
        image_blocks, text_blocks = _blocks(
            patch_tokens, text_units, max_block_elements
        )
        use_gram = _gram_is_cheaper(patch_tokens, text_units)
        phi = text_units.new_empty(len(patch_tokens), len(text_units))
        lengths = torch.empty_like(phi)
        for images in image_blocks:
            mask = None if valid is None else valid[images]
            tokens, norms = _load(patch_tokens[images], mask, text_units.dtype)
            if normalize_first:
                tokens, norms = tokens / norms, None
            gram = torch.bmm(tokens, tokens.mT) if use_gram else None
            for columns in text_blocks:
                r = tokens @ text_units[columns].T
                a = _weights(r, norms, mask, mode, weight_scale)
                if gram is None:
                    length = torch.bmm(a.mT, tokens).norm(dim=2)
                else:
                    squared = torch.bmm(gram, a).mul_(a).sum(dim=1)
                    length = squared.clamp_min_(_EPS**2).sqrt_()
                length.clamp_min_(_EPS)
                lengths[images, columns] = length
                phi[images, columns] = a.mul_(r).sum(dim=1).div_(length)
        ctx.save_for_backward(patch_tokens, text_units, valid, phi, lengths)
        ctx.options = (mode, weight_scale, normalize_first)
        ctx.blocks = (image_blocks, text_blocks)
        return phi

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_phi: Tensor) -> tuple[Tensor | None, ...]:
        """(B, N) gradient to those of the tokens (B, T, D) and the texts (N, D)."""
        # On the CPU backward runs in the caller's thread, under its autocast.
        with torch.autocast(grad_phi.device.type, enabled=False):
            return (*_blockwise_backward(ctx, grad_phi), *[None] * 5)


def _blockwise_backward(
    ctx: FunctionCtx, grad_phi: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of :class:`_BlockwiseCompatibility`, whose names are used here."""
    patch_tokens, text_units, valid, phi, lengths = ctx.saved_tensors
    mode, weight_scale, normalize_first = ctx.options
    image_blocks, text_blocks = ctx.blocks
    tokens_need_grad, texts_need_grad = ctx.needs_input_grad[:2]
    use_gram = _gram_is_cheaper(patch_tokens, text_units)
    grad_patch_tokens = torch.empty_like(patch_tokens) if tokens_need_grad else None
    grad_texts = torch.zeros_like(text_units) if texts_need_grad else None

    for images in image_blocks:
        mask = None if valid is None else valid[images]
        tokens, token_norms = _load(patch_tokens[images], mask, text_units.dtype)
        # Unit tokens need no division in s; their norm's gradient is along P_k, which
        # the gradient of the normalisation, below, removes.
        norms = token_norms
        if normalize_first:
            tokens, norms = tokens / token_norms, None
        flat_tokens = tokens.flatten(0, 1)
        gram = torch.bmm(tokens, tokens.mT) if use_gram else None
        grad_tokens = torch.zeros_like(tokens)
        grad_gram = None if gram is None else torch.zeros_like(gram)
        for columns in text_blocks:
            block_texts = text_units[columns]
            r = tokens @ block_texts.T
            a = _weights(r, norms, mask, mode, weight_scale)
            length = lengths[images, None, columns]
            g = grad_phi[images, None, columns] / length
            q = g * phi[images, None, columns] / length

            if gram is None:
                v = torch.bmm(a.mT, tokens)
                h = torch.bmm(tokens, v.mT)
            else:
                h = torch.bmm(gram, a)
            ds = h.mul_(-q).addcmul_(r, g).mul_(a).mul_(weight_scale)
            if mode == 'sigmoid':
                ds.addcmul_(ds, a, value=-1)
            if norms is not None:
                ds.div_(norms)
                along = r.mul_(ds).sum(dim=2, keepdim=True).div_(norms**2)
                grad_tokens.addcmul_(along, tokens, value=-1)
            dr = ds.addcmul_(a, g).flatten(0, 1)
            if grad_texts is not None:
                grad_texts[columns].addmm_(dr.T, flat_tokens)
            if grad_patch_tokens is None:
                continue
            grad_tokens.view_as(flat_tokens).addmm_(dr, block_texts)
            weighted = torch.mul(a, q, out=r)
            if gram is None:
                grad_tokens.baddbmm_(weighted, v, alpha=-1)
            else:
                grad_gram.baddbmm_(weighted, a.mT)
        if grad_patch_tokens is None:
            continue
        if grad_gram is not None:
            grad_tokens.baddbmm_(grad_gram, tokens, alpha=-1)
        if normalize_first:
            along = (grad_tokens * tokens).sum(dim=2, keepdim=True)
            grad_tokens.addcmul_(along, tokens, value=-1).div_(token_norms)
        grad_patch_tokens[images] = grad_tokens
    return grad_patch_tokens, grad_texts


def _load(
    tokens: Tensor, valid: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """One block of tokens (b, T, D) in `dtype`, padding zeroed; norms (b, T, 1)."""
    tokens = tokens.to(dtype)
    if valid is not None:
        tokens = tokens.masked_fill(~valid[:, :, None], 0)
    tokens = tokens.contiguous()
    return tokens, tokens.norm(dim=2, keepdim=True).clamp_min_(_EPS)


def _weights(
    projections: Tensor,
    norms: Tensor | None,
    valid: Tensor | None,
    mode: str,
    weight_scale: float,
) -> Tensor:
    """Pooling weights (b, T, n) of projections (b, T, n) on tokens of these norms."""
    scale = weight_scale if norms is None else weight_scale / norms
    logits = projections * scale
    if valid is not None:
        logits.masked_fill_(~valid[:, :, None], float('-inf'))
    if mode == 'sigmoid':
        return logits.sigmoid_()
    return torch.softmax(logits, dim=1)


def _gram_is_cheaper(patch_tokens: Tensor, text_units: Tensor) -> bool:
    """Whether forward and backward multiply less with G = P P^T than without it.

    Per image, with G: 3 T N D + 3 T^2 D + 3 T^2 N multiplications; without: 7 T N D.
    """
    tokens, dim = patch_tokens.shape[1:]
    texts = len(text_units)
    return 3 * tokens * (dim + texts) < 4 * texts * dim


def _blocks(
    patch_tokens: Tensor, text_units: Tensor, max_elements: int
) -> tuple[list[slice], list[slice]]:
    """Slices of images and of texts such that T x images x texts <= max_elements.

    The (images, T, D) copies of a block stay within it too, where it has more than
    one image.
    """
    images, tokens, dim = patch_tokens.shape
    texts = len(text_units)
    text_step = min(texts, max(1, max_elements // tokens))
    image_step = max(1, max_elements // (tokens * max(text_step, dim)))
    return list(_slices(images, image_step)), list(_slices(texts, text_step))


def _slices(total: int, step: int) -> Iterator[slice]:
    """Consecutive slices of `step` items (the last may be shorter) over `total`."""
    for start in range(0, total, step):
        yield slice(start, min(start + step, total))
