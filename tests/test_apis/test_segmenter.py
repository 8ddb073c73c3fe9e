"""A photo and words in, a segmentation out."""

from __future__ import annotations

import io
import json
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from ssl import SSLCertVerificationError
from threading import Event
from unittest import mock
from urllib.error import URLError

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from PIL import Image
from safetensors.torch import load_file, save_file

from pacl_mmseg import Segmenter
from pacl_mmseg.apis import Inferencer, export, init_model, load_config, set_vocabulary
from pacl_mmseg.apis.export import check_settings
from pacl_mmseg.apis.images import read_image
from pacl_mmseg.datasets.small_world import CLASSES, render_scene
from pacl_mmseg.paths import CONFIGS
from pacl_mmseg.prompts import Vocabulary
from pacl_mmseg.registry import DATASETS

SCENE = render_scene(0, split='test')
CONFIG = str(CONFIGS / 'small_world' / 'pacl.py')
SHIPPED = str(CONFIGS / 'small_world' / 'pacl.safetensors')


@pytest.fixture(scope='module')
def segmenter() -> Segmenter:
    return Segmenter('pacl', world='small', device='cpu')


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """An exported model."""
    folder = tmp_path_factory.mktemp('shared') / 'model'
    export(CONFIG, SHIPPED, folder)
    return folder


def test_labels_are_those_of_a_test(segmenter):
    """Of the config's own model, data and text bank, in one batch."""
    model = init_model(CONFIG, SHIPPED, 'cpu')
    dataset = dict(model.cfg.test_dataloader.dataset, num_scenes=6)
    scenes = [DATASETS.build(dataset)[i] for i in range(6)]
    with torch.no_grad():
        expected = model.test_step(pseudo_collate(scenes))
    images = [render_scene(i, split='test').image for i in range(6)]
    results = segmenter(images, list(CLASSES))
    right = []
    for result, sample, image in zip(results, expected, images, strict=True):
        assert np.array_equal(result.labels, sample.pred_sem_seg.data[0].numpy())
        assert np.array_equal(result.image, image)
        truth = sample.gt_sem_seg.data[0].numpy()
        right.append((result.labels == truth)[truth < 255].mean())
    assert np.mean(right) > 0.7  # the shipped embedder is a trained one


def test_a_result(segmenter, tmp_path):
    words = ['plain red, red', 'dotted blue', 'striped green']
    result = segmenter(SCENE.image, words)
    assert result.words == list(result.scores) == ['plain red', *words[1:]]
    assert result.labels.dtype == np.uint8
    scores = result.scores.stack(result.words)
    assert np.array_equal(scores.argmax(0), result.labels)
    assert np.array_equal(result.scores['dotted blue'], scores[1])
    assert scores.min() >= 0 and scores.sum(0).max() < 1.0001  # of all four names
    assert np.array_equal(result.scores.best, scores.max(0))
    assert sum(result.areas.values()) == pytest.approx(1)
    assert result.areas['dotted blue'] == (result.labels == 1).mean()
    with pytest.raises(KeyError, match="Did you mean 'dotted blue'"):
        result.scores['doted blue']
    assert np.array_equal(result.overlay(0), result.image)
    assert np.array_equal(result.overlay(1), result.palette[result.labels])
    bare = result.scores.best < 0.9
    assert 0 < bare.sum() < bare.size
    drawn = result.overlay(1, threshold=0.9)
    assert np.array_equal(drawn[bare], result.image[bare])
    assert np.array_equal(drawn[~bare], result.overlay(1)[~bare])
    paths = result.save(tmp_path / 'new' / 'out', heat_maps=2)
    assert all(path.is_file() for path in paths) and len(paths) == 5
    largest = sorted(result.words, key=result.areas.get, reverse=True)
    drawn = dict(result.heat_maps(2))
    assert [*drawn] == largest[:2] and not [*result.heat_maps(0)]
    for word in largest[:2]:
        assert np.array_equal(drawn[word], result.heat_map(word))
        number = result.words.index(word) + 1
        name = f'{number:03}_{word.replace(" ", "_")}.png'
        file = Image.open(tmp_path / 'new' / 'out' / 'heat_maps' / name)
        assert np.array_equal(np.array(file), drawn[word])
    labels = Image.open(tmp_path / 'new' / 'out' / 'labels.png')
    assert np.array_equal(np.array(labels), result.labels)
    assert np.array_equal(np.array(labels.convert('RGB')), result.overlay(1))
    summary = json.loads((tmp_path / 'new' / 'out' / 'areas.json').read_text())
    assert summary == dict(width=64, height=64, areas=result.areas)


