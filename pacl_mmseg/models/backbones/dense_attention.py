"""Last attention blocks that keep patch tokens local, for training-free baselines.

Each entry of ``DENSE_ATTENTION`` takes the last residual block of a CLIP ViT and the
tokens that enter it, ``(N, 1 + T, C)``, and returns the tokens that leave it.
"""

from __future__ import annotations

from collections.abc import Callable

from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor
from torch.nn import functional as F


def maskclip(block: ResidualAttentionBlock, x: Tensor) -> Tensor:
    """MaskCLIP (ECCV 2022): every token attends to itself alone.

    The authors' code (chongzhou96/MaskCLIP, ``mmseg/models/backbones/vit.py``) keeps
    the residual connection and the feed-forward network of the block, and so do we.
    """
    width = x.shape[-1]
    weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
    value = F.linear(block.ln_1(x), weight[2 * width :], bias[2 * width :])
    x = x + block.ls_1(block.attn.out_proj(value))
    return x + block.ls_2(block.mlp(block.ln_2(x)))


DENSE_ATTENTION: dict[str, Callable[[ResidualAttentionBlock, Tensor], Tensor]] = {
    'maskclip': maskclip,
}
