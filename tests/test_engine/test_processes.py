"""Several processes train as one does, and end together."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from engine_runs import assert_same, curve, run, torchrun, weights, write
from mmengine.config import Config

GLOBAL_BATCH = 8
MAX_ITERS = 20


@pytest.fixture
def job(config, tmp_path):
    """Make the config of a job of so many processes with the same global batch."""
    config.model.neck.dropout = 0.0
    config.train_cfg.update(max_iters=MAX_ITERS)
    config.default_hooks.checkpoint.interval = 10
    config.val_cfg = config.val_dataloader = config.val_evaluator = None
    config.train_dataloader.dataset.dataset.num_scenes = 50

    def make(name: str, processes: int, **changes) -> tuple[Config, Path]:
        job = config.copy()
        job.work_dir = str(tmp_path / name)
        job.train_dataloader.batch_size = GLOBAL_BATCH // processes
        job.merge_from_dict(changes)
        if processes > 1:
            job.launcher = 'pytorch'
        return job, write(job, tmp_path / f'{name}.py')

    return make


def assert_close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-5, atol=1e-6, msg=name)


def keep_first(source: Path, target: Path) -> None:
    """Make a work directory that has the first checkpoint of another one."""
    target.mkdir()
    shutil.copy(source / 'iter_10.pth', target)


def log_of(work_dir: Path) -> str:
    return ''.join(path.read_text() for path in work_dir.glob('*/*.log'))


def test_several_processes_train_as_one(job, tmp_path):
    """Also over an interruption, and with another number of processes after it."""
    last = f'iter_{MAX_ITERS}.pth'
    config, _ = job('one', 1)
    run(config)
    one, losses = weights(tmp_path / 'one' / last), curve(tmp_path / 'one', 'loss')
    assert len(losses) == MAX_ITERS and losses[-1] != losses[0]
    for processes in (2, 4):
        name = f'of{processes}'
        phases = {'default_hooks.pretrain.phases': True}
        done = torchrun(job(name, processes, **phases)[1], processes)
        assert done.returncode == 0, done.stderr
        checkpoint = torch.load(tmp_path / name / last, weights_only=True)
        assert len(checkpoint['ranks']) == processes
        assert_close(checkpoint['state_dict'], one)
        # MMEngine's log has the mean of the last ten.
        assert curve(tmp_path / name, 'loss') == pytest.approx(losses, rel=1e-5)
        assert min(curve(tmp_path / name, 'phase_reduce')) > 0

    # A process is killed, and the job goes on from its last checkpoint.
    _, path = job('killed', 2)
    done = torchrun(path, 2, '--accident', 'kill', '--after', 13, '--rank', 1)
    assert done.returncode != 0
    assert 'Signal 9 (SIGKILL)' in done.stderr
    assert not (tmp_path / 'killed' / last).exists()
    done = torchrun(job('killed', 2, resume=True)[1], 2)
    assert done.returncode == 0, done.stderr
    assert_same(weights(tmp_path / 'killed' / last), weights(tmp_path / 'of2' / last))

    # Two processes, then one.
    keep_first(tmp_path / 'of2', tmp_path / 'less')
    run(job('less', 1, resume=True)[0])
    assert 'written by 2 processes and is resumed by 1' in log_of(tmp_path / 'less')
    assert 'global batch' not in log_of(tmp_path / 'less')
    assert_close(weights(tmp_path / 'less' / last), one)

    # One process, then two.
    keep_first(tmp_path / 'one', tmp_path / 'more')
    done = torchrun(job('more', 2, resume=True)[1], 2)
    assert done.returncode == 0, done.stderr
    assert_close(weights(tmp_path / 'more' / last), one)


def test_another_global_batch_goes_on_behind_the_same_sample(job, tmp_path):
    config, _ = job('batch', 1)
    config.train_cfg.max_iters = 10
    run(config)
    config.train_cfg.max_iters = 12
    config.train_dataloader.batch_size = 3
    config.default_hooks.checkpoint.interval = 1
    config.resume = True
    run(config)
    assert 'global batch was 8 samples and is 3' in log_of(tmp_path / 'batch')
    checkpoint = torch.load(tmp_path / 'batch' / 'iter_12.pth', weights_only=True)
    assert checkpoint['ranks'][0]['data']['samples'] == 10 * 8 + 2 * 3


def test_a_loss_that_one_process_finds_not_finite_ends_all(job, tmp_path):
    options = {'env_cfg.dist_cfg.timeout': 60, 'default_hooks.logger.interval': 4}
    _, path = job('nan', 2, **options)
    done = torchrun(path, 2, '--accident', 'nan', '--after', 9, '--rank', 1)
    assert done.returncode != 0
    assert 'Timed out' not in done.stderr
    # Due for the checkpoint of iteration 10, which is not written; on both of them.
    sentence = 'RuntimeError: The loss is nan at iteration 10: training stops'
    assert done.stderr.count(sentence) == 2
    assert not list((tmp_path / 'nan').glob('iter_*'))


def test_a_process_that_hangs_ends_the_job(job, tmp_path):
    _, path = job('hangs', 2, **{'env_cfg.dist_cfg.timeout': 15})
    done = torchrun(path, 2, '--accident', 'hang', '--after', 5, '--rank', 1)
    assert done.returncode != 0
    assert 'Timed out waiting 15000ms' in done.stderr
