"""Writing feature caches, and training from them, on a tiny CLIP."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import pickle
import resource
import runpy
import shutil
import signal
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from PIL import Image
from safetensors.torch import load_file

from pacl_mmseg.apis import load_config
from pacl_mmseg.datasets import CachedFeatures, ShuffledDraws, collate_image_text
from pacl_mmseg.datasets.counts import sample_counts
from pacl_mmseg.datasets.feature_cache import (
    VERSION,
    pack_tokens,
    unpack_tokens,
)
from pacl_mmseg.datasets.feature_caching import cache_features
from pacl_mmseg.engine.batches import EndlessBatches
from pacl_mmseg.registry import DATASETS, MODELS, RUNNERS

ROOT = Path(__file__).resolve().parents[2]
PHOTOGRAPHS = 11


def silent(line: str) -> None:
    pass


def write(model, source, root, **options):
    options = dict(dtype='float32', num_workers=0, shard_size=4, batch_size=3) | options
    sample_counts.reset()
    return cache_features(model, source, root, report=silent, **options)


@pytest.fixture(scope='session')
def photographs(tmp_path_factory) -> Path:
    """Eleven pictures of different sizes, with two to four captions each."""
    folder = tmp_path_factory.mktemp('photographs')
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for index in range(PHOTOGRAPHS):
        size = 40 + 3 * index, 70 - 2 * index
        coarse = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        name = f'{index:03d}.jpg'
        Image.fromarray(coarse).resize(size, Image.BICUBIC).save(folder / name)
        images.append(dict(id=index, file_name=name))
        for number in range(2 + index % 3):
            caption = f'  picture {index} said\tin way {number} '
            annotations.append(dict(id=0, image_id=index, caption=caption))
    content = dict(images=images, annotations=annotations)
    (folder / 'captions.json').write_text(json.dumps(content))
    return folder


@pytest.fixture
def source(photographs, tiny_clip) -> dict:
    return dict(
        type='CocoCaptionsDataset',
        ann_file='captions.json',
        data_root=str(photographs),
        pipeline=[
            dict(type='LoadPILImage'),
            dict(type='PickCaption'),
            dict(type='CLIPResizeCrop', model=tiny_clip, crop='center'),
            dict(type='PackImageText'),
        ],
    )


@pytest.fixture
def scenes() -> dict:
    """A source whose captions have nouns."""
    return dict(
        type='SmallWorldCaptions',
        num_scenes=9,
        size=32,
        pipeline=[
            dict(type='PickCaption'),
            dict(type='NounPrompt', prob=0.5, nouns='given', templates='pacl7'),
            dict(type='PackImageText'),
        ],
    )


@pytest.fixture
def model(tiny_model):
    torch.manual_seed(0)
    return MODELS.build(tiny_model)


def batches(dataset, count: int, size: int = 5) -> list[dict]:
    draws = ShuffledDraws(dataset, seed=3)
    return [
        collate_image_text([draws[n] for n in range(size * k, size * (k + 1))])
        for k in range(count)
    ]


def train(model, data: list[dict]) -> list[float]:
    """Losses of a step per batch, from the same start; the model is left as it was."""
    start = {k: v.clone() for k, v in model.neck.state_dict().items()}
    optimizer = torch.optim.SGD(model.neck.parameters(), lr=0.5)
    losses = []
    for batch in data:
        inputs = model.data_preprocessor(batch, training=True)
        loss, _ = model.parse_losses(model(**inputs, mode='loss'))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.neck.load_state_dict(start)
    return losses


# -------------------------------------------------------------------- equal training


@pytest.mark.parametrize(
    ('dtype', 'tolerance'),
    [('float32', 1e-6), ('float16', 1e-4), ('bfloat16', 1e-3), ('int8', 5e-3)],
)
def test_losses_are_those_from_pixels(model, source, tmp_path, dtype, tolerance):
    write(model, source, tmp_path / 'cache', dtype=dtype)
    cached = CachedFeatures(tmp_path / 'cache', source)
    assert len(cached) == PHOTOGRAPHS
    cached.check(model)
    pixels, features = batches(DATASETS.build(source), 6), batches(cached, 6)
    for image_batch, token_batch in zip(pixels, features, strict=True):
        assert token_batch['inputs'].shape == (5, 16, 32)
        for key in ('captions', 'img_path'):
            expected = image_batch['data_samples'][key]
            assert token_batch['data_samples'][key] == expected
        assert token_batch['data_samples']['grid'] == (4, 4)
    expected = train(model, pixels)
    losses = train(model, features)
    assert np.std(expected) > 100 * tolerance  # or there would be nothing to compare
    np.testing.assert_allclose(losses, expected, rtol=tolerance)


def test_draws_captions_and_nouns_as_from_pixels(model, scenes, tmp_path):
    write(model, scenes, tmp_path / 'cache', dtype='int8')
    for prob in (0.5, 1.0, 0.0, None):
        if prob is None:
            del scenes['pipeline'][1]
        else:
            scenes['pipeline'][1]['prob'] = prob
        pixels = ShuffledDraws(DATASETS.build(scenes), seed=1)
        cached = ShuffledDraws(CachedFeatures(tmp_path / 'cache', scenes), seed=1)
        drawn = [cached[n]['data_samples'] for n in range(40)]
        captions = [pixels[n]['data_samples']['caption'] for n in range(40)]
        assert [sample['caption'] for sample in drawn] == captions
        embeddings = torch.stack([sample['text_embeddings'] for sample in drawn])
        expected = model.decode_head.text_encoder(captions)
        torch.testing.assert_close(embeddings, expected, rtol=0, atol=1e-6)


def test_cls_tokens_are_kept_where_the_backbone_gives_them(
    tiny_model, source, tmp_path
):
    tiny_model.backbone.update(output_cls_token=True, output='projection')
    tiny_model.neck = None
    tiny_model.decode_head.compatibility = dict(mode='cls')
    model = MODELS.build(tiny_model)
    write(model, source, tmp_path / 'cache')
    cached = CachedFeatures(tmp_path / 'cache', source)
    pixels, features = batches(DATASETS.build(source), 1), batches(cached, 1)
    assert features[0]['inputs'].shape == (5, 17, 24)
    losses = []
    for data in (pixels, features):
        inputs = model.data_preprocessor(data[0], training=True)
        losses.append(model(**inputs, mode='loss')['decode.loss_infonce'].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_grid_that_is_not_square_reaches_the_backbone(tiny_model, scenes, tmp_path):
    scenes['pipeline'].insert(0, dict(type='Resize', scale=(48, 32), keep_ratio=False))
    model = MODELS.build(tiny_model)
    write(model, scenes, tmp_path / 'cache')
    cached = CachedFeatures(tmp_path / 'cache', scenes)
    cached.check(model)
    pixels, features = batches(DATASETS.build(scenes), 1), batches(cached, 1)
    maps = [
        model.extract_feat(model.data_preprocessor(data[0], training=True)['inputs'])[0]
        for data in (pixels, features)
    ]
    assert maps[0].shape[-2:] == (4, 6)
    torch.testing.assert_close(*maps, rtol=1e-5, atol=1e-6)


@pytest.fixture
def run_config(tiny_model, tmp_path) -> Config:
    """Four iterations of the small world's own config, on the tiny CLIP."""
    config = load_config(ROOT / 'configs' / 'small_world' / 'pacl.py')
    tiny_model.decode_head.pop('vocabulary')
    tiny_model.decode_head.update(dataset_name='small_world')
    tiny_model.type = 'ZeroShotSegmentor'
    tiny_model.test_cfg.present_classes = True
    config.model = tiny_model
    config.train_cfg.update(max_iters=4, val_interval=100)
    config.default_hooks.checkpoint.interval = 4
    config.log_level = 'WARNING'
    config.train_dataloader.update(
        batch_size=4,
        num_workers=0,
        persistent_workers=False,
        collate_fn=dict(type='collate_image_text'),
    )
    dataset = config.train_dataloader.dataset.dataset
    dataset.update(num_scenes=10, size=32)
    dataset.pipeline[-1] = dict(type='PackImageText')
    for loader in (config.val_dataloader, config.test_dataloader):
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
        loader.dataset.update(num_scenes=4, size=32)
    return config


