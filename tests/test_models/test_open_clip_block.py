"""The written-out block against the block itself, and against the whole towers."""

from __future__ import annotations

import pytest
import torch
from open_clip.transformer import Attention
from torch.nn import functional as F

from pacl_mmseg.models import OpenCLIPTextEncoder, PACLBackbone
from pacl_mmseg.models.open_clip_block import (
    block_runner,
    call_block,
    is_plain,
    run_block,
)
from pacl_mmseg.models.open_clip_model import build_open_clip

OTHER_BLOCKS = dict(qk_norm=True, scale_attn=True)


@pytest.fixture
def block(tiny_clip):
    """A block with layer scale, of which all biases and scales matter."""
    tiny_clip['vision_cfg'].update(ls_init_value=0.5)
    block = build_open_clip(tiny_clip).visual.transformer.resblocks[0].eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in block.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=generator)
    return block


@pytest.mark.parametrize('causal', [False, True])
def test_equals_the_block(block, causal):
    assert is_plain(block)
    x = torch.randn(3, 7, 32, generator=torch.Generator().manual_seed(1))
    mask = torch.full((7, 7), -torch.inf).triu(1) if causal else None
    with torch.no_grad():
        result = run_block(block, x, mask)
        torch.testing.assert_close(result, block(x, attn_mask=mask))
        assert torch.equal(result, run_block(block, x)) is not causal
    torch.testing.assert_close(result, call_block(block, x, mask))


def test_attention_of_another_kind_is_not_plain(block):
    assert block_runner([block, block]) is run_block
    block.attn.batch_first = False
    with pytest.warns(UserWarning, match="other blocks than CLIP's own"):
        assert block_runner([block]) is call_block
    block.attn = torch.nn.MultiheadAttention(32, 2, batch_first=True, add_bias_kv=True)
    assert not is_plain(block)


def test_towers_of_other_blocks_equal_open_clip(tiny_clip):
    tiny_clip['text_cfg'].update(OTHER_BLOCKS, layers=2)
    tiny_clip['vision_cfg'].update(OTHER_BLOCKS)
    clip = build_open_clip(tiny_clip).eval()
    with pytest.warns(UserWarning, match="other blocks than CLIP's own"):
        backbone, encoder = PACLBackbone(tiny_clip), OpenCLIPTextEncoder(tiny_clip)
    assert backbone._run_block is encoder._run_block is call_block
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    texts = ['a cat', 'two dogs on a meadow and a cow behind them']
    with torch.no_grad():
        maps = clip.visual.forward_intermediates(images)['image_intermediates'][-1]
        embeddings = clip.encode_text(encoder.tokenize(texts))
    torch.testing.assert_close(backbone(images)[0], maps)
    torch.testing.assert_close(encoder(texts), F.normalize(embeddings, dim=-1))


def test_the_last_of_other_blocks_is_not_taken_apart(tiny_clip):
    tiny_clip['vision_cfg'].update(OTHER_BLOCKS)
    with pytest.raises(ValueError, match='CustomResidualAttentionBlock with Attention'):
        PACLBackbone(tiny_clip, dense_attention='sclip')
    # And CLIP's own block with attention that a later open_clip brings along.
    for name in OTHER_BLOCKS:
        del tiny_clip['vision_cfg'][name]
    clip = build_open_clip(tiny_clip)
    clip.visual.transformer.resblocks[-1].attn = Attention(32, 2)
    with pytest.raises(ValueError, match='ResidualAttentionBlock with Attention;'):
        PACLBackbone(tiny_clip, clip=clip, dense_attention='sclip')
