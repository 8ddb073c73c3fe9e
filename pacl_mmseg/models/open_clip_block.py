"""The residual attention block of open_clip's transformers, written out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable

from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from torch.nn import functional as F


def block_runner(blocks: Iterable[nn.Module]) -> Callable[..., Tensor]:
    """What runs each of the blocks: :func:`run_block`, or they are called.

    Called, with a warning, are blocks that are not CLIP's own; those have attention of
    many kinds.
    """
    if all(map(is_plain, blocks)):
        return run_block
    warnings.warn(
        "This open_clip model has other blocks than CLIP's own: they run by "
        "open_clip's forward, which takes longer.",
        stacklevel=2,
    )
    return call_block


def is_plain(block: nn.Module) -> bool:
    """Whether it is CLIP's own block, which the functions here take apart."""
    if type(block) is not ResidualAttentionBlock:
        return False
    attention = block.attn
    return (
        type(attention) is nn.MultiheadAttention
        and attention.batch_first
        and attention.in_proj_weight is not None  # one for query, key and value
        and attention.bias_k is None
        and not attention.add_zero_attn
        and attention.dropout == 0
    )


def call_block(
    block: nn.Module, x: Tensor, causal_mask: Tensor | None = None
) -> Tensor:
    """The block's own forward; see :func:`run_block`."""
    return block(x, attn_mask=causal_mask)


def run_block(
    block: ResidualAttentionBlock, x: Tensor, causal_mask: Tensor | None = None
) -> Tensor:
    """The same as the block's own forward, without hooks on it and on its attention.

    ``nn.MultiheadAttention`` turns its inputs round and copies query, key and value
    when it is traced by a compiler, and adds the mask of texts to every product;
    ``scaled_dot_product_attention`` needs neither.

    Args:
        block: A plain one.
        x: Tokens ``(N, tokens, C)``.
        causal_mask: CLIP's own mask of texts, of which nothing but its presence is
            looked at; None, for images.

    Returns:
        Tokens ``(N, tokens, C)``.
    """
    heads = F.scaled_dot_product_attention(
        *query_key_value(block, x), is_causal=causal_mask is not None
    )
    return feed_forward(block, x + project(block, heads))


def query_key_value(block: ResidualAttentionBlock, x: Tensor) -> tuple[Tensor, ...]:
    """Each ``(N, heads, tokens, C / heads)``, of tokens that enter the block."""
    attention = block.attn
    qkv = F.linear(block.ln_1(x), attention.in_proj_weight, attention.in_proj_bias)
    return qkv.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)


def project(block: ResidualAttentionBlock, heads: Tensor) -> Tensor:
    """The attention's output projection of ``(N, heads, tokens, C / heads)``."""
    return block.ls_1(block.attn.out_proj(heads.transpose(1, 2).flatten(2)))


def feed_forward(block: ResidualAttentionBlock, x: Tensor) -> Tensor:
    """The second half of the block, with its residual connection."""
    return x + block.ls_2(block.mlp(block.ln_2(x)))