def test_words_that_are_no_names_of_files(segmenter, tmp_path):
    words = ['../../x', '<b>red</b>', 'חתול', '🐈', 'a' * 400, 'CON', '.']
    for path in segmenter(SCENE.image, words).save(tmp_path / 'out'):
        assert tmp_path / 'out' in path.resolve().parents


def test_more_words_than_a_byte_counts(segmenter, tmp_path):
    result = segmenter(SCENE.image, [f'{c} {i}' for c in CLASSES for i in range(9)])
    assert result.labels.dtype == np.uint16 and result.labels.max() > 255
    result.save(tmp_path, heat_maps=0)
    assert np.array_equal(np.array(Image.open(tmp_path / 'labels.png')), result.labels)


def test_batches_of_any_sizes_are_single_images(segmenter, tmp_path):
    sizes = [(64, 64), (90, 64), (64, 64), (30, 200)]
    images = [
        np.array(Image.fromarray(render_scene(i, split='test').image).resize(size))
        for i, size in enumerate(sizes)
    ]
    together = segmenter(images, CLASSES[:6])
    for image, result in zip(images, together, strict=True):
        alone = segmenter(image, CLASSES[:6])
        assert result.labels.shape == image.shape[:2]
        assert (alone.labels == result.labels).mean() > 0.999  # rounding
    broken = tmp_path / 'broken.png'
    broken.write_bytes(b'no image')
    errors = []
    found = segmenter.stream(
        [images[0], broken, *images[1:]],
        CLASSES[:6],
        batch_size=2,
        on_error=lambda source, error: errors.append((source, str(error))),
    )
    assert [id(source) for source, _ in found] == [id(image) for image in images]
    assert errors[0][0] == broken and str(broken) in errors[0][1] and len(errors) == 1


def test_large_images_are_read_few_at_a_time(segmenter, monkeypatch):
    """Whatever ``batch_size`` allows."""
    image, read = SCENE.image, []
    sources = (read.append(i) or image for i in range(20))
    monkeypatch.setattr('pacl_mmseg.apis.segmenter._BATCH_PIXELS', 2 * 64 * 64)
    results = segmenter.stream(sources, CLASSES[:6])
    ahead = [len(read) - done for done, _ in enumerate(results)]
    assert len(ahead) == 20 and max(ahead) <= 4  # a batch of two, and as many ahead


def test_words_are_of_a_call(segmenter):
    first = segmenter(SCENE.image, ['plain red', 'dotted blue'])
    scores = first.scores['dotted blue']
    segmenter(SCENE.image, ['striped green', 'plain cyan', 'dotted yellow'])
    assert np.array_equal(first.scores['dotted blue'], scores)
    memory = segmenter.model.decode_head.text_memory
    encoded = len(memory._kept)
    again = segmenter(SCENE.image, ['plain cyan', 'plain red', 'dotted blue'])
    assert len(memory._kept) == encoded and again.words[0] == 'plain cyan'


def test_memory_of_texts_is_bounded_and_right(segmenter, monkeypatch):
    from pacl_mmseg.models.text_encoders import build_text_bank

    head = segmenter.model.decode_head
    memory = type(head.text_memory)(head.text_encoder, size=3)
    for words in (['a', 'b'], ['c, b', 'd', 'e', 'f'], ['b', 'a']):
        vocabulary = Vocabulary.from_list(words)
        bank = memory.bank(vocabulary, head.templates)
        expected = build_text_bank(head.text_encoder, vocabulary, head.templates)
        assert torch.allclose(bank.embeddings, expected.embeddings, atol=1e-6)
        assert torch.equal(bank.class_of, expected.class_of)
        assert len(memory._kept) <= 3


