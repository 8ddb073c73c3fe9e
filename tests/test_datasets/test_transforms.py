import copy
import io
import os
import pickle
import subprocess
import sys
import types
from pathlib import Path

import ftfy
import numpy as np
import open_clip
import pytest
import torch
import torchvision
from PIL import EpsImagePlugin, Image, ImageFile
from torch.utils.data import DataLoader, Dataset

from pacl_mmseg.datasets.counts import REASONS, SampleCounts, printable, sample_counts
from pacl_mmseg.datasets.transforms import (
    CLIPResizeCrop,
    LoadPILImage,
    LoadSegmentationMask,
    NounPrompt,
    PickCaption,
    TokenizeCaption,
)
from pacl_mmseg.models import OpenCLIPTextEncoder
from pacl_mmseg.registry import TRANSFORMS

ROOT = Path(__file__).parents[2]
SHARED_DATA = Path(os.environ.get('PACL_SHARED_DATA', ROOT.parent / 'shared' / 'data'))


@pytest.fixture(autouse=True)
def zero_counts():
    sample_counts.reset()


def counted() -> dict:
    return {reason: n for reason, n in sample_counts.totals().items() if n}


def encode(image: Image.Image, kind: str = 'PNG', **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(height: int = 40, width: int = 60) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 4, y * 6, (x + y) * 2], -1).astype(np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    """A picture with structure of all sizes, as a photograph has."""
    rng = np.random.default_rng(0)
    total = np.zeros((height, width, 3))
    for step in (4, 16, 64):
        noise = rng.integers(0, 256, (height // step + 1, width // step + 1, 3))
        image = Image.fromarray(noise.astype(np.uint8))
        total += np.asarray(image.resize((width, height), Image.BICUBIC)) / 3
    return total.astype(np.uint8)


# What makes loading faster than the plain path.
FASTER = [dict(jpeg_decoder='torchvision'), dict(min_size=16)]


def load(data: bytes) -> dict | None:
    return LoadPILImage()(dict(img_bytes=data, img_path='a.png', key='a'))


def test_load_rgb_is_bgr_and_exact(tmp_path):
    path = tmp_path / 'a.png'
    Image.fromarray(gradient()).save(path)
    results = LoadPILImage()(dict(img_path=str(path)))
    assert results['img'].dtype == np.uint8
    assert results['img'].flags['WRITEABLE']
    assert (results['img'][..., ::-1] == gradient()).all()
    assert results['img_shape'] == results['ori_shape'] == (40, 60)
    assert counted() == {}


def test_load_bytes_are_taken_out_of_the_sample():
    results = load(encode(Image.fromarray(gradient())))
    assert 'img_bytes' not in results
    assert results['img'].shape == (40, 60, 3)


def test_load_grayscale():
    gray = gradient()[..., 0]
    results = load(encode(Image.fromarray(gray)))
    assert (results['img'] == gray[..., None]).all()
    assert counted() == {'converted_image': 1}


@pytest.mark.parametrize('kind', ['PNG', 'TIFF'])
def test_load_16_bit_is_scaled_not_clipped(kind):
    wide = np.linspace(0, 65535, 2400).reshape(40, 60).astype(np.uint16)
    results = load(encode(Image.fromarray(wide), kind))
    assert np.abs(results['img'][..., 0] - wide / 257).max() <= 0.51
    assert results['img'].max() == 255
    assert counted() == {'converted_image': 1}


def test_load_cmyk():
    cmyk = Image.new('CMYK', (8, 8), (0, 255, 255, 0))
    results = load(encode(cmyk, 'JPEG', quality=95))
    blue, green, red = results['img'][4, 4].astype(int)
    assert red > 200 and green < 60 and blue < 60
    assert counted() == {'converted_image': 1}


def test_load_palette_with_transparency():
    palette = Image.new('P', (4, 2), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.paste(1, (2, 0, 4, 2))
    results = load(encode(palette, transparency=0))
    assert results['img'][0, 0].tolist() == [255, 255, 255]  # transparent: white
    assert results['img'][0, 3].tolist() == [255, 0, 0]  # blue
    assert counted() == {'converted_image': 1}


@pytest.mark.parametrize('mode', ['RGBA', 'LA'])
def test_load_alpha_is_laid_over_white(mode):
    image = Image.new(mode, (4, 4), (0, 0, 0, 0) if mode == 'RGBA' else (0, 0))
    image.putpixel((1, 1), (0, 0, 0, 255) if mode == 'RGBA' else (0, 255))
    results = load(encode(image))
    assert results['img'][0, 0].tolist() == [255, 255, 255]
    assert results['img'][1, 1].tolist() == [0, 0, 0]


def test_load_does_not_apply_exif_orientation():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    results = load(encode(Image.fromarray(gradient()), 'JPEG', exif=exif))
    assert results['img_shape'] == (40, 60)


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP'])
@pytest.mark.parametrize('part', [0.0, 0.1, 0.5, 0.9])
def test_truncated_image_is_dropped(kind, part):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), kind)
    assert load(data[: int(len(data) * part)]) is None
    assert counted() == {'corrupt_image': 1}


@pytest.mark.parametrize('part', [0.0, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize('options', FASTER, ids=str)
def test_truncated_jpeg_is_dropped_by_every_decoder(options, part):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), 'JPEG')
    transform = LoadPILImage(**options)
    assert transform(dict(img_bytes=data)) is not None
    assert transform(dict(img_bytes=data[: int(len(data) * part)])) is None
    assert counted() == {'corrupt_image': 1}


@pytest.mark.parametrize('mode', ['RGB', 'L', 'CMYK'])
@pytest.mark.parametrize('progressive', [False, True])
@pytest.mark.parametrize('subsampling', [0, 1, 2])
def test_both_jpeg_decoders_give_the_same_pixels(mode, progressive, subsampling):
    image = Image.fromarray(smooth(203, 333)).convert(mode)
    data = encode(image, 'JPEG', progressive=progressive, subsampling=subsampling)
    plain = load(data)
    other = LoadPILImage(jpeg_decoder='torchvision')(dict(img_bytes=data))
    assert (plain['img'] == other['img']).all()
    assert other['img'].flags['WRITEABLE']
    assert counted() == ({} if mode == 'RGB' else {'converted_image': 2})


@pytest.mark.parametrize(
    'min_size, size', [(224, (240, 320)), (120, (120, 160)), (60, (60, 80))]
)
@pytest.mark.parametrize('mode', ['RGB', 'L'])
def test_jpeg_is_decoded_at_reduced_size(mode, min_size, size):
    image = Image.fromarray(smooth(480, 640)).convert(mode)
    # Colours at full resolution too, so that only the codec's own reduction shows.
    data = encode(image, 'JPEG', quality=95, subsampling=0 if mode == 'RGB' else -1)
    results = LoadPILImage(min_size=min_size)(dict(img_bytes=data))
    assert results['img_shape'] == results['img'].shape[:2] == size
    assert results['ori_shape'] == (480, 640)
    expected = np.asarray(image.convert('RGB').resize(size[::-1], Image.BOX))
    difference = np.abs(results['img'][..., ::-1].astype(int) - expected)
    assert difference.mean() < 1.5


@pytest.mark.parametrize('kind, min_size', [('JPEG', 241), ('PNG', 100), ('WEBP', 100)])
def test_what_cannot_be_reduced_is_decoded_in_full(kind, min_size):
    data = encode(Image.fromarray(smooth(480, 640)), kind)
    results = LoadPILImage(min_size=min_size)(dict(img_bytes=data))
    assert (results['img'] == load(data)['img']).all()


def test_without_torchvisions_decoder_pillow_decodes(monkeypatch):
    data = encode(Image.fromarray(smooth(40, 30)), 'JPEG')
    monkeypatch.delattr(torchvision.io, 'decode_jpeg')
    with pytest.warns(UserWarning, match='torchvision cannot decode JPEG files here'):
        loader = LoadPILImage(jpeg_decoder='torchvision')
    assert (loader(dict(img_bytes=data))['img'] == load(data)['img']).all()


def test_unknown_decoder_and_size_are_refused():
    with pytest.raises(ValueError, match='torchvision'):
        LoadPILImage(jpeg_decoder='turbo')
    with pytest.raises(ValueError, match='min_size'):
        LoadPILImage(min_size=0)
    with pytest.raises(ValueError, match='max_pixels'):
        LoadPILImage(max_pixels=0)


def test_damaged_bytes_in_png_are_noticed():
    intact = encode(Image.fromarray(gradient()))
    for place in range(len(intact)):
        data = bytearray(intact)
        data[place] ^= 0xFF
        results = load(bytes(data))
        assert results is None or (results['img'][..., ::-1] == gradient()).all()
    assert counted()['corrupt_image'] > len(intact) // 2


def test_text_in_place_of_an_image_is_dropped():
    assert load(b'<html>404 not found</html>') is None
    assert counted() == {'corrupt_image': 1}


def test_missing_file_is_dropped(tmp_path):
    assert LoadPILImage()(dict(img_path=str(tmp_path / 'no.jpg'))) is None
    assert counted() == {'missing_file': 1}


def test_decompression_bomb_is_dropped(monkeypatch):
    data = encode(Image.fromarray(gradient()))
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    assert load(data) is None
    assert counted() == {'oversized_image': 1}


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP', 'BMP', 'GIF', 'TIFF'])
def test_an_image_over_the_limits_is_not_decoded(monkeypatch, kind):
    data = encode(Image.fromarray(gradient()), kind)
    assert LoadPILImage(max_pixels=2400)(dict(img_bytes=data)) is not None
    assert LoadPILImage(max_bytes=len(data))(dict(img_bytes=data)) is not None
    sample_counts.reset()
    monkeypatch.setattr(ImageFile.ImageFile, 'load', None)
    assert LoadPILImage(max_pixels=2399)(dict(img_bytes=data)) is None
    assert counted() == {'oversized_image': 1}
    assert LoadPILImage(max_bytes=len(data) - 1)(dict(img_bytes=data)) is None
    assert counted() == {'oversized_image': 1, 'oversized_file': 1}


def test_a_file_over_the_limit_is_not_read(tmp_path):
    with open(tmp_path / 'a.png', 'wb') as file:
        file.truncate(2**36)  # sparse
    assert LoadPILImage()(dict(img_path=str(tmp_path / 'a.png'))) is None
    assert counted() == {'oversized_file': 1}


def test_a_jpeg_of_endless_scans_is_dropped():
    data = encode(Image.fromarray(gradient()), 'JPEG', progressive=True)
    scan = data[data.rindex(b'\xff\xda') : -2]
    for scans, loaded in ((50, True), (200, False)):
        longer = data[:-2] + scan * scans + data[-2:]
        assert (load(longer) is not None) == loaded
    assert counted() == {'corrupt_image': 1}


def test_no_program_is_started_for_a_postscript_file(tmp_path, monkeypatch):
    (tmp_path / 'gs').write_text(f'#!/bin/sh\necho >> {tmp_path}/started\nexit 1\n')
    (tmp_path / 'gs').chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, 'gs_binary', None)
    data = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n'
    assert load(data) is None
    assert counted() == {'corrupt_image': 1}
    (tmp_path / 'a.png').write_bytes(data)
    mask = dict(seg_map_path=str(tmp_path / 'a.png'))
    with pytest.raises(ValueError, match='cannot be decoded'):
        LoadSegmentationMask(2)._load_seg_map(mask)
    assert not (tmp_path / 'started').exists()
    with pytest.raises((OSError, subprocess.CalledProcessError)):
        Image.open(io.BytesIO(data)).load()
    assert (tmp_path / 'started').exists()  # as Pillow would have done


@pytest.mark.parametrize('backend', ['pillow', 'torch'])
@pytest.mark.parametrize('crop', ['center', 'random'])
def test_a_narrow_image_is_dropped(backend, crop):
    transform = CLIPResizeCrop('ViT-B-32', crop=crop, backend=backend)
    for height, width in ((5_000_000, 1), (1, 5000), (10, 201)):
        image = np.zeros((height, width, 3), np.uint8)
        assert transform(dict(img=image, img_path='a')) is None
    assert counted() == {'narrow_image': 3}
    image = np.zeros((10, 200, 3), np.uint8)
    assert transform(dict(img=image))['img'].shape == (224, 224, 3)
    with pytest.raises(ValueError, match='max_aspect'):
        CLIPResizeCrop('ViT-B-32', max_aspect=0.5)


def photographs() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    sizes = [(37, 91), (300, 224), (224, 224), (500, 333)]
    images = [rng.integers(0, 255, (*size, 3), dtype=np.uint8) for size in sizes]
    return [*images, gradient()]


@pytest.mark.parametrize(
    'model, pretrained',
    [
        ('ViT-B-16', 'openai'),
        ('ViT-B-16', None),
        ('ViT-B-16-SigLIP', 'webli'),  # squashes, does not crop
        ('ViT-L-14-336-quickgelu', 'openai'),
    ],
)
def test_center_crop_is_that_of_open_clip(model, pretrained):
    tag = open_clip.get_pretrained_cfg(model, pretrained) if pretrained else {}
    reference = open_clip.image_transform(
        open_clip.get_model_config(model)['vision_cfg']['image_size'],
        is_train=False,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        resize_mode=tag.get('resize_mode'),
        interpolation=tag.get('interpolation'),
    )
    transform = CLIPResizeCrop(model, pretrained)
    for rgb in photographs():
        results = transform(dict(img=rgb[..., ::-1].copy()))
        expected = (reference(Image.fromarray(rgb)) * 255).round().byte()
        got = torch.from_numpy(results['img'][..., ::-1].copy()).permute(2, 0, 1)
        assert torch.equal(got, expected)
        assert results['img_shape'] == tuple(expected.shape[1:])


def test_inline_architecture_sets_the_size():
    model = dict(embed_dim=8, vision_cfg=dict(image_size=48), text_cfg=dict())
    results = CLIPResizeCrop(model)(dict(img=gradient()))
    assert results['img'].shape == (48, 48, 3)


def test_random_crop_follows_torch_generator_and_scale():
    transform = CLIPResizeCrop('ViT-B-32', crop='random', scale=(0.2, 0.4))
    image = np.random.default_rng(0).integers(0, 255, (90, 90, 3), dtype=np.uint8)

    def crop(seed: int) -> np.ndarray:
        torch.manual_seed(seed)
        return transform(dict(img=image))['img']

    assert crop(0).shape == (224, 224, 3)
    assert (crop(0) == crop(0)).all()
    assert (crop(0) != crop(1)).any()


@pytest.mark.parametrize('model', ['ViT-B-16', 'ViT-B-16-SigLIP'])
@pytest.mark.parametrize('crop', ['center', 'random'])
def test_torch_backend_equals_pillow_but_for_rounding(model, crop):
    exact = CLIPResizeCrop(model, crop=crop)
    # It reaches data workers by whatever way they are started.
    other = pickle.loads(
        pickle.dumps(CLIPResizeCrop(model, crop=crop, backend='torch'))
    )
    for image in [smooth(480, 640), smooth(260, 700), smooth(341, 256)]:
        torch.manual_seed(0)
        expected = exact(dict(img=image))
        torch.manual_seed(0)
        got = other(dict(img=image))
        assert got['img_shape'] == expected['img_shape']
        difference = np.abs(got['img'].astype(int) - expected['img'])
        assert difference.max() <= 7
        assert (difference > 0).mean() < 0.2
        assert (difference > 1).mean() < 1e-4


def test_reduced_decoding_stays_close_after_the_crop():
    data = encode(Image.fromarray(smooth(960, 1280)), 'JPEG', quality=90)
    crop = CLIPResizeCrop('ViT-B-16')
    plain = crop(load(data))['img'].astype(int)
    reduced = crop(LoadPILImage(min_size=448)(dict(img_bytes=data)))['img']
    assert 0 < np.abs(reduced - plain).mean() < 1.5


def test_random_crop_covers_the_same_share_of_a_reduced_image():
    y, x = np.mgrid[:480, :640]
    ramp = np.stack([x * 255 / 640, y * 255 / 480, x * 0], -1).astype(np.uint8)
    data = encode(Image.fromarray(ramp), 'JPEG', quality=100, subsampling=0)
    transform = CLIPResizeCrop('ViT-B-32', crop='random', scale=(0.25, 0.3))

    def shares(min_size: int | None) -> list[float]:
        torch.manual_seed(0)
        image = LoadPILImage(min_size=min_size)(dict(img_bytes=data))['img']
        found = []
        for _ in range(40):
            crop = transform(dict(img=image))['img'].astype(float)
            # The ramps tell how wide and how high a part of the image this is.
            wide, high = np.ptp(crop[112, :, 2]) / 255, np.ptp(crop[:, 112, 1]) / 255
            found.append(wide * high)
        return found

    for values in (shares(None), shares(112)):
        assert min(values) > 0.23
        assert max(values) < 0.32


def test_unknown_model_and_crop_are_refused():
    with pytest.raises(ValueError, match='ViT-B-16'):
        CLIPResizeCrop('ViT-B-16x')
    with pytest.raises(ValueError, match='center'):
        CLIPResizeCrop('ViT-B-16', crop='centre')
    with pytest.raises(ValueError, match='pillow'):
        CLIPResizeCrop('ViT-B-16', backend='opencv')


def test_pick_caption_picks_every_caption_and_cleans():
    captions = ['  a  dog\n runs ', 'caf\u00c3\u00a9 at night', b'a cat']
    picked = {PickCaption()(dict(captions=captions))['caption'] for _ in range(60)}
    assert picked == {'a dog runs', 'café at night', 'a cat'}
    assert counted() == {}


def test_pick_caption_without_a_list():
    assert PickCaption()(dict(caption=b'a cow'))['caption'] == 'a cow'


def test_text_that_is_not_utf8_is_converted_and_counted():
    caption = PickCaption()(dict(caption=b'a caf\xe9 table'))['caption']
    assert caption == 'a caf\ufffd table'
    assert counted() == {'undecodable_text': 1}


@pytest.mark.parametrize('caption', ['', ' \n\t', b'', None, 3.0])
def test_empty_caption_is_dropped(caption):
    assert PickCaption()(dict(caption=caption)) is None
    assert counted() == {'empty_caption': 1}


def test_lone_surrogate_can_be_encoded():
    caption = PickCaption()(dict(caption='a \ud83d dog'))['caption']
    assert caption.encode('utf-8').endswith(b'dog')


@pytest.mark.parametrize(
    'text, expected', [('one two three', 'one two'), ('abcdefghijk', 'abcdefg')]
)
def test_long_caption_is_cut_between_words(text, expected):
    assert PickCaption(max_chars=7)(dict(caption=text))['caption'] == expected
    assert counted() == {'truncated_caption': 1}


def test_what_is_mended_of_a_caption_has_a_limit(monkeypatch):
    lengths = []

    def mend(text: str) -> str:
        lengths.append(len(text))
        return text

    monkeypatch.setattr(ftfy, 'fix_text', mend)
    caption = PickCaption()(dict(caption='\u00e9 word ' * 4_000_000))['caption']
    assert lengths == [8000]
    assert caption == ('\u00e9 word ' * 143)[:1001].rpartition(' ')[0]
    assert counted() == {'truncated_caption': 1}


@pytest.mark.parametrize('nouns', ['given', 'auto'])
def test_unusable_nouns_are_passed_over_and_counted(nouns):
    transform = NounPrompt(prob=1, templates=['a {}.'], nouns=nouns)
    sample = dict(caption='x', nouns=['\ud83d', 'y' * 101, 'z' * 100])
    assert transform(dict(sample))['caption'] == f'a {"z" * 100}.'
    assert transform(dict(caption='x', nouns=['\ud83d']))['caption'] == 'x'
    assert counted() == {'unusable_noun': 2}
    assert NounPrompt(max_chars=101).find_nouns(sample) == ['y' * 101, 'z' * 100]
    with pytest.raises(ValueError, match='max_chars'):
        NounPrompt(max_chars=0)


def test_noun_prompt_fills_templates_with_given_nouns():
    transform = NounPrompt(prob=1, templates=['a {}.', 'the {}.'], nouns='given')
    got = {
        transform(dict(caption='a dog on grass', nouns=['dog', 'gr{}ss']))['caption']
        for _ in range(80)
    }
    assert got == {'a dog.', 'the dog.', 'a gr{}ss.', 'the gr{}ss.'}


def test_noun_prompt_probability():
    transform = NounPrompt(prob=0.3, nouns='given')
    np.random.seed(0)
    captions = [
        transform(dict(caption='x', nouns=['n']))['caption'] for _ in range(999)
    ]
    assert 0.25 < np.mean([caption != 'x' for caption in captions]) < 0.35


@pytest.mark.parametrize('sample', [dict(caption='x'), dict(caption='x', nouns=[])])
def test_noun_prompt_without_nouns_keeps_the_caption(sample):
    assert NounPrompt(prob=1, nouns='given')(sample)['caption'] == 'x'


TINY = dict(
    embed_dim=24,
    vision_cfg=dict(image_size=32, patch_size=8, width=32, layers=1, head_width=16),
    text_cfg=dict(context_length=16, vocab_size=49408, width=16, heads=2, layers=1),
)


def test_tokens_from_a_worker_are_those_the_text_encoder_makes():
    encoder = OpenCLIPTextEncoder(TINY)
    transform = pickle.loads(pickle.dumps(TokenizeCaption(TINY)))
    captions = ['a dog', 'Caf\u00e9 &amp; bar, 24 hours', 'word ' * 40, '']
    samples = [transform(dict(caption=caption)) for caption in captions]
    assert [sample['caption'] for sample in samples] == captions
    tokens = torch.stack([sample['text_tokens'] for sample in samples])
    assert tokens.shape == (4, 16)
    assert torch.equal(tokens, encoder.tokenize(captions))
    assert torch.equal(encoder(tokens), encoder(captions))


def test_tokenizer_of_a_named_model():
    tokens = TokenizeCaption('ViT-B-16')(dict(caption='a dog'))['text_tokens']
    assert torch.equal(tokens, open_clip.get_tokenizer('ViT-B-16')('a dog')[0])


def test_words_are_forgotten_once_there_are_many(monkeypatch):
    transform, expected = TokenizeCaption(TINY), TokenizeCaption(TINY)
    for number in range(50):
        caption = (
            f'{chr(97 + number % 26)}zebra{"x" * (number // 26)} <end_of_text> dog'
        )
        tokens = expected(dict(caption=caption))['text_tokens']
        with monkeypatch.context() as patch:
            patch.setattr('pacl_mmseg.datasets.transforms.captions.MAX_WORDS', 20)
            got = transform(dict(caption=caption))['text_tokens']
        assert torch.equal(got, tokens)
        assert len(transform.tokenizer.cache) <= 20 + 5
    assert len(expected.tokenizer.cache) > 50


@pytest.mark.parametrize(
    'text', ['plain', 'a &lt;b', 'tab\there', '\x1b[1mbold', '\u201cq\u201d']
)
def test_captions_are_mended_as_ftfy_does(text):
    expected = ' '.join(ftfy.fix_text(text).split())
    assert PickCaption()(dict(caption=text))['caption'] == expected


def fake_spacy(monkeypatch, load):
    monkeypatch.setitem(sys.modules, 'spacy', types.SimpleNamespace(load=load))


def test_noun_prompt_takes_common_nouns_from_spacy(monkeypatch):
    tags = dict(A='DET', Dog='NOUN', in_='ADP', Paris='PROPN')

    def tagger(text):
        return [types.SimpleNamespace(text=w, pos_=tags[w]) for w in text.split()]

    fake_spacy(monkeypatch, lambda name, exclude: tagger)
    transform = NounPrompt(prob=1, templates=['my {}'])
    assert transform(dict(caption='A Dog in_ Paris'))['caption'] == 'my dog'


@pytest.mark.parametrize('installed', [False, True])
def test_missing_spacy_or_model_is_explained(monkeypatch, installed):
    if installed:

        def no_model(name, exclude):
            raise OSError(f"[E050] Can't find model {name!r}")

        fake_spacy(monkeypatch, no_model)
    else:
        monkeypatch.setitem(sys.modules, 'spacy', None)
    remedy = 'pip install spacy.*python -m spacy download en_core_web_sm.*prob=0'
    transform = NounPrompt(prob=1, nouns='auto')  # not needed yet
    assert transform(dict(caption='x', nouns=['cat']))['caption'] != 'x'
    with pytest.raises(ImportError, match=remedy):
        transform(dict(caption='a cat'))


@pytest.mark.parametrize(
    'options', [dict(prob=2), dict(nouns='spacy'), dict(templates='pacl8')]
)
def test_noun_prompt_refuses_bad_arguments(options):
    with pytest.raises(ValueError, match=str(next(iter(options.values())))):
        NounPrompt(**options)


def test_transforms_are_registered():
    for name in ('LoadPILImage', 'CLIPResizeCrop', 'PickCaption', 'TokenizeCaption'):
        assert TRANSFORMS.get(name) is not None


class Empties(Dataset):
    """A dataset every item of which has an empty caption."""

    def __init__(self):
        self.transform = PickCaption()

    def __len__(self):
        return 10

    def __getitem__(self, index):
        assert self.transform(dict(caption='')) is None
        return index


@pytest.mark.parametrize('method, workers', [('fork', 2), ('spawn', 1)])
def test_counts_reach_the_main_process(method, workers):
    loader = DataLoader(Empties(), num_workers=workers, multiprocessing_context=method)
    assert len(list(loader)) == 10
    assert counted() == {'empty_caption': 10}


def test_copied_transform_goes_on_counting_in_the_same_table():
    copy.deepcopy(PickCaption())(dict(caption=''))
    assert counted() == {'empty_caption': 1}


def test_counts_summary_and_unknown_reason():
    counts = SampleCounts()
    assert counts.summary() == 'nothing skipped or converted'
    assert set(counts.totals()) == set(REASONS)
    counts.add('corrupt_image', 'a.jpg')
    counts.add('corrupt_image')
    counts.add('empty_caption')
    assert counts.summary() == '2 corrupt image, 1 empty caption'
    with pytest.raises(ValueError):
        counts.add('bad_weather')


def test_names_in_the_log_are_printable():
    assert printable('a\n\0\ud83d\x1b[1m.jpg') == 'a????[1m.jpg'
    assert printable('\u00e9 \u6f22.jpg') == '\u00e9 \u6f22.jpg'
    assert printable('x' * 10**6) == 'x' * 300 + '...'


@pytest.mark.skipif(
    not (SHARED_DATA / 'coco_captions').is_dir(),
    reason=f'real photographs not found in {SHARED_DATA}; set PACL_SHARED_DATA',
)
def test_real_photographs_equal_open_clip():
    reference = open_clip.image_transform(224, False, (0.0,) * 3, (1.0,) * 3)
    paths = sorted((SHARED_DATA / 'coco_captions' / 'images').glob('*.jpg'))[:8]
    transforms = LoadPILImage(), CLIPResizeCrop('ViT-B-16', 'openai')
    for path in paths:
        results = dict(img_path=str(path))
        for transform in transforms:
            results = transform(results)
        expected = (reference(Image.open(path)) * 255).round().byte()
        got = torch.from_numpy(results['img'][..., ::-1].copy()).permute(2, 0, 1)
        assert torch.equal(got, expected)
