"""Every config file reads, and names only types that exist."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from safetensors.torch import load_file
from webdataset.shardlists import expand_urls

from pacl_mmseg.apis import load_config
from pacl_mmseg.benchmark.missing import missing_data
from pacl_mmseg.datasets import PackImageText, SmallWorldSegmentation
from pacl_mmseg.datasets.small_world import CLASSES, HELD_OUT, SEEN
from pacl_mmseg.models import PACLBackbone
from pacl_mmseg.prompts import Vocabulary
from pacl_mmseg.registry import (
    DATASETS,
    FUNCTIONS,
    LOOPS,
    METRICS,
    MODELS,
    RUNNERS,
    TRANSFORMS,
)

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
EXPERIMENTS = sorted(p for p in CONFIGS.rglob('*.py') if '_base_' not in p.parts)


@pytest.mark.parametrize('path', EXPERIMENTS, ids=lambda p: str(p.relative_to(CONFIGS)))
def test_types_exist(path):
    config = Config.fromfile(path)
    assert config.runner_type in RUNNERS
    for part in ('backbone', 'neck', 'decode_head', 'data_preprocessor'):
        if config.model.get(part) is not None:
            assert config.model[part].type in MODELS
    found = 0
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        if config.get(name) is not None:
            assert config[name].dataset.type in DATASETS
            found += 1
    assert found > 0
    if config.get('train_cfg') is not None:
        assert config.train_cfg.type in LOOPS
    if config.get('test_evaluator') is not None:
        evaluators = config.test_evaluator
        for metric in evaluators if isinstance(evaluators, list) else [evaluators]:
            assert metric.type in METRICS


def test_a_written_config_reads_back_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr('yapf.yapflib.yapf_api.FormatCode', None)  # slow
    config = load_config(CONFIGS / 'pacl_vitb16_30m.py')
    config.odd = {
        'not a name': (), 1: None, 'text': 'a\n"b"\'c\'', 'tuples': [(1,), [{}], ((),)]
    }  # fmt: skip
    config.dump(tmp_path / 'config.py')
    assert load_config(tmp_path / 'config.py').to_dict() == config.to_dict()


@pytest.mark.parametrize('path', EXPERIMENTS, ids=lambda p: str(p.relative_to(CONFIGS)))
def test_training_pairs_are_packed_for_their_collate_function(path):
    loader = Config.fromfile(path).get('train_dataloader')
    if loader is None:
        pytest.skip('only tests')
    assert loader.get('collate_fn', dict(type='pseudo_collate')).type in FUNCTIONS
    dataset = loader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    pipeline = [TRANSFORMS.get(step.type) for step in dataset.get('pipeline', [])]
    assert None not in pipeline
    if pipeline and loader.get('collate_fn', {}).get('type') == 'collate_image_text':
        assert pipeline[-1] is PackImageText


@pytest.mark.parametrize(
    'name, pairs, shards',
    [
        ('cc3m', 3_318_333, 332),
        ('cc12m', 12_423_374, 1243),
        ('yfcc15m', 14_829_396, 1483),
        ('30m', 30_571_103, 332 + 1243 + 1483),
    ],
)
def test_pretraining_takes_ten_epochs_of_all_shards(name, pairs, shards):
    config = Config.fromfile(CONFIGS / f'pacl_vitb16_{name}.py')
    assert config.max_iters == config.train_cfg.max_iters == 10 * pairs // 4096
    patterns = config.train_dataloader.dataset.shards
    patterns = patterns.values() if isinstance(patterns, dict) else [patterns]
    assert sum(len(expand_urls(pattern)) for pattern in patterns) == shards


def test_noun_prompts_are_where_the_readme_says():
    pipeline = Config.fromfile(
        CONFIGS / 'pacl_vitb16_30m.py'
    ).train_dataloader.dataset.pipeline
    assert pipeline[2].type == 'NounPrompt'


def test_small_world_names_agree():
    assert Vocabulary.from_dataset('small_world').classes == CLASSES
    assert SmallWorldSegmentation.METAINFO['classes'] == CLASSES
    config = Config.fromfile(CONFIGS / 'small_world' / 'pacl.py')
    groups = config.test_evaluator[0].groups
    assert tuple(groups.seen) == SEEN
    assert set(groups.held_out) == set(HELD_OUT)


def test_weights_trained_without_texts_are_small_and_fit():
    config = load_config(CONFIGS / 'small_world' / 'pacl_selfsup.py').model.backbone
    assert Path(config.pretrained).stat().st_size <= 10_000_000
    weights = load_file(config.pretrained)
    assert all(value.isfinite().all() for value in weights.values())
    tower = MODELS.build(config).backbone
    for name, value in tower.state_dict().items():  # half precision
        assert (value == weights[f'backbone.{name}'].float()).all()


def test_the_small_worlds_mae_trains_on_images():
    config = load_config(CONFIGS / 'small_world' / 'mae_pretrain.py')
    loader = config.train_dataloader
    loader.update(batch_size=4, num_workers=0, persistent_workers=False)
    loader.dataset.dataset.num_scenes = 4
    batch = next(iter(Runner.build_dataloader(loader, seed=0)))
    assert batch['inputs'].shape == (4, 3, 64, 64)
    model = MODELS.build(config.model).train()
    optimizer = build_optim_wrapper(model, config.optim_wrapper)
    losses = [model.train_step(batch, optimizer)['loss'] for _ in range(4)]
    assert losses[-1] < losses[0]


def test_shipped_weights_are_small_tensors_that_fit():
    path = CONFIGS / 'small_world' / 'clip.safetensors'
    assert path.stat().st_size <= 10_000_000
    assert all(value.isfinite().all() for value in load_file(path).values())
    encoder = Config.fromfile(CONFIGS / 'small_world' / 'pacl.py').model.encoder
    loaded = PACLBackbone(**encoder)
    random = PACLBackbone(encoder.model)
    assert loaded.fingerprint() != random.fingerprint()


def test_a_config_without_validation_lacks_no_data():
    config = load_config(CONFIGS / 'pacl_vitb16_cc12m.py')
    assert config.get('val_dataloader') is None
    assert missing_data(config, 'val_dataloader') is None
    assert 'exists' in missing_data(config, 'train_dataloader')


def test_images_to_train_on_are_not_looked_for(tmp_path):
    """Some may be lacking, and all of them where their tokens are cached."""
    config = load_config(CONFIGS / 'pacl_vitb16_coco_cached.py')
    data = config.train_dataloader.dataset.dataset
    data.data_root = str(tmp_path)
    assert data.ann_file in missing_data(config, 'train_dataloader')
    path = tmp_path / data.ann_file
    path.parent.mkdir()
    path.touch()
    assert missing_data(config, 'train_dataloader') is None