def pictures() -> dict:
    """The scene in every form that has its pixels."""
    image = Image.fromarray(SCENE.image)
    floats = SCENE.image.astype(np.float64) / 255
    tensor = torch.from_numpy(SCENE.image).permute(2, 0, 1)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    turned = io.BytesIO()
    image.transpose(Image.Transpose.ROTATE_90).save(turned, 'PNG', exif=exif)
    return dict(
        pil=image,
        rgba=image.convert('RGBA'),
        array=SCENE.image,
        array4=np.dstack([SCENE.image, np.full((64, 64), 255, np.uint8)]),
        floats=floats,
        tensor=tensor,
        float_tensor=tensor.float() / 255,
        turned=Image.open(turned),
    )


@pytest.mark.parametrize('form', pictures())
def test_forms_of_images(form):
    assert np.array_equal(read_image(pictures()[form]), SCENE.image)


def test_grey_and_transparent_images(tmp_path):
    grey = SCENE.image[..., 0]
    for source in (grey, Image.fromarray(grey), torch.from_numpy(grey)[None]):
        assert np.array_equal(read_image(source), np.dstack([grey] * 3))
    clear = np.zeros((8, 9, 4), np.uint8)
    assert (read_image(clear) == 255).all()
    for mode in ('1', 'L', 'P', 'LA', 'CMYK', 'I;16', 'F', 'YCbCr', 'HSV'):
        assert read_image(Image.new(mode, (9, 8))).shape == (8, 9, 3)
    path = tmp_path / 'photo.jpg'
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(SCENE.image[:40]).save(path, exif=exif)
    assert read_image(path).shape == (64, 40, 3)


@pytest.mark.parametrize(
    ('source', 'message'),
    [
        ('missing.jpg', 'There is no image file missing.jpg'),
        (7, 'not of type int'),
        (np.zeros((4, 4, 2), np.uint8), r'this one is \(4, 4, 2\)'),
        (np.zeros((0, 4, 3), np.uint8), r'this one is \(0, 4, 3\)'),
        (torch.zeros(5, 4, 3), r'this one is \(5, 4, 3\)'),
        (np.full((4, 4, 3), 300), 'int64 outside'),
        (np.full((4, 4), np.nan), 'float64 outside'),
        (np.zeros((4, 4), bool), 'bool outside'),
        (np.zeros((2, 400), np.uint8), 'more than 50 times'),
        (np.zeros((101, 100), np.uint8), 'at most 10,000 in all'),
        (Image.new('RGB', (101, 100)), 'at most 10,000 in all'),
    ],
)
def test_images_that_are_refused(source, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_image(source, max_pixels=10_000)


@pytest.mark.parametrize('kind', ['cut', 'text', 'large', 'empty'])
def test_files_that_are_refused(kind, tmp_path):
    path = tmp_path / 'photo.png'
    Image.fromarray(SCENE.image).save(path)
    data = path.read_bytes()
    content = dict(cut=data[:-2000], text=b'<svg/>', large=data, empty=b'')[kind]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=str(path)) as caught:
        read_image(path, max_pixels=4000 if kind == 'large' else 10_000)
    assert '\n' not in str(caught.value) and 'BytesIO' not in str(caught.value)


def test_the_short_side_is_of_a_call(segmenter):
    words = list(CLASSES[:4])
    image = Image.fromarray(SCENE.image).resize((96, 64))
    plain, large = (segmenter(image, words, short_side=s) for s in (None, 128))
    assert plain.labels.shape == large.labels.shape == (64, 96)
    assert not np.array_equal(plain.scores['plain red'], large.scores['plain red'])
    same = segmenter(image, words, short_side=64)
    assert np.array_equal(plain.scores['plain red'], same.scores['plain red'])
    with pytest.raises(ValueError, match='from 32 to 2048 pixels, not 8'):
        segmenter(image, words, short_side=8)


def test_a_model_that_is_shared(folder):
    own = Segmenter('pacl', world='small', device='cpu')
    shared = Segmenter(str(folder), device='cpu')
    for name, value in own.model.state_dict().items():
        if not name.endswith('_extra_state'):
            assert torch.equal(value, shared.model.state_dict()[name])
    words = list(CLASSES)
    mine, theirs = own(SCENE.image, words), shared(SCENE.image, words)
    assert np.array_equal(mine.scores.stack(words), theirs.scores.stack(words))
    files = {path.name for path in folder.iterdir()}
    assert files == {
        *('README.md', 'config.json', 'encoder.safetensors', 'model.safetensors')
    }
    for path in folder.iterdir():  # nothing of the machine that it was written on
        assert str(CONFIGS).encode() not in path.read_bytes()
    with pytest.raises(FileExistsError, match='is not empty'):
        export(CONFIG, SHIPPED, folder)
    untrained, empty = CONFIGS / 'small_world/naclip.py', folder.parent / 'empty.pth'
    with pytest.raises(RuntimeError, match=r'lacks \(the first is neck\.main'):
        export(untrained, SHIPPED, folder.parent / 'new')
    torch.save(dict(state_dict={}), empty)
    with pytest.raises(ValueError, match='no trained part, so nothing of .*empty'):
        export(untrained, empty, folder.parent / 'new')
    with pytest.raises(ValueError, match='leave checkpoint'):
        Segmenter(str(folder), world='small')


