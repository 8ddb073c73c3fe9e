"""Writing image tokens, and training from them, on a tiny CLIP."""

from __future__ import annotations

import copy
import csv
import json
import multiprocessing
import pickle
import resource
import runpy
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from pacl_mmseg.datasets import (
    LoadImageTokens,
    ShuffledDraws,
    collate_image_text,
)
from pacl_mmseg.datasets.counts import sample_counts
from pacl_mmseg.datasets.token_cache import check_token_caches, write_token_cache
from pacl_mmseg.datasets.transforms.image_tokens import (
    pack_tokens,
    token_file,
    unpack_tokens,
)
from pacl_mmseg.registry import DATASETS, MODELS, RUNNERS

ROOT = Path(__file__).resolve().parents[2]
PHOTOGRAPHS = 11


@pytest.fixture(scope='module')
def photographs(tmp_path_factory) -> Path:
    """Eleven pictures of different sizes with five captions each, as JSON and CSV."""
    folder = tmp_path_factory.mktemp('photographs')
    rng = np.random.default_rng(0)
    images, annotations, rows = [], [], []
    for index in range(PHOTOGRAPHS):
        size = 40 + 3 * index, 70 - 2 * index
        coarse = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        name = f'{index:03d}.jpg'
        Image.fromarray(coarse).resize(size, Image.BICUBIC).save(folder / name)
        images.append(dict(id=index, file_name=name))
        for number in range(5):
            caption = f'  picture {index} said\tin way {number} '
            annotations.append(dict(id=0, image_id=index, caption=caption))
            rows.append((name, caption))
    content = dict(images=images, annotations=annotations)
    (folder / 'captions.json').write_text(json.dumps(content))
    with open(folder / 'captions.csv', 'w', newline='') as file:
        csv.writer(file).writerows(rows)
    return folder


@pytest.fixture
def pixels(photographs, tiny_clip) -> dict:
    """A data set that loads images."""
    return dict(
        type='CocoCaptionsDataset',
        ann_file='captions.json',
        data_root=str(photographs),
        pipeline=[
            dict(type='LoadPILImage'),
            dict(type='CLIPResizeCrop', model=tiny_clip, crop='center'),
            dict(type='PickCaption'),
            dict(type='PackImageText'),
        ],
    )


@pytest.fixture(scope='module')
def models() -> dict:
    return {}


@pytest.fixture
def model(tiny_model, models):
    """The same for all tests, which leave it as it is."""
    if not models:
        torch.manual_seed(0)
        models['tiny'] = MODELS.build(tiny_model)
    return models['tiny']


def parts_of(config) -> SimpleNamespace:
    """What of a model the tokens depend on; text towers take longer to build."""
    names = 'backbone', 'data_preprocessor'
    return SimpleNamespace(**{name: MODELS.build(config[name]) for name in names})


def cached(dataset: dict, root: Path) -> dict:
    """The same data set, from tokens."""
    dataset = copy.deepcopy(dataset)
    images, texts = dataset['pipeline'][:-2], dataset['pipeline'][-2:]
    tokens = dict(type='LoadImageTokens', root=str(root), transforms=images)
    return {**dataset, 'pipeline': [tokens, *texts]}


def write(model, dataset: dict, **options) -> dict:
    options = dict(dtype='float32', batch_size=3, num_workers=0) | options
    sample_counts.reset()
    transform = dataset['pipeline'][0]
    return write_token_cache(model, dataset, transform, **options)


def check(dataset: dict, model) -> None:
    check_token_caches(dict(train_dataloader=dict(dataset=dataset)), model)


def batches(dataset: dict, count: int, size: int = 5) -> list[dict]:
    draws = ShuffledDraws(DATASETS.build(dataset), seed=3)
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
    ('dtype', 'tolerance', 'error'),
    [('float32', 1e-6, 0), ('bfloat16', 1e-3, 2e-3), ('int8', 5e-3, 1e-2)],
)
def test_losses_are_those_from_pixels(model, pixels, tmp_path, dtype, tolerance, error):
    tokens = cached(pixels, tmp_path)
    summary = write(model, tokens, dtype=dtype)
    assert (summary['images'], summary['skipped']) == (PHOTOGRAPHS, 0)
    assert error / 10 <= summary['relative_error'] <= error
    from_pixels, from_tokens = batches(pixels, 6), batches(tokens, 6)
    for expected, batch in zip(from_pixels, from_tokens, strict=True):
        assert batch['inputs'].shape == (5, 16, 32)
        assert batch['data_samples'] == expected['data_samples']
    expected = train(model, from_pixels)
    assert np.std(expected) > 100 * tolerance  # or there would be nothing to compare
    np.testing.assert_allclose(train(model, from_tokens), expected, rtol=tolerance)