def from_cache(config: Config, root: Path) -> Config:
    config = copy.deepcopy(config)
    dataset = config.train_dataloader.dataset
    dataset.dataset = dict(
        type='CachedFeatures', root=str(root), source=dataset.dataset
    )
    return config


def run(config: Config, work_dir: Path) -> Path:
    config.work_dir = str(work_dir)
    config.experiment_name = f'run{time.monotonic_ns()}'
    RUNNERS.build(config).train()
    return work_dir / 'iter_4.pth'


def test_a_run_from_the_cache_is_the_run_from_pixels(run_config, tmp_path):
    cached_config = from_cache(run_config, tmp_path / 'cache')
    source = cached_config.train_dataloader.dataset.dataset.source
    write(MODELS.build(run_config.model), source, tmp_path / 'cache')
    assert run_config.train_dataloader.dataset.dataset.type == 'SmallWorldCaptions'
    pixels = run(run_config, tmp_path / 'pixels')
    cached_config.train_dataloader.num_workers = 1
    cached = run(cached_config, tmp_path / 'cached')
    weights = [torch.load(p, weights_only=True)['state_dict'] for p in (pixels, cached)]
    assert weights[0].keys() == weights[1].keys()
    for name, expected in weights[0].items():
        torch.testing.assert_close(weights[1][name], expected, rtol=1e-5, atol=1e-6)
    # An ordinary checkpoint: the config that knows of no cache tests it.
    run_config.load_from = str(cached)
    run_config.experiment_name = 'test'
    assert 0 <= RUNNERS.build(run_config).test()['mIoU'] <= 100


