"""The text encoder in groups of similar length, against open_clip's tower itself."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from pacl_mmseg.models import OpenCLIPTextEncoder
from pacl_mmseg.models.open_clip_model import build_open_clip
from pacl_mmseg.models.text_encoders.open_clip_text_encoder import _can_cut

TEXTS = [
    'a cat',
    'a ' * 40,
    '',
    'two dogs on a meadow and a cow behind them',
    'sky',
    'a',
]


def full_length(clip, tokens):
    with torch.no_grad():
        return F.normalize(clip.eval().encode_text(tokens), dim=-1)


@pytest.mark.parametrize('options', [{}, dict(pool_type='eos', eos_id=49407)])
@pytest.mark.parametrize('batch_size', [1, 256])
def test_cut_texts_equal_whole_ones(tiny_clip, options, batch_size):
    tiny_clip['text_cfg'].update(options, layers=2)
    encoder = OpenCLIPTextEncoder(tiny_clip, batch_size=batch_size)
    tokens = encoder.tokenize(TEXTS)
    assert tokens.shape == (len(TEXTS), 24)
    assert tokens.dtype == torch.int64
    lengths = []
    encoder.text.transformer.resblocks[0].ln_1.register_forward_pre_hook(
        lambda _, args: lengths.append(args[0].shape[1])
    )
    embeddings = encoder(TEXTS)
    assert sorted(set(lengths)) == [8, 16, 24]
    assert lengths.count(8) == (2 if batch_size == 1 else 1)  # 4 texts, 3 at once
    expected = full_length(build_open_clip(tiny_clip), tokens)
    torch.testing.assert_close(embeddings, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(encoder(tokens), embeddings)


@pytest.mark.parametrize(
    'options',
    [dict(no_causal_mask=True), dict(pool_type='last'), dict(embed_cls=True)],
    ids=lambda options: next(iter(options)),
)
def test_other_towers_get_their_full_length(tiny_clip, options):
    tiny_clip['text_cfg'].update(options)
    encoder = OpenCLIPTextEncoder(tiny_clip)
    expected = full_length(build_open_clip(tiny_clip), encoder.tokenize(TEXTS))
    torch.testing.assert_close(encoder(TEXTS), expected)


def test_only_clips_own_mask_is_taken_for_it(tiny_clip):
    text = build_open_clip(tiny_clip).text
    assert _can_cut(text)
    assert _can_cut(text.half())
    text.attn_mask[-1, 0] = -torch.inf
    assert not _can_cut(text)


@pytest.mark.parametrize('causal', [True, False])
def test_attention_without_plans_for_every_size(tiny_clip, causal):
    tiny_clip['text_cfg'].update(no_causal_mask=not causal)
    encoder = OpenCLIPTextEncoder(tiny_clip)
    allowed = []
    encoder.text.transformer.resblocks[0].ln_1.register_forward_pre_hook(
        lambda *_: allowed.append(torch.backends.cuda.cudnn_sdp_enabled())
    )
    before = torch.backends.cuda.cudnn_sdp_enabled()
    encoder(TEXTS)
    assert allowed
    assert not any(allowed)
    assert torch.backends.cuda.cudnn_sdp_enabled() == before


def test_embeddings_are_ordinary_tensors(tiny_clip):
    embeddings = OpenCLIPTextEncoder(tiny_clip)(TEXTS)
    assert not embeddings.is_inference()
    weight = torch.ones(24, requires_grad=True)
    (embeddings * weight).sum().backward()
    torch.testing.assert_close(weight.grad, embeddings.sum(0))


def test_a_tower_that_trains_gets_gradients(tiny_clip):
    encoder = OpenCLIPTextEncoder(tiny_clip, frozen=False).train()
    torch.testing.assert_close(encoder(TEXTS), OpenCLIPTextEncoder(tiny_clip)(TEXTS))
    encoder(TEXTS)[:, 0].sum().backward()
    assert encoder.text.token_embedding.weight.grad.any()


def test_a_captioners_text_tower_is_refused():
    with pytest.raises(ValueError, match='coca_ViT-B-32 .* captioner.*take a CLIP'):
        OpenCLIPTextEncoder('coca_ViT-B-32')
