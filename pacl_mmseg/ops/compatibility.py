"""The compatibility function of PACL between every image and every text.

For image i with patch tokens P_ik (k = 1..T) and text j with embedding t_j of unit
length, PACL (Mukhoti et al., CVPR 2023, arXiv 2212.04994, section 3) defines

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

For ablations: ``renormalize=False`` leaves out the paper's last step, so that
phi_ij = v_ij . t_j, which is no cosine, and :func:`own_caption_compatibility` pools
each image for its own text alone, as public re-implementations do.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .compatibility_blockwise import EPS, BlockwiseCompatibility, BlockwiseOptions

MODES = ('softmax', 'sigmoid', 'max', 'mean', 'cls')

DEFAULT_WEIGHT_SCALE = {'softmax': 1.0, 'sigmoid': 10.0}

MATMUL_DTYPES = ('bfloat16', 'float16')

# Elements of one (images x patches x texts) block; backward holds about five such
# blocks. On a CPU they should stay near the cache, a GPU needs large ones to be busy.
_DEFAULT_BLOCK_ELEMENTS_CPU = 2**20
_DEFAULT_BLOCK_ELEMENTS_GPU = 2**26


def compatibility_reference(
    patch_tokens: Tensor,
    texts: Tensor,
    *,
    mode: str = 'softmax',
    weight_scale: float | Tensor | None = None,
    normalize_first: bool = False,
    renormalize: bool = True,
    valid: Tensor | None = None,
    cls_tokens: Tensor | None = None,
) -> Tensor:
    """Compatibility of every image with every text, by the formulas and autograd.

    Takes memory of B x T x N and B x N x D elements; it is what
    :func:`compatibility` is tested and measured against.

    Args:
        patch_tokens: (B, T, D) patch tokens in the space of the texts; they need not
            be of unit length.
        texts: (N, D) text embeddings, of any length; their direction is used.
        mode: One of ``MODES``, see the module's description.
        weight_scale: Factor on the cosine similarities before softmax or sigmoid
            (an inverse temperature, no unit); a scalar tensor may require a gradient.
            None: 1 for softmax, 10 for sigmoid.
        normalize_first: Bring tokens to unit length before they are pooled.
        renormalize: Bring the pooled vector to unit length, as the paper does. False:
            phi_ij = v_ij . t_j, which grows with the tokens' length and, in mode
            ``sigmoid``, with their number.
        valid: (B, T) bool, True where a token is real. The content of other tokens
            does not matter and their gradient is zero. None: all are real.
        cls_tokens: (B, D) class tokens; needed, and used, by mode ``cls`` only.

    Returns:
        (B, N) cosines in [-1, 1] (products without ``renormalize``), float64 for
        float64 inputs and float32 for any other.

    Raises:
        ValueError: Unknown mode, shapes that do not fit, an image without a valid
            token, or mode ``cls`` without class tokens.
    """
    _check(patch_tokens, texts, mode, valid, cls_tokens)
    with torch.autocast(patch_tokens.device.type, enabled=False):
        dtype = _compute_dtype(patch_tokens, texts)
        text_units = _unit(texts.to(dtype))
        if mode not in DEFAULT_WEIGHT_SCALE:
            pooled = _pool_alike(
                patch_tokens, dtype, mode, normalize_first, valid, cls_tokens
            )
            return (_unit(pooled) if renormalize else pooled) @ text_units.T
        tokens = _masked(patch_tokens.to(dtype), valid, 0)
        token_units = _unit(tokens)

        similarities = torch.einsum('btd,nd->btn', token_units, text_units)
        weights = _weights(similarities, mode, weight_scale, valid)
        values = token_units if normalize_first else tokens
        pooled = torch.einsum('btn,btd->bnd', weights, values)
        if renormalize:
            pooled = _unit(pooled)
        return torch.einsum('bnd,nd->bn', pooled, text_units)


def compatibility(
    patch_tokens: Tensor,
    texts: Tensor,
    *,
    mode: str = 'softmax',
    weight_scale: float | Tensor | None = None,
    normalize_first: bool = False,
    renormalize: bool = True,
    valid: Tensor | None = None,
    cls_tokens: Tensor | None = None,
    matmul_dtype: str | None = None,
    compile: bool | None = None,
    max_block_elements: int | None = None,
) -> Tensor:
    """Compatibility of every image with every text, in little memory.

    Same values and gradients as :func:`compatibility_reference`, up to rounding; no
    double backward. In modes softmax and sigmoid nothing of B x T x N or B x N x D
    elements is held, in forward or backward: blocks are recomputed in backward, and
    only the arguments and up to two (B, N) tensors beside the result are kept. Half
    precision inputs are computed in float32 and get gradients of their own type; the
    result does not depend on autocast.

    Args:
        patch_tokens, texts, mode, weight_scale: As in :func:`compatibility_reference`.
        normalize_first, renormalize, valid, cls_tokens: Likewise.
        matmul_dtype: ``'bfloat16'`` or ``'float16'``: round the operands of the
            matrix products of modes softmax and sigmoid to this precision; sums and
            everything elementwise stay in float32. None, the default: no rounding
            (float32 products on CUDA follow
            :func:`torch.set_float32_matmul_precision`).
        compile: Fuse what is between the matrix products of a block with
            torch.compile; where that fails it is done without, with one warning.
            None, the default: on CUDA only. Compiling takes a while, at the first
            shape and at the second, which gets code for any size that later shapes
            use too.
        max_block_elements: Upper limit for the elements of one images x patches x
            texts block (a block has at least one image and one text). None: 2**20 on
            the CPU, 2**26 elsewhere.

    Returns:
        (B, N) cosines in [-1, 1] (products without ``renormalize``), float64 for
        float64 inputs and float32 for any other.

    Raises:
        ValueError: As :func:`compatibility_reference`, for an unknown
            ``matmul_dtype``, one for float64 inputs, and for ``max_block_elements``
            below 1.
    """
    if matmul_dtype not in (None, *MATMUL_DTYPES):
        raise ValueError(
            f'matmul_dtype must be None or one of {MATMUL_DTYPES}, not '
            f'{matmul_dtype!r}.'
        )
    if max_block_elements is not None and max_block_elements < 1:
        raise ValueError(
            f'max_block_elements must be at least 1, not {max_block_elements}.'
        )
    _check(patch_tokens, texts, mode, valid, cls_tokens)
    if mode not in DEFAULT_WEIGHT_SCALE:  # nothing large occurs there
        return compatibility_reference(
            patch_tokens,
            texts,
            mode=mode,
            normalize_first=normalize_first,
            renormalize=renormalize,
            valid=valid,
            cls_tokens=cls_tokens,
        )
    on_cpu = patch_tokens.device.type == 'cpu'
    with torch.autocast(patch_tokens.device.type, enabled=False):
        dtype = _compute_dtype(patch_tokens, texts)
        text_units = _unit(texts.to(dtype))
        if matmul_dtype is not None and dtype != torch.float32:
            raise ValueError(f'matmul_dtype {matmul_dtype!r} is not for {dtype}.')
        if weight_scale is None:
            weight_scale = DEFAULT_WEIGHT_SCALE[mode]
        if not isinstance(weight_scale, Tensor):
            weight_scale = text_units.new_full((), weight_scale)
        if max_block_elements is None:
            max_block_elements = (
                _DEFAULT_BLOCK_ELEMENTS_CPU if on_cpu else _DEFAULT_BLOCK_ELEMENTS_GPU
            )
        operand_dtype = getattr(torch, matmul_dtype) if matmul_dtype else dtype
        options = BlockwiseOptions(
            mode=mode,
            normalize_first=normalize_first,
            renormalize=renormalize,
            operand_dtype=operand_dtype,
            max_block_elements=max_block_elements,
            compile=not on_cpu if compile is None else compile,
        )
        return BlockwiseCompatibility.apply(
            patch_tokens,
            text_units,
            weight_scale.to(text_units),
            valid,
            options,
        )


def own_caption_compatibility(
    patch_tokens: Tensor,
    own_texts: Tensor,
    texts: Tensor,
    *,
    mode: str = 'softmax',
    weight_scale: float | Tensor | None = None,
    normalize_first: bool = False,
    renormalize: bool = True,
    valid: Tensor | None = None,
) -> Tensor:
    """Compatibility with images pooled for their own text alone; for ablations.

    The shortcut of public re-implementations: ``v_i = sum_k a_iik P_ik`` is compared
    with all texts, where PACL pools anew for each. It is not PACL's phi, except for
    an image's own text, and leaks the answer: whatever the image shows, v_i is drawn
    to t_i.

    Args:
        patch_tokens: As in :func:`compatibility_reference`, (B, T, D).
        own_texts: (B, D) the text of each image.
        texts: (N, D) texts to compare with.
        mode: ``softmax`` or ``sigmoid``.
        weight_scale, normalize_first, renormalize, valid: As in
            :func:`compatibility_reference`.

    Returns:
        (B, N), of the type that :func:`compatibility_reference` returns.

    Raises:
        ValueError: Another mode, or shapes that do not fit.
    """
    _check(patch_tokens, texts, mode, valid, None)
    with torch.autocast(patch_tokens.device.type, enabled=False):
        dtype = _compute_dtype(patch_tokens, texts)
        tokens = _masked(patch_tokens.to(dtype), valid, 0)
        weights = _own_weights(tokens, own_texts, mode, weight_scale, valid)
        values = _unit(tokens) if normalize_first else tokens
        pooled = torch.einsum('bt,btd->bd', weights, values)
        return (_unit(pooled) if renormalize else pooled) @ _unit(texts.to(dtype)).T


@torch.no_grad()
def weight_entropy(
    patch_tokens: Tensor,
    own_texts: Tensor,
    *,
    mode: str = 'softmax',
    weight_scale: float | Tensor | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """Entropy of the weights over each image's patches for its own text.

    Its exponential is the effective number of patches, from 1 where a single patch
    has all the weight to T where all have the same. Weights that do not sum to one
    (sigmoid) are divided by their sum.

    Args:
        patch_tokens, own_texts, mode, weight_scale, valid: As in
            :func:`own_caption_compatibility`.

    Returns:
        (B,) entropies in nats, in [0, ln T]; without gradient. NaN for an image whose
        tokens or text are not finite.

    Raises:
        ValueError: As :func:`own_caption_compatibility`.
    """
    weights = _own_weights(patch_tokens, own_texts, mode, weight_scale, valid)
    shares = weights / weights.sum(dim=1, keepdim=True)
    return torch.special.entr(shares).sum(dim=1)


def _check(
    patch_tokens: Tensor,
    texts: Tensor,
    mode: str,
    valid: Tensor | None,
    cls_tokens: Tensor | None,
) -> None:
    """Raise ValueError where the arguments of the functions do not fit."""
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


def _unit(vectors: Tensor) -> Tensor:
    """Vectors (..., D) of unit length; shorter ones than ``EPS`` stay shorter."""
    return F.normalize(vectors, dim=-1, eps=EPS)


def _own_weights(
    patch_tokens: Tensor,
    own_texts: Tensor,
    mode: str,
    weight_scale: float | Tensor | None,
    valid: Tensor | None,
) -> Tensor:
    """Weights a_iik (B, T) of images for their own texts; 0 for tokens not valid."""
    _check(patch_tokens, own_texts, mode, valid, None)
    if mode not in DEFAULT_WEIGHT_SCALE:
        raise ValueError(f'Mode {mode!r} has no weights; softmax and sigmoid do.')
    if len(own_texts) != len(patch_tokens):
        raise ValueError(
            f'{len(patch_tokens)} images need as many own texts, not {len(own_texts)}.'
        )
    with torch.autocast(patch_tokens.device.type, enabled=False):
        dtype = _compute_dtype(patch_tokens, own_texts)
        tokens = _unit(patch_tokens.to(dtype))
        similarities = torch.einsum('btd,bd->bt', tokens, _unit(own_texts.to(dtype)))
        return _weights(similarities[:, :, None], mode, weight_scale, valid)[:, :, 0]


def _weights(
    similarities: Tensor,
    mode: str,
    weight_scale: float | Tensor | None,
    valid: Tensor | None,
) -> Tensor:
    """Weights over the patches (B, T, N) of their similarities (B, T, N)."""
    if weight_scale is None:
        weight_scale = DEFAULT_WEIGHT_SCALE[mode]
    logits = _masked(weight_scale * similarities, valid, float('-inf'))
    return logits.softmax(dim=1) if mode == 'softmax' else logits.sigmoid()


def _masked(values: Tensor, valid: Tensor | None, fill: float) -> Tensor:
    """Values (B, T, ...) of tokens, those of padding replaced."""
    return values if valid is None else values.masked_fill(~valid[:, :, None], fill)


def _pool_alike(
    patch_tokens: Tensor,
    dtype: torch.dtype,
    mode: str,
    normalize_first: bool,
    valid: Tensor | None,
    cls_tokens: Tensor | None,
) -> Tensor:
    """Pooled images (B, D) of modes max, mean and cls, the same for all texts."""
    if mode == 'cls':
        pooled = cls_tokens.to(dtype)
        return _unit(pooled) if normalize_first else pooled
    tokens = _masked(patch_tokens, valid, 0)
    if normalize_first:
        tokens = _unit(tokens.to(dtype))
    if mode == 'max':
        return _masked(tokens, valid, float('-inf')).amax(dim=1).to(dtype)
    total = tokens.sum(dim=1, dtype=dtype)
    return total / (tokens.shape[1] if valid is None else valid.sum(1, keepdim=True))