def test_a_run_refuses_a_stale_cache(run_config, tmp_path):
    config = from_cache(run_config, tmp_path / 'cache')
    source = config.train_dataloader.dataset.dataset.source
    write(MODELS.build(run_config.model), source, tmp_path / 'cache')
    config.model.backbone.init_seed = 1
    with pytest.raises(ValueError, match=r'seed 0\).*but the config has.*seed 1\)'):
        run(config, tmp_path / 'run')


@pytest.fixture
def main():
    path = ROOT / 'tools' / 'dataset_tools' / 'cache_features.py'
    return runpy.run_path(str(path))['main']


def test_the_tool(run_config, tmp_path, capsys, main):
    from_cache(run_config, tmp_path / 'cache').dump(tmp_path / 'cached.py')
    run_config.dump(tmp_path / 'pixels.py')
    options = ['--dtype', 'int8', '--num-workers', '1', '--device', 'cpu']
    for config in (tmp_path / 'pixels.py', ROOT / 'configs' / 'pacl_voc20.py'):
        with pytest.raises(SystemExit, match='not train from CachedFeatures: see conf'):
            main([str(config), *options])
    main([str(tmp_path / 'cached.py'), *options])
    printed = capsys.readouterr()
    assert '10 images need about' in printed.out
    assert '10 images (10 encoded now)' in printed.out
    assert 'ETA' in printed.err
    with pytest.raises(SystemExit, match='such as dtype.*--overwrite'):
        main([str(tmp_path / 'cached.py')])
    scenes = 'train_dataloader.dataset.dataset.source.num_scenes=7'
    out = tmp_path / 'other'
    main([str(tmp_path / 'cached.py'), '--out', str(out), '--cfg-options', scenes])
    assert json.loads((out / 'meta.json').read_text())['samples'] == 7


