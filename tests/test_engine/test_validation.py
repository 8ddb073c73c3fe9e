"""Validation on the way: workers that die in it, and the best checkpoint."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from engine_runs import assert_same, curve, run, weights
from mmengine.hooks import Hook
from mmengine.runner import Runner

from pacl_mmseg.registry import HOOKS


@HOOKS.register_module(force=True)
class KillValidationWorker(Hook):
    """Kills one in a validation, or between the first and the second one."""

    def __init__(self, between: bool) -> None:
        self.between = between
        self.done = False

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if batch_idx == 2 and not self.between:
            self._kill(runner)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 3 and self.between:
            self._kill(runner)

    def _kill(self, runner):
        if not self.done:
            self.done = True
            worker = runner.val_dataloader._iterator._workers[0]
            os.kill(worker.pid, signal.SIGKILL)
            os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)


@pytest.mark.parametrize(('between', 'train_workers'), [(False, 0), (True, 1)])
def test_a_killed_validation_worker_changes_nothing(config, between, train_workers):
    config.train_cfg.val_interval = 2
    config.train_dataloader.num_workers = train_workers
    config.val_dataloader.dataset.num_scenes = 20  # more than a worker has ready
    run(config)
    work_dir = Path(config.work_dir)
    whole, mious = weights(work_dir / 'iter_6.pth'), curve(work_dir, 'mIoU')
    config.work_dir += '_killed'
    config.val_dataloader.update(num_workers=1, persistent_workers=True)
    config.custom_hooks = [dict(type='KillValidationWorker', between=between)]
    assert run(config).train_loop.data_restarts == 1
    assert_same(whole, weights(Path(config.work_dir) / 'iter_6.pth'))
    assert len(mious) == 3 and curve(config.work_dir, 'mIoU') == mious


def test_validation_workers_that_are_killed_again_and_again(config):
    config.train_cfg.update(val_interval=2, max_data_restarts=0)
    config.default_hooks.checkpoint.interval = 100
    config.val_dataloader.dataset.num_scenes = 20
    config.val_dataloader.update(num_workers=1, persistent_workers=True)
    config.custom_hooks = [dict(type='KillValidationWorker', between=False)]
    sentence = r'in the validation after iteration 2 .*--resume from .*iter_2\.pth'
    with pytest.raises(RuntimeError, match=sentence):
        run(config)


@HOOKS.register_module(force=True)
class AlwaysBetter(Hook):
    def before_val(self, runner):
        runner.message_hub.runtime_info['best_score'] = -1


@pytest.fixture
def best(config):
    """Every validation is better than the last one."""
    config.custom_hooks = [dict(type='AlwaysBetter')]
    config.train_cfg.val_interval = 2
    config.default_hooks.checkpoint.update(interval=100, save_best='mIoU')
    return config


def block(config, *names: str) -> None:
    """Let there be directories where checkpoints would be written."""
    for name in names:
        (Path(config.work_dir) / name).mkdir(parents=True)


def best_of(config) -> list[str]:
    paths = Path(config.work_dir).glob('best_*')
    return sorted(path.name for path in paths if path.is_file())


def test_the_best_checkpoint_stays_until_a_better_one_is_written(best):
    block(best, 'best_mIoU_iter_4.pth')
    best.train_cfg.max_iters = 4
    info = run(best).message_hub.runtime_info
    assert best_of(best) == ['best_mIoU_iter_2.pth']
    assert Path(info['best_ckpt']).name == 'best_mIoU_iter_2.pth'
    best.train_cfg.max_iters = 6
    run(best)
    assert best_of(best) == ['best_mIoU_iter_6.pth']


def test_failures_are_counted_by_iteration(best):
    for index in (4, 6):
        block(best, f'iter_{index}.pth', f'best_mIoU_iter_{index}.pth')
    best.train_cfg.max_iters = 8
    best.default_hooks.checkpoint.interval = 2
    run(best)
    log = ''.join(path.read_text() for path in Path(best.work_dir).glob('*/*.log'))
    assert log.count('(1 of at most 3 failures') == 2  # regular and best
    assert log.count('(2 of at most 3 failures') == 2
    assert best_of(best) == ['best_mIoU_iter_8.pth']


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
