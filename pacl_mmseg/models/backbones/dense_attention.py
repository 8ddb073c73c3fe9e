"""Last attention blocks that keep patch tokens local, for training-free baselines.

Each variant takes the last residual block of a CLIP ViT, the tokens that enter it,
``(N, 1 + h * w, C)`` with the CLS token first, and the token grid ``(h, w)``, and
returns the tokens that leave the block. Each does what its authors' code does.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor
from torch.nn import functional as F

from pacl_mmseg.models.open_clip_block import feed_forward, project, query_key_value
from pacl_mmseg.utils.names import check_choice, check_name

attend = F.scaled_dot_product_attention


def maskclip(block: ResidualAttentionBlock, x: Tensor, grid: tuple[int, int]) -> Tensor:
    """MaskCLIP (ECCV 2022): every token attends to itself alone.

    As in chongzhou96/MaskCLIP, ``mmseg/models/backbones/vit.py``: the residual
    connection and the feed-forward network of the block stay. (That repository runs
    OpenAI's weights with GELU and a layer norm epsilon of 1e-6, CLIP itself QuickGELU
    and 1e-5; which it is, the backbone's ``model`` says.)
    """
    _, _, v = query_key_value(block, x)
    return feed_forward(block, x + project(block, v))


def sclip(block: ResidualAttentionBlock, x: Tensor, grid: tuple[int, int]) -> Tensor:
    """SCLIP (ECCV 2024): ``softmax(q q^T) + softmax(k k^T)``, not normalised again.

    As in wangf3014/SCLIP, ``clip/model.py``: the residual connection and the
    feed-forward network stay. Rows of the attention sum to 2, in paper and code.
    """
    q, k, v = query_key_value(block, x)
    return feed_forward(block, x + project(block, attend(q, q, v) + attend(k, k, v)))


def clearclip(
    block: ResidualAttentionBlock, x: Tensor, grid: tuple[int, int]
) -> Tensor:
    """ClearCLIP (ECCV 2024): ``softmax(q q^T)``, no residual, no feed-forward network.

    As in mc-lan/ClearCLIP, ``open_clip/transformer.py``.
    """
    q, _, v = query_key_value(block, x)
    return project(block, attend(q, q, v))


def naclip(
    block: ResidualAttentionBlock, x: Tensor, grid: tuple[int, int], std: float = 5.0
) -> Tensor:
    """NACLIP (WACV 2025): ``softmax(k k^T + neighbourhood)``, the block reduced to it.

    As in sinahmr/NACLIP, ``clip/model.py`` (``arch='reduced'``): no residual connection
    and no feed-forward network. The neighbourhood, added to the scaled products, is a
    Gaussian of the distance of two patches with peak 1, and 0 where CLS is involved.

    Args:
        std: Standard deviation of the neighbourhood, in tokens.
    """
    _, k, v = query_key_value(block, x)
    neighbourhood = _neighbourhood(grid, std, k.device).to(k.dtype)
    return project(block, attend(k, k, v, attn_mask=neighbourhood))


DenseAttention = Callable[[ResidualAttentionBlock, Tensor, tuple[int, int]], Tensor]
DENSE_ATTENTION: dict[str, DenseAttention] = {
    'maskclip': maskclip,
    'sclip': sclip,
    'clearclip': clearclip,
    'naclip': naclip,
}


def build_dense_attention(variant: str | Mapping) -> DenseAttention:
    """A variant by name, or with options: ``dict(type='naclip', std=3.0)``.

    Raises:
        ValueError: Unknown variant or option.
    """
    options = dict(type=variant) if isinstance(variant, str) else dict(variant)
    name = options.pop('type', None)
    check_choice('dense_attention', name, DENSE_ATTENTION)
    function = DENSE_ATTENTION[name]
    known = list(inspect.signature(function).parameters)[3:]
    for option in options:
        check_name(f'option of dense_attention {name!r}', option, known)
    if options.get('std', 1) <= 0:
        raise ValueError(f'std must be above 0 tokens, not {options["std"]}.')
    return partial(function, **options)


def _neighbourhood(grid: tuple[int, int], std: float, device: torch.device) -> Tensor:
    """``(1 + h * w, 1 + h * w)``: Gaussian of the distance of two tokens; 0 for CLS."""
    bells = []
    for length in grid:
        position = torch.arange(length, device=device)
        distance = position[:, None] - position
        bells.append(torch.exp(-(distance**2) / (2 * std**2)))
    return F.pad(torch.kron(*bells), (1, 0, 1, 0))