def test_the_tool_looks_at_the_data_before_the_weights(
    run_config, source, tmp_path, main
):
    # Weights that cannot be had are what the tool complains about last.
    run_config.model.backbone.pretrained = str(tmp_path / 'no_weights.pt')
    config = from_cache(run_config, tmp_path / 'cache')
    cached = config.train_dataloader.dataset.dataset

    def complaint() -> str:
        config.dump(tmp_path / 'config.py')
        with pytest.raises(SystemExit) as caught:
            main([str(tmp_path / 'config.py'), '--device', 'cpu'])
        message = str(caught.value)
        assert '\n' not in message
        return message.removeprefix('cache_features: ')

    cached.source = {**source, 'data_root': '/nowhere'}
    assert complaint().startswith('the annotation file /nowhere/captions.json does not')
    cached.source = {**source, 'data_prefix': dict(img_path='nowhere')}
    assert complaint().startswith(
        f'None of the {PHOTOGRAPHS} images of the source could be used '
        f'({PHOTOGRAPHS} missing file): check where they are'
    )
    cached.source = {k: v for k, v in source.items() if k != 'type'}
    assert complaint().startswith('The source of a feature cache must be a config with')
    cached.source = {**source, 'pipeline': [dict(min_size=3)]}
    assert complaint().startswith("A transform of a feature cache's source must be a c")
    cached.source = {**source, 'pipeline': [dict(type='LoadPILImage', size=3)]}
    assert complaint().startswith('LoadPILImage in the pipeline of the source: got an')
    cached.source = None
    assert complaint().startswith('The source of a feature cache must be a config with')
    cached.source, cached.root = source, None
    assert complaint().startswith(
        'no folder for the cache: set its root, or give --out'
    )
    cached.root = str(tmp_path / 'cache')
    assert 'no_weights.pt' in complaint()


# ------------------------------------------------------------------------- staleness


@pytest.mark.parametrize(
    ('part', 'change', 'message'),
    [
        ('backbone', dict(init_seed=1), r'vision encoder .*seed 0\).*seed 1\)'),
        ('backbone', dict(output='norm'), 'vision output="block".*output="norm"'),
        ('backbone', dict(out_indices=0), 'vision layer=1.*layer=0'),
        ('backbone', dict(dtype='bfloat16'), 'vision dtype="float32".*="bfloat16"'),
        ('text_encoder', dict(dtype='float16'), 'text dtype="float32".*="float16"'),
        (
            'data_preprocessor',
            dict(dtype='bfloat16'),
            'normalization dtype="float32".*="bfloat16"',
        ),
        ('backbone', dict(stride=4), 'vision stride=.8, 8..*stride=.4, 4.'),
        ('backbone', dict(output_cls_token=True), 'cls_token=false.*cls_token=true'),
        (
            'backbone',
            dict(dense_attention=dict(type='naclip', std=3.0)),
            'dense_attention=null.*"naclip", "std": 3.0',
        ),
        ('text_encoder', dict(init_seed=1), r'text encoder .*seed 0\).*seed 1\)'),
        ('data_preprocessor', dict(mean=[0, 0, 0]), r'mean=\[122.*mean=\[0'),
        ('data_preprocessor', dict(bgr_to_rgb=False), 'rgb=true.*rgb=false'),
    ],
)
def test_another_model_is_refused(
    tiny_model, model, source, tmp_path, part, change, message
):
    write(model, source, tmp_path)
    cached = CachedFeatures(tmp_path, source)
    parent = tiny_model.decode_head if part == 'text_encoder' else tiny_model
    parent[part].update(change)
    with pytest.raises(ValueError, match=f'{message}.*cache_features.py CONFIG --over'):
        cached.check(MODELS.build(tiny_model))


def test_the_activation_is_part_of_an_encoder(tiny_model, model, source, tmp_path):
    # The same weights: OpenAI's, run without QuickGELU, are such a mistake.
    write(model, source, tmp_path)
    for part in (tiny_model.backbone, tiny_model.decode_head.text_encoder):
        part.model.quick_gelu = True
    with pytest.raises(ValueError, match='activation="GELU".*"QuickGELU"'):
        CachedFeatures(tmp_path, source).check(MODELS.build(tiny_model))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda s: s['pipeline'].pop(2), 'preprocessing transforms='),
        (
            lambda s: s['pipeline'][2]['model']['vision_cfg'].update(image_size=64),
            '"size": 32.*"size": 64',
        ),
        (lambda s: s.update(ann_file='other.json'), 'captions.json.*other.json'),
        (lambda s: s['pipeline'][1].update(max_chars=9), '"max_chars": 1000.*: 9'),
        (
            lambda s: s['pipeline'].insert(2, dict(type='NounPrompt', nouns='given')),
            'texts nouns=null.*pacl7|texts nouns=null.*itap',
        ),
    ],
)
def test_another_source_is_refused(model, source, tmp_path, change, message):
    write(model, source, tmp_path)
    change(source)
    with pytest.raises(ValueError, match=f'{message}.*cache_features.py'):
        CachedFeatures(tmp_path, source)


