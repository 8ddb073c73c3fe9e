"""Validation on the way: workers that die in it, and the best checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from accidents import kill
from engine_runs import run
from mmengine.hooks import Hook
from mmengine.runner import Runner

from pacl_mmseg.registry import HOOKS


@HOOKS.register_module(force=True)
class KillValidationWorker(Hook):
    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if batch_idx == 2:
            kill(runner.val_dataloader._iterator._workers[0].pid)


def test_a_lost_validation_worker_ends_training(config):
    config.train_cfg.val_interval = 2
    config.val_dataloader.dataset.num_scenes = 20  # more than a worker has ready
    config.val_dataloader.update(num_workers=1, persistent_workers=True)
    config.custom_hooks = [dict(type='KillValidationWorker')]
    with pytest.raises(RuntimeError, match=r'A data worker was lost.*/iter_2\.pth'):
        run(config)


@HOOKS.register_module(force=True)
class AlwaysBetter(Hook):
    def __init__(self, metrics=('mIoU',)) -> None:
        self.metrics = metrics

    def before_val(self, runner):
        names = [f'_{name}' for name in self.metrics] if len(self.metrics) > 1 else ['']
        scores = {f'best_score{name}': -1 for name in names}
        runner.message_hub.runtime_info.update(scores)


@pytest.fixture
def best(config):
    """Every validation is better than the last one."""
    config.custom_hooks = [dict(type='AlwaysBetter')]
    config.train_cfg.val_interval = 2
    config.default_hooks.checkpoint.update(interval=100, save_best='mIoU')
    return config


def best_of(config) -> list[str]:
    return sorted(path.name for path in Path(config.work_dir).glob('best_*'))


@pytest.mark.parametrize('metrics', ['mIoU', ['mIoU', 'aAcc']])
def test_the_best_checkpoint_stays_until_a_better_one_is_written(
    best, monkeypatch, metrics
):
    best.default_hooks.checkpoint.update(
        interval=1, max_keep_ckpts=1, save_best=metrics
    )
    names = [metrics] if metrics == 'mIoU' else metrics
    best.custom_hooks[0].metrics = names
    seen = []

    def save(*args, **kwargs):
        seen.append((best_of(best), len(list(Path(best.work_dir).glob('iter_*')))))
        torch_save(*args, **kwargs)

    torch_save = torch.save
    monkeypatch.setattr(torch, 'save', save)
    runner = run(best)
    assert best_of(best) == [f'best_{name}_iter_6.pth' for name in sorted(names)]
    info = runner.message_hub.runtime_info
    assert {Path(v).name for k, v in info.items() if k.startswith('best_ckpt')} == set(
        best_of(best)
    )
    # From the second one on there is one of each kind whenever one is written.
    assert all(regular for _, regular in seen[1:])
    after = seen[[len(written) for written, _ in seen].index(len(names)) :]
    assert all(len(written) >= len(names) for written, _ in after)
    assert [p.name for p in Path(best.work_dir).glob('iter_*')] == ['iter_6.pth']


def test_what_killed_runs_have_left_is_swept(best):
    best.train_cfg.max_iters = 2
    run(best)
    work_dir = Path(best.work_dir)
    (kept,) = best_of(best)
    (last,) = work_dir.glob('iter_*.pth')
    left = ['best_mIoU_iter_1.pth', 'iter_1.pth', '.77.iter_2.pth']
    own = ['mine.pth', '.mine.pth', 'iter_1_copy.pth', 'best_mIoU_iter_1-0f3a.pth']
    for name in left + own:
        shutil.copy(last, work_dir / name)
    best.resume = True
    best.default_hooks.checkpoint.max_keep_ckpts = 1
    run(best)
    names = {path.name for path in work_dir.iterdir() if '.pth' in path.name}
    assert names == {kept, last.name, *own}


def test_a_best_checkpoint_that_nothing_has_noted_yet_stays(best):
    best.train_cfg.max_iters = 2
    run(best)
    (noted,) = Path(best.work_dir).glob('best_*')
    newer = noted.rename(noted.with_name('best_mIoU_iter_3.pth'))
    best.resume = True
    run(best)
    assert newer.exists()


def test_a_best_checkpoint_amid_an_accumulation_is_refused(best):
    best.optim_wrapper.accumulative_counts = 2
    best.train_cfg.val_interval = 3
    with pytest.raises(ValueError, match='train_cfg.val_interval to a multiple of 2'):
        run(best)


def test_a_test_after_training_is_of_what_was_trained(config):
    config.experiment_name = 'train_and_test'
    config.resume = True  # nothing is there to resume, then or after training
    config.train_cfg.max_iters = 2
    runner = run(config)
    metrics = runner.test()
    config.resume = False
    config.load_from = str(Path(config.work_dir) / 'iter_2.pth')
    config.experiment_name = 'test_alone'
    assert type(runner).from_cfg(config).test() == metrics


def test_the_stock_runner_is_refused(config):
    config.experiment_name = 'stock'
    with pytest.raises(RuntimeError, match='set runner_type = .*PretrainRunner'):
        Runner.from_cfg(config).train()
