"""Precision of the towers, their sizes, and what an architecture may say."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch
from mmengine.optim import build_optim_wrapper

from pacl_mmseg.apis.config import load_config
from pacl_mmseg.models import (
    CLIPDataPreProcessor,
    OpenCLIPTextEncoder,
    PACLBackbone,
    PatchEmbedder,
)
from pacl_mmseg.models.open_clip_model import build_tokenizer
from pacl_mmseg.registry import MODELS

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_a_training_step_in_low_precision(tiny_model, dtype):
    """On a batch of pairs, against float32; no part keeps 32 bits per token."""
    losses = {}
    for precision in ('float32', dtype):
        for part in (
            tiny_model.data_preprocessor,
            tiny_model.backbone,
            tiny_model.decode_head.text_encoder,
        ):
            part.dtype = precision
        torch.manual_seed(0)
        model = MODELS.build(tiny_model).train()
        seen = []
        model.backbone.register_forward_hook(
            lambda _, inputs, outputs, seen=seen: seen.extend([*inputs, *outputs])
        )
        images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
        captions = ['a cat', 'two dogs', 'grass', 'the sky over a house']
        tokens = model.decode_head.text_encoder.tokenize(captions)
        samples = dict(captions=captions, text_tokens=tokens)
        optim = build_optim_wrapper(model, dict(optimizer=dict(type='SGD', lr=0.1)))
        before = model.neck.skip.weight.clone()
        log = model.train_step(dict(inputs=images, data_samples=samples), optim)
        assert {tensor.dtype for tensor in seen} == {getattr(torch, precision)}
        assert not torch.equal(model.neck.skip.weight, before)
        losses[precision] = log['loss'].detach()
    torch.testing.assert_close(losses[dtype], losses['float32'], rtol=0.05, atol=0.02)


def test_sizes_of_vit_l14():
    """Of open_clip's own description of the model; building it takes 1.7 GB."""
    cfg = load_config(str(CONFIGS / '_base_' / 'models' / 'pacl_vitl14.py'))
    sizes = open_clip.get_model_config(cfg.model.encoder.model)
    neck = PatchEmbedder(**{k: v for k, v in cfg.model.neck.items() if k != 'type'})
    assert neck.in_channels == sizes['vision_cfg']['width']
    assert neck.out_channels == sizes['embed_dim']
    assert sum(p.numel() for p in neck.parameters()) == 2_164_992


@pytest.mark.parametrize(
    ('part', 'change', 'message'),
    [
        ('vision_cfg', dict(patch_dropout=0.5), 'every patch is encoded: leave it out'),
        ('text_cfg', dict(output_tokens=True), 'of text_cfg would have no effect'),
        (None, dict(init_logit_bias=-10), 'scores are cosines'),
        ('vision_cfg', dict(patchsize=8), "'patchsize'.*Did you mean 'patch_size'"),
        (None, dict(vision_config={}), "'vision_config'.*Did you mean 'vision_cfg'"),
        (None, dict(text_cfg=None), 'a dict of embed_dim, vision_cfg and text_cfg'),
    ],
)
def test_settings_of_an_architecture_have_effect_or_are_refused(
    tiny_clip, part, change, message
):
    (tiny_clip if part is None else tiny_clip[part]).update(change)
    for kind in (PACLBackbone, OpenCLIPTextEncoder, CLIPDataPreProcessor):
        with pytest.raises(ValueError, match=message):
            kind(tiny_clip)


def test_settings_without_effect_may_say_so(tiny_clip):
    tiny_clip['vision_cfg'].update(patch_dropout=0.0, output_tokens=False)
    tiny_clip.update(custom_text=True, init_logit_bias=None)
    PACLBackbone(tiny_clip)


def test_the_tokenizer_is_that_of_an_inline_architecture(tiny_clip):
    tiny_clip['text_cfg'].update(tokenizer_kwargs=dict(clean='canonicalize'))
    tokens = build_tokenizer(tiny_clip)(['A cat, on a MAT!'])
    assert torch.equal(tokens, build_tokenizer(tiny_clip)(['a cat on a mat']))
    del tiny_clip['text_cfg']['tokenizer_kwargs']
    assert not torch.equal(tokens, build_tokenizer(tiny_clip)(['A cat, on a MAT!']))