def test_five_captions_of_a_photograph_are_one_encoding(model, pixels, tmp_path):
    pixels.update(type='CaptionListDataset', ann_file='captions.csv')
    tokens = cached(pixels, tmp_path)
    encoded = []
    model.backbone.register_forward_pre_hook(lambda _, args: encoded.append(args[0]))
    assert len(DATASETS.build({**pixels, 'pipeline': []})) == 5 * PHOTOGRAPHS
    assert write(model, tokens)['images'] == PHOTOGRAPHS
    assert sum(map(len, encoded)) == PHOTOGRAPHS
    draws = ShuffledDraws(DATASETS.build(tokens), seed=1)
    by_image = {}
    for n in range(5 * PHOTOGRAPHS):
        sample = draws[n]
        by_image.setdefault(sample['data_samples']['img_path'], []).append(sample)
    assert len(by_image) == PHOTOGRAPHS
    for samples in by_image.values():
        assert len({sample['data_samples']['caption'] for sample in samples}) == 5
        assert all(torch.equal(s['inputs'], samples[0]['inputs']) for s in samples)


def test_cls_and_a_grid_that_is_not_square(tiny_model, pixels, tmp_path):
    tiny_model.backbone.output_cls_token = True
    model = MODELS.build(tiny_model)
    pixels['pipeline'][1] = dict(type='Resize', scale=(48, 32), keep_ratio=False)
    tokens = cached(pixels, tmp_path)
    write(model, tokens)
    check(tokens, model)
    outputs = [
        model.backbone(model.data_preprocessor(batches(data, 1)[0], True)['inputs'])[0]
        for data in (pixels, tokens)
    ]
    assert outputs[0][0].shape == (5, 32, 4, 6)
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-6)


@pytest.fixture
def run_config(tiny_model, tiny_clip) -> Config:
    """Four iterations of the small world's own config, on the tiny CLIP."""
    config = Config.fromfile(ROOT / 'configs' / 'small_world' / 'pacl.py')
    tiny_model.decode_head.pop('vocabulary')
    tiny_model.decode_head.update(dataset_name='small_world')
    tiny_model.type = 'ZeroShotSegmentor'
    tiny_model.encoder = dict(model=tiny_clip)
    for part in (tiny_model.backbone, tiny_model.decode_head.text_encoder):
        del part['model'], part['pretrained']
    tiny_model.data_preprocessor = dict(type='CLIPDataPreProcessor')
    tiny_model.test_cfg.present_classes = True
    config.model = tiny_model
    config.train_cfg.update(max_iters=4, val_interval=100)
    config.default_hooks.checkpoint.interval = 4
    config.log_level = 'WARNING'
    loader = config.train_dataloader
    loader.update(batch_size=4, num_workers=1, persistent_workers=False)
    loader.dataset.dataset.update(num_scenes=10, size=32)
    config.val_cfg = config.val_dataloader = config.val_evaluator = None
    return config


def run(config: Config, work_dir: Path) -> dict[str, torch.Tensor]:
    config.work_dir = str(work_dir)
    config.experiment_name = f'run{time.monotonic_ns()}'
    RUNNERS.build(config).train()
    return torch.load(work_dir / 'iter_4.pth', weights_only=True)['state_dict']


def test_a_run_is_that_from_pixels_and_refuses_others_tokens(run_config, tmp_path):
    expected = run(run_config, tmp_path / 'pixels')
    dataset = run_config.train_dataloader.dataset.dataset
    root = str(tmp_path / 'cache')
    dataset.pipeline.insert(0, dict(type='LoadImageTokens', root=root))
    write(MODELS.build(run_config.model), dataset)
    weights = run(run_config, tmp_path / 'cached')
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-5, atol=1e-6)
    run_config.model.encoder.init_seed = 1
    with pytest.raises(ValueError, match=r'seed 0\).*but this config has.*seed 1\)'):
        run(run_config, tmp_path / 'run')