def test_the_shipped_tensors_are_what_export_writes(folder):
    shipped, written = load_file(SHIPPED), load_file(folder / 'model.safetensors')
    assert shipped.keys() == written.keys()
    assert all(torch.equal(shipped[k], written[k]) for k in shipped)
    assert os.path.getsize(SHIPPED) < 1e6


class Program:
    def __reduce__(self):
        return os.mkdir, ('executed',)


def damage(folder: Path, how: str) -> None:
    settings = json.loads((folder / 'config.json').read_text())
    model = settings['model']
    if how == 'pickle':
        (folder / 'model.safetensors').write_bytes(pickle.dumps(Program()))
    elif how == 'link':
        (folder / 'model.safetensors').rename(folder.parent / 'elsewhere')
        (folder / 'model.safetensors').symlink_to(folder.parent / 'elsewhere')
    elif how == 'python':
        (folder / 'config.json').unlink()
        (folder / 'config.py').write_text('import os; os.mkdir("executed")')
    elif how == 'other weights':
        weights = load_file(folder / 'encoder.safetensors')
        save_file(
            {k: v + 1 for k, v in weights.items()}, folder / 'encoder.safetensors'
        )
    else:
        if how == 'function':
            model['neck'] = dict(type='os.mkdir', path='executed')
        elif how == 'import':
            settings['custom_imports'] = dict(imports=['antigravity'])
        elif how == 'step':
            settings['pipeline'][0] = dict(type='os.mkdir', path='executed')
        elif how == 'stock part':
            model['backbone'] = dict(type='ResNet', depth=50)
        elif how == 'init_cfg':
            model['init_cfg'] = dict(type='Pretrained', checkpoint='evil.pth')
        elif how == 'pretrained':
            model['pretrained'] = 'evil.pth'
        elif how == 'path':
            model['encoder']['pretrained'] = '../../secret.safetensors'
        elif how == 'address':
            model['encoder']['model'] = 'hf-hub:evil/model'
        elif how == 'remote code':
            model['encoder']['model']['text_cfg'].update(
                hf_tokenizer_name='evil/model',
                tokenizer_kwargs=dict(trust_remote_code=True),
            )
        elif how == 'scope':
            model['_scope_'] = 'os'
        (folder / 'config.json').write_text(json.dumps(settings))
    if how == 'no json':
        (folder / 'config.json').write_text('{' * 100_000)