def test_a_lost_file_is_not_written_anew_in_another_precision(
    tiny_model, model, source, tmp_path
):
    write(model, source, tmp_path)
    (tmp_path / 'tokens-00001.safetensors').unlink()
    tiny_model.backbone.dtype = 'bfloat16'
    with pytest.raises(ValueError, match='dtype="float32", not.*="bfloat16".*--overw'):
        write(MODELS.build(tiny_model), source, tmp_path)
    assert write(model, source, tmp_path).written == 4


def test_autocast_does_not_reach_what_is_cached(model, source, tmp_path):
    write(model, source, tmp_path / 'plain')
    batch = dict(inputs=torch.rand(1, 3, 32, 32))
    expected = model.backbone(batch['inputs'])[0]
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert not torch.equal(model.backbone(batch['inputs'])[0], expected)
        write(model, source, tmp_path / 'autocast')
    assert_same(tmp_path / 'plain', tmp_path / 'autocast')


def test_defaults_count_as_their_values(model, source, tmp_path):
    write(model, source, tmp_path)
    source['pipeline'][0].update(jpeg_decoder='pillow', min_size=None)
    source['pipeline'][2].update(crop='center', scale=[0.9, 1.0], backend='pillow')
    assert len(CachedFeatures(tmp_path, source)) == PHOTOGRAPHS
    source['pipeline'][0].update(min_size=64)
    with pytest.raises(ValueError, match='"min_size": null.*"min_size": 64'):
        CachedFeatures(tmp_path, source)


def test_where_weights_and_images_lie_does_not_matter(model, source, tmp_path):
    write(model, source, tmp_path)
    source['data_root'] = '/nowhere'
    source['pipeline'][2]['pretrained'] = '/nowhere/clip.pt'
    assert len(CachedFeatures(tmp_path, source)) == PHOTOGRAPHS


# ----------------------------------------------------------- stopped, broken, missing


def contents(root: Path) -> dict[str, dict]:
    return {path.name: load_file(path) for path in sorted(root.glob('*.safetensors'))}


def assert_same(root: Path, other: Path) -> None:
    a, b = contents(root), contents(other)
    assert {n: set(t) for n, t in a.items()} == {n: set(t) for n, t in b.items()}
    for name, tensors in a.items():
        for key, value in tensors.items():
            assert torch.equal(value, b[name][key]), (name, key)
    meta = [json.loads((folder / 'meta.json').read_text()) for folder in (root, other)]
    assert meta[0] == meta[1]


def test_a_killed_run_is_continued(model, source, tmp_path):
    write(model, source, tmp_path / 'whole')
    folder, root = tmp_path / 'photographs', tmp_path / 'killed'
    shutil.copytree(source['data_root'], folder)
    whole = (folder / '009.jpg').read_bytes()
    (folder / '009.jpg').unlink()
    os.mkfifo(folder / '009.jpg')  # reading it waits for ever
    stuck = {**source, 'data_root': str(folder)}
    process = multiprocessing.get_context('fork').Process(
        target=write, args=(model, stuck, root)
    )
    process.start()
    while not (root / 'tokens-00001.safetensors').exists():
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with pytest.raises(FileNotFoundError, match='no complete feature cache'):
        CachedFeatures(root, source)
    finished = [root / f'tokens-0000{shard}.safetensors' for shard in (0, 1)]
    before = [path.stat().st_mtime_ns for path in finished]
    (folder / '009.jpg').unlink()
    (folder / '009.jpg').write_bytes(whole)
    summary = write(model, stuck, root)
    assert [path.stat().st_mtime_ns for path in finished] == before
    assert summary.written == PHOTOGRAPHS - 8
    assert len(CachedFeatures(root, source)) == PHOTOGRAPHS
    for name, tensors in contents(tmp_path / 'whole').items():
        if name.startswith('tokens-'):
            resumed = load_file(root / name)
            assert torch.equal(resumed['tokens'], tensors['tokens'])


