"""CLIPpy's towers, both trained: a tiny ViT of timm, and a tiny T5 or CLIP's texts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from pacl_mmseg import Segmenter
from pacl_mmseg.apis import export, load_config
from pacl_mmseg.models.text_encoders import OpenCLIPTextEncoder
from pacl_mmseg.registry import MODELS

CONFIG = Path(__file__).resolve().parents[2] / 'configs' / 'clippy_exact_cc12m.py'
CAPTIONS = ['a red cat', 'two dogs near a tree', 'a red cat next to a bus']
VIT = 'timm/test_vit.r160_in1k'  # 64 channels, patches of 16 px


@pytest.fixture(scope='module')
def t5(tmp_path_factory):
    """A folder with a T5 of random weights, and a tokenizer of a few words."""
    transformers = pytest.importorskip('transformers')
    tokenizers = pytest.importorskip('tokenizers')
    folder = str(tmp_path_factory.mktemp('t5'))
    words = ['<pad>', '</s>', '<unk>', *dict.fromkeys(' '.join(CAPTIONS).split())]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel(vocabulary, unk_token='<unk>')
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token='<pad>',
        eos_token='</s>',
        unk_token='<unk>',
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=len(words), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2
    )
    transformers.T5Model(config).save_pretrained(folder)
    return folder


def build(text, **options):
    options = {
        'model.encoder.vision': dict(model=VIT, _delete_=True),
        'model.encoder.text': dict(model=text, _delete_=True),
        **options,
    }
    return MODELS.build(load_config(str(CONFIG), options).model)


def t5_texts(folder):
    return dict(
        embed_dim=64,
        vision_cfg=dict(layers=1, width=64, head_width=64, patch_size=32),
        text_cfg=dict(
            hf_model_name=folder,
            hf_tokenizer_name=folder,
            hf_pooler_type='mean_pooler',
            hf_proj_type='linear',
            context_length=12,
        ),
    )


def train_step(model, captions=CAPTIONS):
    torch.manual_seed(0)
    images = torch.randn(len(captions), 3, 32, 48)
    losses = model.train().loss(images, dict(captions=captions))
    losses['decode.loss_infonce'].backward()
    return losses


def assert_both_towers_learn(model):
    silent = [
        name
        for name, value in model.named_parameters()
        if value.requires_grad and (value.grad is None or not value.grad.any())
    ]
    assert not silent, silent
    assert {name.split('.')[0] for name, _ in model.named_parameters()} == {
        'backbone',
        'decode_head',
    }


@pytest.mark.parametrize('drop', [0.0, 0.5])
def test_clips_texts(tiny_clip, drop):
    tiny_clip['embed_dim'] = 64
    model = build(tiny_clip, **{'model.backbone.patch_drop_rate': drop})
    losses = train_step(model)
    assert losses['decode.loss_infonce'].isfinite()
    assert losses['decode.logit_scale'] == pytest.approx(1 / 0.07)
    assert_both_towers_learn(model)
    with torch.no_grad():
        (sample,) = model.eval().predict(torch.randn(1, 3, 64, 64))
    assert sample.pred_sem_seg.data.shape == (1, 64, 64)


def test_t5(t5):
    model = build(t5_texts(t5))
    description = model.decode_head.text_encoder.description
    assert description == f'{t5} (pretrained, projected at random, seed 0)'
    train_step(model)
    assert_both_towers_learn(model)
    keys = model.state_dict().keys()
    assert any(key.startswith('decode_head.text_encoder.text.proj') for key in keys)


def test_texts_are_the_mean_over_words_and_a_linear_map(t5, tmp_path):
    """The map of a file, as Sentence-T5 has one beside the weights of its T5."""
    transformers = pytest.importorskip('transformers')
    weight, path = torch.randn(64, 32), str(tmp_path / 'dense.safetensors')
    save_file({'linear.weight': weight}, path)
    key = 'model.decode_head.text_encoder.projection'
    model = build(t5_texts(t5), **{key: path}).eval()
    reference = transformers.T5EncoderModel.from_pretrained(t5).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(t5)
    encoder = model.decode_head.text_encoder
    with torch.no_grad():
        embeddings = encoder(CAPTIONS)
        for caption, embedding in zip(CAPTIONS, embeddings, strict=True):
            ids = tokenizer(caption, return_tensors='pt').input_ids  # no padding
            mean = reference(ids).last_hidden_state[0].mean(0)
            expected = F.normalize(mean @ weight.T, dim=0)
            torch.testing.assert_close(embedding, expected, rtol=0, atol=1e-5)
    assert encoder.description == f'{t5} (pretrained), projected by {path}'
    save_file({'linear.weight': weight.T.contiguous()}, path)
    with pytest.raises(ValueError, match='not hold .*weight .32, 64. in place of .64'):
        build(t5_texts(t5), **{key: path})


@pytest.mark.parametrize('frozen', [False, True])
def test_its_map_is_shared_with_it(t5, frozen, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(t5).parent)  # in a shared model no name is a path
    save_file({'linear.weight': torch.randn(64, 32)}, tmp_path / 'dense.safetensors')
    options = {
        'model.encoder.vision': dict(model=VIT, _delete_=True),
        'model.encoder.text': dict(model=t5_texts(Path(t5).name), _delete_=True),
        'model.decode_head.text_encoder.projection': f'{tmp_path}/dense.safetensors',
        'model.decode_head.text_encoder.frozen': frozen,
    }
    config = CONFIG.with_name('clippy_exact_voc21.py')
    model = MODELS.build(load_config(str(config), options).model).eval()
    torch.save(model.state_dict(), tmp_path / 'trained.pth')
    export(config, tmp_path / 'trained.pth', tmp_path / 'shared', cfg_options=options)
    (tmp_path / 'dense.safetensors').unlink()
    shared = Segmenter(str(tmp_path / 'shared'), device='cpu').model
    with torch.no_grad():
        expected, found = (
            m.decode_head.text_encoder(CAPTIONS) for m in (model, shared)
        )
    assert torch.equal(expected, found)


def test_clips_own_projection_is_its_own(tiny_clip):
    with pytest.raises(ValueError, match='this tower has none: leave it out'):
        OpenCLIPTextEncoder(tiny_clip, projection='dense.safetensors')


def test_a_text_tower_that_is_not_there(tmp_path):
    pytest.importorskip('transformers')
    with pytest.raises(RuntimeError, match='could not be had .OSError.: download it'):
        build(t5_texts(str(tmp_path / 'none')))