# ---------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(backbone=dict(init_seed=1)), r'seed 0\), fingerprint=.*seed 1\), fing'),
        (dict(backbone=dict(output='norm')), 'backbone.output=block.*=norm'),
        (dict(backbone=dict(out_indices=0)), r'out_indices=\[1\].*=\[0\]'),
        (dict(backbone=dict(dtype='bfloat16')), 'dtype=torch.float32.*=torch.bfloat16'),
        (dict(backbone=dict(stride=4)), r'backbone.stride=\[8, 8\].*=\[4, 4\]'),
        (dict(backbone=dict(dense_attention='naclip')), 'dense_attention=None.*nacl'),
        (dict(backbone=dict(frozen=False)), 'PACLBackbone and frozen=False'),
        (dict(backbone=dict(type='ResNet', depth=18)), 'not for.*with ResNet'),
        (dict(backbone=dict(out_indices=[0, 1])), 'one layer, not of 2'),
        (dict(data_preprocessor=dict(dtype='bfloat16')), 'data_preprocessor.dtype='),
        (dict(data_preprocessor=dict(mean=[1, 2, 3])), 'data_preprocessor.mean='),
    ],
)
def test_tokens_of_another_model(model, tiny_model, pixels, tmp_path, change, message):
    tokens = cached(pixels, tmp_path)
    write(model, tokens)
    check(tokens, model)
    for part, values in change.items():
        part = tiny_model[part]
        if values.get('type', part['type']) != part['type']:
            part.clear()
        part.update(values)
    with pytest.raises(ValueError, match=message):
        check(tokens, parts_of(tiny_model))


def test_tokens_of_other_data_or_preprocessing(model, pixels, tmp_path):
    tokens = cached(pixels, tmp_path)
    write(model, tokens)
    pixels['data_root'] = '/nowhere'  # neither where the images lie matters,
    pixels['pipeline'][0].update(min_size=None)  # nor a default that is said
    check(cached(pixels, tmp_path), model)
    changed = copy.deepcopy(pixels)
    changed['pipeline'][0].update(min_size=64)
    with pytest.raises(ValueError, match='transforms=.*min_size=64'):
        check(cached(changed, tmp_path), model)
    changed = {**pixels, 'data_prefix': dict(img_path='val')}
    with pytest.raises(ValueError, match="dataset.data_prefix=None.*'val'"):
        check(cached(changed, tmp_path), model)
    with pytest.raises(ValueError, match='dtype=float32.*dtype=int8'):
        write(model, tokens, dtype='int8')


def test_images_that_cannot_be_kept(model, pixels, tmp_path):
    def refused(message: str, dataset: dict = pixels, **options) -> None:
        with pytest.raises(ValueError, match=message):
            write(model, cached(dataset, tmp_path), **options)

    shards = dict(type='ImageTextShards', shards='x.tar', pipeline=pixels['pipeline'])
    refused('no random access', shards)
    nowhere = {**pixels, 'data_prefix': dict(img_path='nowhere')}
    refused('None of the 11 images.*11 missing file', nowhere)
    refused("PackImageText needs 'img'", {**pixels, 'pipeline': pixels['pipeline'][2:]})
    pixels['pipeline'][1]['crop'] = 'random'
    refused('draw random numbers.*center')
    pixels['pipeline'][1]['crop'] = 'center'
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.backbone.visual.ln_pre.weight[0] = float('nan')
    with pytest.raises(ValueError, match='not finite'):
        write(broken, cached(pixels, tmp_path))
    del pixels['pipeline'][1]
    refused('cannot mix.*inputs.*CLIPResizeCrop', batch_size=4)
    refused('different sizes.*CLIPResizeCrop', batch_size=1)


@pytest.mark.parametrize('version', [1, 2, 3, 4])
def test_caches_of_earlier_versions(model, pixels, tmp_path, version):
    meta = dict(version=version, identity={}, grid=[4, 4], checksum=1)
    if version == 3:
        (tmp_path / 'index.safetensors').write_bytes(b'names and rows')
    else:
        (tmp_path / 'meta.json').write_text(json.dumps(meta))
    for action in (LoadImageTokens, lambda root: write(model, cached(pixels, root))):
        with pytest.raises(ValueError, match='by another version: delete'):
            action(tmp_path)


# ----------------------------------------------------------- stopped, broken, missing