def test_a_full_disk_loses_nothing_finished(model, source, tmp_path):
    # Only the second file of tokens is above the limit, by its captions.
    folder = tmp_path / 'photographs'
    shutil.copytree(source['data_root'], folder)
    notes = json.loads((folder / 'captions.json').read_text())
    for note in notes['annotations']:
        if note['image_id'] == 5:
            note['caption'] = 'very ' * 190 + 'long'
    (folder / 'captions.json').write_text(json.dumps(notes))
    source['data_root'] = str(folder)
    write(model, source, tmp_path / 'whole')
    sizes = [p.stat().st_size for p in sorted((tmp_path / 'whole').glob('tokens-*'))]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert sizes[0] < sizes[1] - 1000
    root = tmp_path / 'full'
    resource.setrlimit(resource.RLIMIT_FSIZE, (sizes[1] - 500, limits[1]))
    try:
        with pytest.raises(OSError, match='tokens-00001.*could not be written.*1 of 3'):
            write(model, source, root)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p.name for p in root.glob('[!.]*')] == ['tokens-00000.safetensors']
    assert write(model, source, root).written == PHOTOGRAPHS - 4
    assert_same(root, tmp_path / 'whole')


def test_too_small_a_disk_is_refused_at_once(model, source, tmp_path, monkeypatch):
    usage = namedtuple('usage', 'total used free')(10, 0, 10)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
    # 16 tokens of 32 float32 numbers, and texts.
    with pytest.raises(OSError, match='11 images.*2 kB each.*0 kB are free.*int8'):
        write(model, source, tmp_path / 'cache')


@pytest.mark.parametrize('kind', ['truncated', 'header', 'data', 'missing'])
def test_damage_is_named_and_repaired(model, source, tmp_path, kind):
    write(model, source, tmp_path / 'whole')
    root = tmp_path / 'cache'
    shutil.copytree(tmp_path / 'whole', root)
    path = root / 'tokens-00001.safetensors'
    content = bytearray(path.read_bytes())
    if kind == 'truncated':
        content = content[:-100]
    elif kind == 'header':
        content[:8] = b'\xff' * 8
    else:
        content[-2] ^= 64
    path.write_bytes(content)
    if kind == 'missing':
        path.unlink()
        with pytest.raises(FileNotFoundError, match='tokens-00001.*is missing.*tool'):
            CachedFeatures(root, source)
    elif kind == 'truncated':
        with pytest.raises(ValueError, match='tokens-00001.*damaged.*cache_features'):
            CachedFeatures(root, source)
    elif kind == 'header':
        cached = CachedFeatures(root, source)
        assert cached[0]['inputs'].shape == (16, 32)
        with pytest.raises(RuntimeError, match='tokens-00001.*damaged.*cache_features'):
            cached[4]
    summary = write(model, source, root)
    assert summary.written == 4
    assert_same(root, tmp_path / 'whole')


def test_a_complete_cache_is_left_alone(model, source, tmp_path):
    write(model, source, tmp_path / 'cache')
    shutil.copytree(tmp_path / 'cache', tmp_path / 'copy')
    assert write(model, source, tmp_path / 'cache').written == 0
    assert_same(tmp_path / 'cache', tmp_path / 'copy')


def test_another_cache_is_replaced_only_on_request(model, source, tmp_path):
    write(model, source, tmp_path, dtype='int8')
    with pytest.raises(ValueError, match='such as dtype.*--overwrite'):
        write(model, source, tmp_path)
    source['pipeline'][1]['max_chars'] = 9
    with pytest.raises(ValueError, match='max_chars": 1000.*: 9.*--overwrite'):
        write(model, source, tmp_path, dtype='int8')
    write(model, source, tmp_path, overwrite=True)
    assert CachedFeatures(tmp_path, source)[0]['inputs'].dtype == torch.float32


def test_a_missing_cache_names_the_tool(source, tmp_path):
    with pytest.raises(FileNotFoundError, match='cache_features.py CONFIG'):
        CachedFeatures(tmp_path, source)


