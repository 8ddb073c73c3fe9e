"""Weights files of every layout: both towers as their own library runs them."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.model import CLIP, CustomTextCLIP
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from pacl_mmseg.models import OpenCLIPTextEncoder, PACLBackbone
from pacl_mmseg.models.open_clip_model import build_open_clip

# 64 channels a head, which OpenAI's files leave unsaid.
ARCHITECTURE = dict(
    embed_dim=16,
    quick_gelu=True,
    vision_cfg=dict(image_size=16, patch_size=8, width=64, layers=2),
    text_cfg=dict(context_length=12, vocab_size=49408, width=64, heads=1, layers=1),
)
TEXTS = ['a cat', 'two dogs and a very long fence']
GOLDENS = Path(__file__).resolve().parents[1] / 'parity' / 'transformers.npz'


@pytest.fixture(scope='module')
def clip() -> CLIP:
    torch.manual_seed(0)
    return CLIP(**ARCHITECTURE).eval()


class _OpenAI(nn.Module):
    """CLIP as OpenAI's archives have it: with three numbers as buffers."""

    def __init__(self, clip: CLIP) -> None:
        super().__init__()
        for name, module in clip.named_children():
            self.add_module(name, module)
        for name, value in clip.named_parameters(recurse=False):
            self.register_parameter(name, value)
        for name, value in _numbers().items():
            self.register_buffer(name, value)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.visual(images)


def _numbers() -> dict[str, torch.Tensor]:
    numbers = dict(input_resolution=16, context_length=12, vocab_size=49408)
    return {name: torch.tensor(value) for name, value in numbers.items()}


def _half(clip: CLIP) -> dict[str, torch.Tensor]:
    return {name: value.half() for name, value in clip.state_dict().items()}


def torchscript(clip: CLIP, path: Path) -> None:
    copy = CLIP(**ARCHITECTURE).eval()
    copy.load_state_dict(clip.state_dict())
    conv = torch.jit.script(copy.visual.conv1)  # has a list among its attributes
    copy.visual.conv1 = conv
    with torch.no_grad():
        traced = torch.jit.trace(_OpenAI(copy), torch.zeros(1, 3, 16, 16))
    torch.jit.save(traced.half(), path)


def openai_state_dict(clip: CLIP, path: Path) -> None:
    torch.save(_half(clip) | _numbers(), path)


def open_clip_bin(clip: CLIP, path: Path) -> None:
    torch.save(clip.state_dict(), path)


def open_clip_safetensors(clip: CLIP, path: Path) -> None:
    save_file(clip.state_dict(), path.with_suffix('.safetensors'))


def open_clip_checkpoint(clip: CLIP, path: Path) -> None:
    weights = {f'module.{name}': v for name, v in clip.state_dict().items()}
    optimizer = dict(state={}, param_groups=[dict(lr=1e-3)])
    torch.save(dict(epoch=3, name='x', state_dict=weights, optimizer=optimizer), path)


def custom_text(clip: CLIP, path: Path) -> None:
    weights = open_clip.model.convert_to_custom_text_state_dict(clip.state_dict())
    torch.save(weights, path)


OPENAI = (torchscript, openai_state_dict)
OPEN_CLIP = (open_clip_bin, open_clip_safetensors, open_clip_checkpoint, custom_text)


@pytest.mark.parametrize('layout', OPENAI + OPEN_CLIP, ids=lambda x: x.__name__)
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
@pytest.mark.filterwarnings('error:.*QuickGELU')
def test_features_are_those_of_open_clips_own_loading(layout, clip, tmp_path):
    path = tmp_path / 'clip.pt'
    layout(clip, path)
    (path,) = tmp_path.iterdir()
    if layout in OPENAI:
        expected = open_clip.openai.load_openai_model(str(path), precision='fp32')
    else:
        expected = CustomTextCLIP(**ARCHITECTURE).eval()
        open_clip.load_checkpoint(expected, str(path))
    encoder = dict(model=ARCHITECTURE, pretrained=str(path))
    options = dict(output='projection', output_cls_token=True)
    backbone, texts = PACLBackbone(**encoder, **options), OpenCLIPTextEncoder(**encoder)
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        cls = backbone(images)[0][1]
        torch.testing.assert_close(cls, expected.encode_image(images))
        embeddings = expected.encode_text(texts.tokenize(TEXTS), normalize=True)
    torch.testing.assert_close(texts(TEXTS), embeddings)
    assert texts.logit_scale == pytest.approx(expected.logit_scale.exp().item())


