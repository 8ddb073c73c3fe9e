"""One model where two towers are asked for, and what a config's encoder reaches."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import open_clip
import pytest
import torch
from mmengine.optim import build_optim_wrapper
from open_clip.model import CustomTextCLIP

from pacl_mmseg.apis.config import load_config
from pacl_mmseg.models import OpenCLIPTextEncoder, PACLBackbone, PatchEmbedder
from pacl_mmseg.models.open_clip_model import shared_towers
from pacl_mmseg.registry import MODELS

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'


@pytest.fixture
def built(monkeypatch):
    """Weak references to the open_clip models that are built."""
    models = []
    original = CustomTextCLIP.__init__

    def init(self, *args, **kwargs):
        original(self, *args, **kwargs)
        models.append(weakref.ref(self))

    monkeypatch.setattr(CustomTextCLIP, '__init__', init)
    return models


def test_a_segmentor_builds_its_model_once_and_keeps_the_towers_alone(
    tiny_model, built
):
    tiny_model.type = 'ZeroShotSegmentor'
    model = MODELS.build(tiny_model)
    assert len(built) == 1
    gc.collect()
    assert built[0]() is None  # the towers live in their modules
    tiny_model.type = 'EncoderDecoder'
    separate = MODELS.build(tiny_model)
    assert len(built) == 3
    assert model.backbone.fingerprint() == separate.backbone.fingerprint()
    encoders = model.decode_head.text_encoder, separate.decode_head.text_encoder
    assert encoders[0].fingerprint() == encoders[1].fingerprint()


def test_no_two_owners_share_a_tower(tiny_clip, built):
    with shared_towers():
        backbones = [PACLBackbone(tiny_clip) for _ in range(2)]
        OpenCLIPTextEncoder(tiny_clip, init_seed=1)
        OpenCLIPTextEncoder(tiny_clip)
    assert len(built) == 3  # two for the backbones, one for the other weights
    assert backbones[0].visual is not backbones[1].visual
    gc.collect()
    assert not any(model() for model in built)


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


def test_precision_and_compilation_from_the_command_line():
    options = {'encoder.dtype': 'bfloat16', 'encoder.compile': True}
    model = load_config(str(CONFIGS / 'pacl_vitb16_cc12m.py'), options).model
    for tower in (model.backbone, model.decode_head.text_encoder):
        assert (tower.dtype, tower.compile) == ('bfloat16', True)
    assert model.data_preprocessor.dtype == 'bfloat16'
    assert 'compile' not in model.data_preprocessor


def test_sizes_of_vit_l14():
    """Of open_clip's own description of the model; building it takes 1.7 GB."""
    cfg = load_config(str(CONFIGS / '_base_' / 'models' / 'pacl_vitl14.py'))
    sizes = open_clip.get_model_config(cfg.encoder.model)
    model = cfg.model
    for part in (
        model.backbone,
        model.data_preprocessor,
        model.decode_head.text_encoder,
    ):
        assert (part.model, part.pretrained) == ('ViT-L-14-quickgelu', 'openai')
    neck = PatchEmbedder(**{k: v for k, v in model.neck.items() if k != 'type'})
    assert neck.in_channels == sizes['vision_cfg']['width']
    assert neck.out_channels == sizes['embed_dim']
    assert sum(p.numel() for p in neck.parameters()) == 2_164_992