def test_a_cache_of_another_version_is_refused(model, source, tmp_path):
    write(model, source, tmp_path)
    meta = json.loads((tmp_path / 'meta.json').read_text())
    (tmp_path / 'meta.json').write_text(json.dumps({**meta, 'version': 0}))
    with pytest.raises(
        ValueError, match=f'version 0, not {VERSION}.*cache_features.py'
    ):
        CachedFeatures(tmp_path, source)


def test_unusable_images_are_skipped_and_counted(model, source, tmp_path):
    folder = tmp_path / 'photographs'
    shutil.copytree(source['data_root'], folder)
    # The whole second file of tokens, and one more image.
    for index in (4, 5, 6, 9):
        (folder / f'{index:03d}.jpg').write_bytes(b'no image')
    (folder / '007.jpg').unlink()
    source['data_root'] = str(folder)
    summary = write(model, source, tmp_path / 'cache', num_workers=1)
    assert (summary.samples, summary.skipped) == (6, 5)
    assert summary.reasons == '4 corrupt image, 1 missing file'
    cached = CachedFeatures(tmp_path / 'cache', source)
    usable = [0, 1, 2, 3, 8, 10]
    assert len(cached) == 6
    for position, index in enumerate(usable):
        samples = cached[position]['data_samples']
        assert Path(samples['img_path']).name == f'{index:03d}.jpg'
        assert samples['caption'].startswith(f'picture {index} said in way')
    with pytest.raises(IndexError):
        cached[6]


@pytest.mark.parametrize('num_workers', [0, 2])
def test_skipped_images_are_counted_once_and_for_all(
    model, source, tmp_path, num_workers
):
    folder = tmp_path / 'photographs'
    shutil.copytree(source['data_root'], folder)
    for index in (0, 1, 6):  # the first ones: the tool looks for one that is usable
        (folder / f'{index:03d}.jpg').unlink()
    Image.new('L', (40, 40)).save(folder / '003.jpg')  # converted, not skipped
    notes = json.loads((folder / 'captions.json').read_text())
    for note in notes['annotations']:
        if note['image_id'] == 5:  # two to four captions, but a single image
            note['caption'] = '\x07'
    (folder / 'captions.json').write_text(json.dumps(notes))
    source['data_root'] = str(folder)
    first = write(model, source, tmp_path / 'cache', num_workers=num_workers)
    assert (first.samples, first.skipped) == (7, 4)
    assert first.reasons == '3 missing file, 1 empty caption'
    assert sample_counts.totals()['missing_file'] == 3
    again = write(model, source, tmp_path / 'cache', num_workers=num_workers)
    assert (again.written, again.skipped) == (0, 4)
    assert again.reasons == first.reasons
    (tmp_path / 'cache' / 'tokens-00001.safetensors').unlink()
    again = write(model, source, tmp_path / 'cache', num_workers=num_workers)
    assert (again.written, again.reasons) == (2, first.reasons)


# -------------------------------------------------------------------- what is refused


def test_overwriting_without_images_loses_nothing(model, source, tmp_path):
    write(model, source, tmp_path)
    moved = {**source, 'data_prefix': dict(img_path='nowhere')}
    with pytest.raises(ValueError, match='None of the 11 images.*11 missing file'):
        write(model, moved, tmp_path, overwrite=True)
    assert len(CachedFeatures(tmp_path, source)) == PHOTOGRAPHS


def test_fewer_samples_than_a_batch_are_refused(model, source, tmp_path):
    write(model, source, tmp_path)
    loader = torch.utils.data.DataLoader(
        CachedFeatures(tmp_path, source), batch_size=PHOTOGRAPHS + 1, drop_last=True
    )
    with pytest.raises(RuntimeError, match='gives no batch: .*fewer than batch_size'):
        next(EndlessBatches(loader, torch.device('cpu')))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda m: m.backbone.update(frozen=False), 'frozen encoders'),
        (lambda m: m.decode_head.text_encoder.update(frozen=False), 'frozen encoders'),
        (lambda m: m.backbone.update(out_indices=[0, 1]), 'one layer, not of 2'),
    ],
)
def test_models_that_cannot_be_cached(tiny_model, source, tmp_path, change, message):
    change(tiny_model)
    with pytest.raises(ValueError, match=message):
        write(MODELS.build(tiny_model), source, tmp_path)