@pytest.mark.parametrize('suffix', ['.bin', '.safetensors'])
def test_transformers_layout(suffix, tmp_path):
    """Against what that library computed; tests/parity has its model."""
    with np.load(GOLDENS) as stored:
        values = {name: torch.from_numpy(stored[name]) for name in stored}
    outputs = ('images', 'tokens', 'image_embeds', 'text_embeds')
    images, tokens, image_embeds, text_embeds = map(values.pop, outputs)
    path = str(tmp_path / f'model{suffix}')
    if suffix == '.bin':  # older files say the numbers of positions
        values['text_model.embeddings.position_ids'] = torch.arange(8)[None]
        torch.save(values, path)
    else:
        save_file(values, path)
    architecture = dict(
        embed_dim=8,
        quick_gelu=True,
        vision_cfg=dict(image_size=24, patch_size=8, width=16, layers=2, head_width=8),
        text_cfg=dict(context_length=8, vocab_size=64, width=16, heads=2, layers=2),
    )
    clip = build_open_clip(architecture, path)
    vision = PACLBackbone(
        architecture, clip=clip, output='projection', output_cls_token=True
    )
    texts = OpenCLIPTextEncoder(architecture, clip=clip)
    cls = F.normalize(vision(images)[0][1], dim=-1)
    torch.testing.assert_close(cls, image_embeds, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(texts(tokens), text_embeds, rtol=1e-5, atol=1e-6)


def test_openais_weights_under_another_activation_warn(clip, tmp_path):
    openai_state_dict(clip, tmp_path / 'clip.pt')
    with pytest.warns(UserWarning, match='trained with QuickGELU'):
        build_open_clip(ARCHITECTURE | {'quick_gelu': False}, str(tmp_path / 'clip.pt'))


NAMED = 'visual.ln_post.weight'


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda w: w.pop(NAMED), r'it lacks visual.ln_post.weight \(64,\)'),
        (lambda w: w.update(head=torch.ones(2, 3)), r'has unknown head \(2, 3\)'),
        (
            lambda w: w.update({NAMED: torch.ones(65)}),
            r'in another shape visual.ln_post.weight \(65,\) in place of \(64,\)',
        ),
        (
            lambda w: w.update({NAMED: torch.full((64,), torch.nan)}),
            'not finite in visual.ln_post.weight',
        ),
        (lambda w: w.update(head='x'), 'head is no tensor, but of type str'),
        (lambda w: w.clear(), 'holds no state dict'),
        (lambda w: w.update(head=Path()), 'holds Python objects, which are not loaded'),
    ],
    ids=['lacking', 'unknown', 'shape', 'nan', 'text', 'empty', 'object'],
)
def test_what_does_not_fit_is_named(change, message, clip, tmp_path):
    weights = dict(clip.state_dict())
    change(weights)
    path = str(tmp_path / 'clip.pt')
    torch.save(weights, path)
    with pytest.raises(RuntimeError, match=f'{path} does not hold weights.*{message}'):
        build_open_clip(ARCHITECTURE, path)


def test_other_files_end_in_one_sentence(tmp_path):
    for name, content in (
        *(('a.pt', b'no weights'), ('b.safetensors', b'{}'), ('c.pt', b'')),
        ('d.pt', b'PK\x03\x04 half an archive'),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RuntimeError, match=f'{name} does not hold weights') as info:
            build_open_clip(ARCHITECTURE, str(tmp_path / name))
        assert '\n' not in str(info.value)


def test_nothing_in_an_archive_is_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / 'executed',)

    with zipfile.ZipFile(tmp_path / 'evil.pt', 'w') as archive:
        archive.writestr('evil/data.pkl', pickle.dumps(Evil(), protocol=2))
        archive.writestr('evil/constants.pkl', pickle.dumps((), protocol=2))
        archive.writestr('evil/version', '3\n')
    with pytest.raises(RuntimeError, match='evil.pt does not hold weights'):
        build_open_clip(ARCHITECTURE, str(tmp_path / 'evil.pt'))
    assert not (tmp_path / 'executed').exists()


def test_an_archive_that_would_unfold_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / 'a.pt', 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('a/constants.pkl', b'')
        archive.writestr('a/data/0', bytes(1 << 20))
    with pytest.raises(RuntimeError, match='its tensors are compressed'):
        build_open_clip(ARCHITECTURE, str(tmp_path / 'a.pt'))