def contents(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(root.glob('*/*.tokens'))}


def test_an_encoder_by_another_name_changes_nothing(model, pixels, tmp_path):
    tokens = cached(pixels, tmp_path)
    write(model, tokens)
    whole = contents(tmp_path)
    model.backbone._description = 'the same weights, moved'
    assert write(model, tokens)['written'] == 0
    assert contents(tmp_path) == whole


def write_two_batches(model, dataset: dict, started: Path) -> None:
    """In a process of its own: it would take for ever over the third."""
    encode = model.backbone.forward
    calls = []

    def encode_slowly(images):
        calls.append(images)
        if len(calls) == 3:
            started.touch()
            time.sleep(600)
        return encode(images)

    model.backbone.forward = encode_slowly
    write(model, dataset, dtype='bfloat16')


def test_a_killed_run_is_continued(model, pixels, tmp_path):
    write(model, cached(pixels, tmp_path / 'whole'), dtype='bfloat16')
    root = tmp_path / 'killed'
    tokens = cached(pixels, root)
    process = multiprocessing.get_context('fork').Process(
        target=write_two_batches, args=(model, tokens, tmp_path / 'third')
    )
    process.start()
    while not (tmp_path / 'third').exists():
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with pytest.raises(FileNotFoundError, match='no complete token cache.*CONFIG'):
        LoadImageTokens(str(root))
    before = contents(root)
    first = next(root.glob('*/*.tokens'))
    first.write_bytes(before.pop(first.name)[:-9])  # as if killed while writing it
    assert write(model, tokens, dtype='bfloat16')['written'] == PHOTOGRAPHS - 5
    assert contents(root).items() > before.items()
    assert contents(root).keys() == contents(tmp_path / 'whole').keys()
    # What was never finished is no cache of another kind either.
    (root / 'meta.json').unlink()
    assert write(model, tokens, dtype='int8')['written'] == PHOTOGRAPHS


