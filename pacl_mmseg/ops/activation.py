"""Where in an image a text is: maps over its patches."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import gaussian_blur

from .compatibility import DEFAULT_WEIGHT_SCALE, _weights

ACTIVATIONS = ('cosine', *DEFAULT_WEIGHT_SCALE)


def activation_map(
    maps: Tensor,
    texts: Tensor,
    *,
    mode: str = 'cosine',
    weight_scale: float | None = None,
    blur: float = 0.0,
) -> Tensor:
    """Activation of every patch for every text.

    Args:
        maps: (N, D, h, w) patch tokens in the space of the texts, of any length.
        texts: (K, D) text embeddings, of any length.
        mode: ``cosine``: of a patch and the text. ``softmax``: PACL's weights of the
            patches of an image for the text, which sum to 1. ``sigmoid``: those of
            github.com/NMS05/Patch-Aligned-Contrastive-Learning, each in (0, 1).
        weight_scale: Factor on the cosines before softmax or sigmoid; None: 1 for
            softmax, 10 for sigmoid.
        blur: Standard deviation, in patches, of a Gaussian of 3 x 3 patches that the
            map is then blurred by; 0: not. NMS05's inference blurs so, and draws the
            deviation anew, from 0.1 to 2, for each map.

    Returns:
        (N, K, h, w), float64 for float64 tokens and float32 for any other.

    Raises:
        ValueError: Unknown mode, a weight scale for cosines, a negative blur, or one of
            a map of a single row or column; or channels that differ.
    """
    if mode not in ACTIVATIONS:
        raise ValueError(f'mode must be one of {ACTIVATIONS}, not {mode!r}.')
    if maps.shape[1] != texts.shape[-1]:
        raise ValueError(
            f'Tokens have {maps.shape[1]} channels and texts {texts.shape[-1]}.'
        )
    if mode == 'cosine' and weight_scale is not None:
        raise ValueError('Cosines have no weight_scale: leave it out, or change mode.')
    if blur < 0 or (blur and min(maps.shape[2:]) < 2):
        raise ValueError(
            f'blur must be 0 or, of maps of two rows and columns at least, more; it is '
            f'{blur} of {maps.shape[2]} x {maps.shape[3]} patches.'
        )
    dtype = torch.float64 if maps.dtype == torch.float64 else torch.float32
    tokens, units = F.normalize(maps.to(dtype)), F.normalize(texts.to(dtype))
    result = torch.einsum('ndhw,kd->nkhw', tokens, units)
    if mode != 'cosine':
        weights = _weights(result.flatten(2).mT, mode, weight_scale, None)
        result = weights.mT.view_as(result)
    return gaussian_blur(result, 3, blur) if blur else result
