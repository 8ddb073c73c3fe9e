"""A config that trains in a second."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from engine_runs import run, weights
from mmengine.config import Config

from pacl_mmseg.apis import load_config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def config(tiny_model, tmp_path) -> Config:
    """Six iterations of four scenes of the small world, on the tiny CLIP."""
    config = load_config(ROOT / 'configs' / 'small_world' / 'pacl.py')
    tiny_model.decode_head.pop('vocabulary')
    tiny_model.decode_head.update(dataset_name='small_world')
    tiny_model.neck.dropout = 0.5  # so that the random state matters
    tiny_model.type = 'ZeroShotSegmentor'
    tiny_model.test_cfg.present_classes = True
    config.model = tiny_model
    config.work_dir = str(tmp_path / 'run')
    config.train_cfg.update(max_iters=6, val_interval=4)
    config.default_hooks.checkpoint.update(interval=1, max_keep_ckpts=-1)
    config.default_hooks.logger.interval = 1
    config.log_level = 'WARNING'
    config.train_dataloader.update(
        batch_size=4, num_workers=0, persistent_workers=False
    )
    config.train_dataloader.dataset.dataset.update(num_scenes=10, size=32)
    for loader in (config.val_dataloader, config.test_dataloader):
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
        loader.dataset.update(num_scenes=4, size=32)
    return config


_WHOLE: dict[str, torch.Tensor] = {}


@pytest.fixture
def whole(config) -> dict[str, torch.Tensor]:
    """The weights that six undisturbed iterations end with; computed once."""
    if not _WHOLE:
        undisturbed = copy.deepcopy(config)
        undisturbed.work_dir += '_undisturbed'
        run(undisturbed)
        _WHOLE.update(weights(Path(undisturbed.work_dir) / 'iter_6.pth'))
    return _WHOLE
