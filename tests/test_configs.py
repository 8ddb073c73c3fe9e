"""Every config file reads, and names only types that exist."""

from pathlib import Path

import pytest
from mmengine.config import Config
from safetensors.torch import load_file

from pacl_mmseg.datasets import SmallWorldSegmentation
from pacl_mmseg.datasets.small_world import CLASSES, HELD_OUT, SEEN
from pacl_mmseg.models import PACLBackbone
from pacl_mmseg.prompts import Vocabulary
from pacl_mmseg.registry import DATASETS, LOOPS, METRICS, MODELS, RUNNERS

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
EXPERIMENTS = [p for p in CONFIGS.rglob('*.py') if '_base_' not in p.parts]


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


def test_small_world_names_agree():
    assert Vocabulary.from_dataset('small_world').classes == CLASSES
    assert SmallWorldSegmentation.METAINFO['classes'] == CLASSES
    config = Config.fromfile(CONFIGS / 'small_world' / 'pacl.py')
    groups = config.test_evaluator[0].groups
    assert tuple(groups.seen) == SEEN
    assert set(groups.held_out) == set(HELD_OUT)


def test_shipped_weights_are_small_tensors_that_fit():
    path = CONFIGS / 'small_world' / 'clip.safetensors'
    assert path.stat().st_size <= 10_000_000
    assert all(value.isfinite().all() for value in load_file(path).values())
    encoder = Config.fromfile(CONFIGS / 'small_world' / 'pacl.py').encoder
    loaded = PACLBackbone(**encoder)
    random = PACLBackbone(encoder.model)
    assert loaded.fingerprint() != random.fingerprint()
