"""Settings that are refused before anything is built."""

from __future__ import annotations

import pytest

from pacl_mmseg.apis import apply_options
from pacl_mmseg.registry import RUNNERS


@pytest.mark.parametrize(
    ('option', 'value', 'message'),
    [
        ('optim_wrapper.optimizer.lr', 'abc', r"optimizer\.lr is 'abc': give a number"),
        ('train_cfg.max_iters', 0, 'max_iters is 0: give a whole number from 1'),
        ('train_cfg.max_iters', 'abc', "max_iters is 'abc': give a whole number"),
        ('env_cfg.dist', dict(timeout=5), "Did you mean 'dist_cfg'"),
        (
            'val_dataloader.persistent_workers',
            True,
            r'add val_dataloader\.persistent_workers=False val_dataloader\.prefetch',
        ),
    ],
)
def test_a_setting_that_cannot_be_in_force_is_refused(config, option, value, message):
    with pytest.raises(ValueError, match=message):
        apply_options(config, {option: value})


@pytest.mark.parametrize(('trained', 'interval'), [('neck', 240), ('backbone', 1000)])
def test_the_default_interval_of_checkpoints(config, trained, interval):
    config.default_hooks.checkpoint.interval = None
    runner = RUNNERS.build(config)
    if trained == 'backbone':
        next(runner.model.backbone.parameters()).requires_grad_(True)
    (hook,) = [h for h in runner.hooks if type(h).__name__ == 'PretrainCheckpointHook']
    hook.before_run(runner)
    assert hook.interval == interval


@pytest.mark.parametrize(
    'option',
    [dict(by_epoch=True), dict(filename_tmpl='{}.pth'), dict(out_dir='s3://a')],
)
def test_checkpoints_that_training_would_not_find_are_refused(config, option):
    config.default_hooks.checkpoint.update(option)
    with pytest.raises(ValueError, match=r'writes iter_N\.pth into a folder'):
        RUNNERS.build(config)