def test_another_kind_of_backbone_is_not_cached(tiny_model, source, tmp_path):
    tiny_model.backbone = ConfigDict(type='ResNet', depth=18)
    with pytest.raises(ValueError, match='PACLBackbone.*not for.*with ResNet'):
        write(MODELS.build(tiny_model), source, tmp_path)


def test_sources_that_cannot_be_cached(model, source, tmp_path):
    crop = source['pipeline'][2]
    crop['crop'] = 'random'
    with pytest.raises(ValueError, match='draw random numbers.*center'):
        write(model, source, tmp_path)
    del source['pipeline'][2]
    with pytest.raises(ValueError, match='different sizes.*CLIPResizeCrop'):
        write(model, source, tmp_path, batch_size=1)
    with pytest.raises(ValueError, match='different sizes.*CLIPResizeCrop'):
        write(model, source, tmp_path, shard_size=PHOTOGRAPHS, batch_size=PHOTOGRAPHS)
    shards = dict(type='ImageTextShards', shards='x.tar', pipeline=source['pipeline'])
    with pytest.raises(ValueError, match='no random access'):
        write(model, shards, tmp_path)
    with pytest.raises(ValueError, match='dtype must be one of'):
        write(model, source, tmp_path, dtype='int4')


# -------------------------------------------------------------------------- precision


def test_8_bits_err_as_rounding_does(model, source, tmp_path):
    tokens = torch.randn(7, 5, 384, generator=torch.Generator().manual_seed(0))
    tokens[0, 0] = 0
    packed = pack_tokens(tokens, 'int8')
    assert packed['tokens'].dtype == torch.int8
    stored = packed['tokens'].float() * packed['scales'][..., None]
    steps = tokens.abs().amax(-1, keepdim=True) / 127
    assert ((stored - tokens).abs() <= steps / 2 + 1e-6).all()
    rows = unpack_tokens(packed, slice(None))
    assert rows.dtype == torch.bfloat16
    torch.testing.assert_close(rows.float(), stored, rtol=2**-8, atol=0)
    # What rounding to steps does to a normal distribution, and bfloat16 adds little.
    error = (rows.float() - tokens).square().mean().sqrt().item()
    assert error == pytest.approx((steps.square().mean() / 12).sqrt().item(), rel=0.05)

    # The error that is noted is that of the data.
    summary = write(model, source, tmp_path / 'int8', dtype='int8')
    write(model, source, tmp_path / 'float32')
    kinds = [CachedFeatures(tmp_path / kind, source) for kind in ('int8', 'float32')]
    low, full = (torch.stack([item['inputs'] for item in kind]) for kind in kinds)
    difference = (low.double() - full.double()).square().sum(-1)
    size = full.double().square().sum(-1)
    expected = (difference.sum() / size.sum()).sqrt().item()
    assert summary.error == pytest.approx(expected, rel=1e-6)
    worst = (difference / size).max().sqrt().item()
    assert summary.worst_error == pytest.approx(worst, rel=1e-6)
    assert kinds[0].meta['relative_error'] == summary.error
    assert 1e-3 < summary.error < summary.worst_error < 2e-2


def test_tokens_beyond_the_range_are_refused(model, source, tmp_path):
    with torch.no_grad():
        model.backbone.visual.transformer.resblocks[-1].mlp.c_proj.bias[0] = 1e5
    with pytest.raises(ValueError, match='too large for float16.*bfloat16'):
        write(model, source, tmp_path, dtype='float16')


def test_workers_map_the_files_themselves(model, source, tmp_path):
    write(model, source, tmp_path)
    cached = CachedFeatures(tmp_path, source)
    first = cached[0]['inputs']
    pickled = pickle.dumps(cached)
    assert len(pickled) < 30_000
    assert torch.equal(pickle.loads(pickled)[0]['inputs'], first)