def test_a_full_disk_loses_nothing_finished(model, pixels, tmp_path):
    tokens = cached(pixels, tmp_path)
    write(model, tokens)
    whole = contents(tmp_path)
    for path in [*tmp_path.glob('*/*'), tmp_path / 'meta.json'][5:]:
        path.unlink()
    left = contents(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(OSError, match='tokens could not be written.*room'):
            write(model, tokens)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert contents(tmp_path).items() >= left.items()
    assert write(model, tokens)['written'] == PHOTOGRAPHS - 5
    assert contents(tmp_path).keys() == whole.keys()


@pytest.mark.parametrize('kind', ['truncated', 'empty', 'other', 'missing', 'meta'])
def test_damage_is_noticed_and_repaired(model, pixels, tmp_path, kind):
    tokens = cached(pixels, tmp_path)
    write(model, tokens)
    whole = contents(tmp_path)
    path, other = (tmp_path / token_file(name) for name in ('004.jpg', '005.jpg'))
    if kind == 'missing':
        path.unlink()
    elif kind == 'meta':
        path = tmp_path / 'meta.json'
        path.write_bytes(path.read_bytes().replace(b'"heads": ', b'"heads": 1'))
        with pytest.raises(FileNotFoundError, match='meta.json is damaged.*cache_im'):
            LoadImageTokens(str(tmp_path))
    else:
        content = dict(truncated=path.read_bytes()[:-100], empty=b'')
        path.write_bytes(content.get(kind, other.read_bytes()))
    if kind != 'meta':
        sample_counts.reset()
        load = LoadImageTokens(str(tmp_path))
        names = [f'{index:03d}.jpg' for index in range(PHOTOGRAPHS)]
        assert [load(dict(img_path=name)) for name in names].count(None) == 1
        assert sample_counts.totals()['uncached_image'] == 1
    assert write(model, tokens)['written'] == (kind != 'meta')
    assert contents(tmp_path).keys() == whole.keys()
    LoadImageTokens(str(tmp_path))


def test_no_flipped_bit_gives_other_tokens(model, pixels, tmp_path):
    write(model, cached(pixels, tmp_path), dtype='int8')
    load = LoadImageTokens(str(tmp_path))
    expected = load(dict(img_path='000.jpg'))['image_tokens']
    path = tmp_path / token_file('000.jpg')
    content = path.read_bytes()
    for place in range(0, 8 * len(content), 7):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        results = load(dict(img_path='000.jpg'))
        assert results is None or torch.equal(results['image_tokens'], expected)
    assert sample_counts.totals()['uncached_image'] > len(content)


def test_unusable_images_are_left_out_and_replaced_in_training(model, pixels, tmp_path):
    folder = tmp_path / 'photographs'
    shutil.copytree(pixels['data_root'], folder)
    for index in (0, 3, 4, 5, 7):  # a whole batch, and others
        (folder / f'{index:03d}.jpg').write_bytes(b'no image')
    (folder / '009.jpg').unlink()
    pixels['data_root'] = str(folder)
    tokens = cached(pixels, tmp_path / 'cache')
    summary = write(model, tokens, num_workers=1)
    assert (summary['images'], summary['skipped']) == (5, 6)
    assert sample_counts.summary() == '1 missing file, 5 corrupt image'
    # As with pixels, another one is drawn in its place, and it is the same one.
    sample_counts.reset()
    expected, found = batches(pixels, 4), batches(tokens, 4)
    for one, other in zip(expected, found, strict=True):
        for key in ('captions', 'img_path'):
            assert one['data_samples'][key] == other['data_samples'][key]
    totals = sample_counts.totals()
    assert totals['uncached_image'] == totals['missing_file'] + totals['corrupt_image']
    assert totals['uncached_image'] > 0
    shutil.copy(folder / '001.jpg', folder / '000.jpg')  # mended
    assert write(model, tokens)['written'] == 1


# ------------------------------------------------------------------------ other things


def test_8_bits_err_as_rounding_does():
    tokens = torch.randn(7, 5, 384, generator=torch.Generator().manual_seed(0))
    tokens[0, 0] = 0
    packed = pack_tokens(tokens, 'int8')
    assert packed['tokens'].dtype == torch.int8
    stored = packed['tokens'].float() * packed['scales'][..., None]
    steps = tokens.abs().amax(-1, keepdim=True) / 127
    assert ((stored - tokens).abs() <= steps / 2 + 1e-6).all()
    rows = unpack_tokens(packed)
    assert rows.dtype == torch.bfloat16
    torch.testing.assert_close(rows.float(), stored, rtol=2**-8, atol=0)
    # What rounding to steps does to a normal distribution, and bfloat16 adds little.
    error = (rows.float() - tokens).square().mean().sqrt().item()
    assert error == pytest.approx((steps.square().mean() / 12).sqrt().item(), rel=0.05)


def test_autocast_does_not_reach_what_is_written(model, pixels, tmp_path):
    write(model, cached(pixels, tmp_path / 'plain'))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        write(model, cached(pixels, tmp_path / 'autocast'))
    assert contents(tmp_path / 'plain') == contents(tmp_path / 'autocast')


def test_spawned_workers_read_the_same(model, pixels, tmp_path):
    write(model, cached(pixels, tmp_path))
    load = LoadImageTokens(str(tmp_path))
    again = pickle.loads(pickle.dumps(load))
    found = [part(dict(img_path='000.jpg'))['image_tokens'] for part in (load, again)]
    assert torch.equal(*found)


def test_the_tool(run_config, pixels, tmp_path, capsys):
    path = ROOT / 'tools' / 'dataset_tools' / 'cache_image_tokens.py'
    main = runpy.run_path(str(path))['main']
    arguments = [str(tmp_path / 'config.py'), '--device', 'cpu']

    def complaint() -> str:
        run_config.dump(arguments[0])
        with pytest.raises((ValueError, RuntimeError)) as caught:
            main(arguments)
        return str(caught.value)

    assert complaint().startswith('the training data of the config have no LoadImageT')
    dataset = cached({**pixels, 'data_root': '/nowhere'}, tmp_path / 'cache')
    run_config.train_dataloader.dataset.dataset = dataset
    run_config.model.encoder.pretrained = 'no_weights.pt'
    assert complaint().startswith('/nowhere does not exist')  # before the weights
    dataset['data_root'] = pixels['data_root']
    run_config.train_dataloader.dataset.dataset = dataset
    assert 'no_weights.pt' in complaint()
    run_config.model.encoder.pretrained = None
    run_config.dump(arguments[0])
    capsys.readouterr()
    main(arguments)
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith(f'{tmp_path}/cache: 11 images in ')
    assert '0 left out. Encoded now: 11 (nothing skipped or converted)' in line