@pytest.mark.parametrize(
    ('how', 'message'),
    [
        ('pickle', 'truncated or damaged'),
        ('link', 'is a link'),
        ('python', 'has no config.json'),
        ('other weights', 'fingerprint'),
        ('function', "type 'os.mkdir', but only parts of pacl-mmseg"),
        ('import', 'does not have the model'),
        ('step', "type 'os.mkdir', but only parts"),
        ('stock part', "type 'ResNet', but only parts"),
        ('init_cfg', 'model.init_cfg is not allowed'),
        ('pretrained', 'model.pretrained is not of an encoder'),
        ('path', 'no plain name'),
        ('address', 'no plain name'),
        ('remote code', 'tokenizer_kwargs has more than clean'),
        ('scope', 'model._scope_ is not allowed'),
        ('no json', 'it is no JSON'),
    ],
)
def test_nothing_in_a_shared_folder_is_executed(
    folder, how, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    copy = tmp_path / 'copy'
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    damage(copy, how)
    with pytest.raises((ValueError, RuntimeError), match=message) as caught:
        Segmenter(str(copy), device='cpu')
    assert not (tmp_path / 'executed').exists()
    assert '\n' not in str(caught.value)


def test_every_method_can_be_shared():
    from pacl_mmseg.apis.export import steps_of
    from pacl_mmseg.benchmark.configs import ENCODERS, compose

    for method in ('clip', 'naclip', 'pacl', 'clippy', 'nms05'):
        for encoder in ENCODERS if method == 'pacl' else ENCODERS[:1]:
            config = compose(method, 'voc20', encoder=encoder)
            parts = dict(model=config.model, pipeline=steps_of(config))
            check_settings(dict(json.loads(json.dumps(parts)), format=1))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(model='naclp'), "no method or folder 'naclp'.*Did you mean 'naclip'"),
        (dict(model='pacl'), 'no weights of it have been published.*--small-world'),
        (dict(model='clippy', world='small'), 'small world only that of pacl'),
        (dict(model='naclip', checkpoint='x.pth'), 'NACLIP takes no checkpoint'),
        (dict(model='naclip', encoder='vitb'), "no encoder 'vitb'"),
        (dict(model='naclip', world='large'), 'world must be one of'),
        (dict(model='naclip', world='small', encoder='vitl14'), 'its own encoder'),
        (dict(model='hf-hub:../x'), 'no address such as'),
        (dict(model='hf-hub:user/name'), 'hf-hub:user/name could not be fetched'),
        (
            dict(model='naclip'),
            r"'openai' weights of .* could not be fetched; .*\(--pretrained\)",
        ),
    ],
)
def test_what_is_no_model(arguments, message, tmp_path, monkeypatch):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path))
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    with pytest.raises((ValueError, RuntimeError), match=message):
        Segmenter(**arguments)


def test_an_inferencer_takes_words_too(segmenter):
    config = load_config(CONFIG)
    inferencer = Inferencer(config, SHIPPED, device='cpu', show_progress=False)
    words = ['plain red', 'dotted blue', 'striped green']
    set_vocabulary(inferencer, words, templates='pacl7')
    labels = inferencer(SCENE.image[..., ::-1].copy())['predictions']
    assert np.array_equal(labels, segmenter(SCENE.image, words).labels)
    meta = inferencer.visualizer.dataset_meta
    assert list(meta['classes']) == words
    assert meta['palette'] == segmenter(SCENE.image, words).palette.tolist()


def test_a_config_of_ones_own(segmenter, tiny_model):
    own = Segmenter.from_config(CONFIG, SHIPPED, device='cpu')
    words = list(CLASSES[:5])
    expected = segmenter(SCENE.image, words).labels
    assert np.array_equal(own(SCENE.image, words).labels, expected)
    rule = {'model.test_cfg.background': dict(rule='probability', threshold=0.5)}
    ruled = Segmenter.from_config(CONFIG, SHIPPED, device='cpu', cfg_options=rule)
    result = ruled(SCENE.image, words)
    scores = result.scores.stack(words)
    assert (result.labels == 0).sum() > (expected == 0).sum()
    assert np.array_equal(scores.argmax(0), result.labels)
    tiny_model.neck, tiny_model.backbone.output = None, 'projection'
    stock = Config(dict(model=tiny_model, test_pipeline=[dict(type='PackSegInputs')]))
    with pytest.raises(ValueError, match='a ZeroShotSegmentor, not of a EncoderDecod'):
        Segmenter.from_config(stock, device='cpu')


def test_without_a_connection_the_hub_is_not_waited_for(monkeypatch):
    from huggingface_hub import constants

    from pacl_mmseg.utils.hub import hub

    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    monkeypatch.setattr(constants, 'ENDPOINT', 'http://127.0.0.1:9')  # nobody listens
    inside = Event()

    def use(wait: bool) -> None:
        if wait:
            inside.wait()
        with hub():
            assert constants.HF_HUB_OFFLINE
            inside.set()
            Event().wait(0.2)  # in which the other one may come

    with ThreadPoolExecutor(2) as pool:
        assert [*pool.map(use, (True, False))] == [None, None]
    assert not constants.HF_HUB_OFFLINE


def test_a_certificate_that_python_does_not_know_is_an_answer(monkeypatch):
    from pacl_mmseg.utils import hub

    for reason, answered in ((SSLCertVerificationError(), True), (OSError(), False)):
        error = URLError(reason)
        monkeypatch.setattr('urllib.request.urlopen', mock.Mock(side_effect=error))
        assert hub._reachable() is answered
