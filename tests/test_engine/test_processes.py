"""Several processes train as one does, end together, and are started again."""

from __future__ import annotations

import copy
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from engine_runs import ROOT, assert_same, curve, log_of, run, train, weights, write
from mmengine.config import Config

GLOBAL_BATCH = 8
MAX_ITERS = 20
LAST = f'iter_{MAX_ITERS}.pth'


@pytest.fixture
def job(config, tmp_path):
    """Make the config of a job of so many processes with the same global batch."""
    config.model.neck.dropout = 0.0
    config.train_cfg.update(max_iters=MAX_ITERS)
    config.default_hooks.checkpoint.interval = 10
    config.val_cfg = config.val_dataloader = config.val_evaluator = None
    config.train_dataloader.dataset.dataset.num_scenes = 50

    def make(name: str, processes: int, **changes) -> Config:
        job = copy.deepcopy(config)
        job.work_dir = str(tmp_path / name)
        job.train_dataloader.batch_size = GLOBAL_BATCH // processes
        job.merge_from_dict(changes)
        return job

    return make


_OF_TWO: dict[str, torch.Tensor] = {}


@pytest.fixture
def of_two(job) -> dict[str, torch.Tensor]:
    """The weights that an undisturbed job of two ends with; computed once."""
    if not _OF_TWO:
        config = job('of2', 2)
        finish(config, 2)
        _OF_TWO.update(weights(Path(config.work_dir) / LAST))
    return _OF_TWO


def finish(config: Config, processes: int) -> None:
    for done in train(config, processes):
        assert done.returncode == 0, done.stderr


def assert_close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-5, atol=1e-6, msg=name)


def keep_first(source: Path, target: Path) -> None:
    """Make a work directory that has the first checkpoint of another one."""
    target.mkdir()
    shutil.copy(source / 'iter_10.pth', target)


def test_several_processes_train_as_one(job, tmp_path):
    """Also over an interruption, and with another number of processes after it."""
    run(job('one', 1))
    one, losses = weights(tmp_path / 'one' / LAST), curve(tmp_path / 'one', 'loss')
    assert len(losses) == MAX_ITERS and losses[-1] != losses[0]
    for processes in (2, 4):
        name = f'of{processes}'
        finish(job(name, processes), processes)
        checkpoint = torch.load(tmp_path / name / LAST, weights_only=True)
        assert len(checkpoint['ranks']) == processes
        assert_close(checkpoint['state_dict'], one)
        # MMEngine's log has the mean of the last ten.
        assert curve(tmp_path / name, 'loss') == pytest.approx(losses, rel=1e-5)
    _OF_TWO.update(weights(tmp_path / 'of2' / LAST))

    # Two processes, then one.
    keep_first(tmp_path / 'of2', tmp_path / 'less')
    run(job('less', 1, resume=True))
    assert 'global batch' not in log_of(tmp_path / 'less')
    assert_close(weights(tmp_path / 'less' / LAST), one)

    # One process, then two.
    keep_first(tmp_path / 'one', tmp_path / 'more')
    finish(job('more', 2, resume=True), 2)
    assert_close(weights(tmp_path / 'more' / LAST), one)


def test_another_global_batch_goes_on_behind_the_same_sample(job, tmp_path):
    config = job('batch', 1)
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


def accident(kind: str, after: int, **options) -> dict:
    return dict(
        custom_hooks=[dict(type='Accident', kind=kind, after=[after], **options)]
    )


def with_this_python(env: Mapping[str, str]) -> dict[str, str]:
    """An environment in which ``python`` is the one that runs this test."""
    here = Path(sys.executable).parent
    return {
        **env,
        'PATH': os.pathsep.join([str(here), env['PATH']]),
        'PYTHONPATH': os.pathsep.join([str(ROOT), str(Path(__file__).parent)]),
    }


def test_dist_train_goes_on_after_a_lost_process(job, of_two, tmp_path):
    config = job('killed', 2, **accident('signal', 13, rank=1))
    config.custom_imports.imports.append('accidents')
    path = write(config, tmp_path / 'killed.py')
    done = subprocess.run(
        ['tools/dist_train.sh', path, '2', '--work-dir', config.work_dir],
        cwd=ROOT,
        env={**with_this_python(os.environ), 'MAX_RESTARTS': '1'},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    assert '(SIGKILL)' in done.stderr or 'exitcode: -9' in done.stderr
    assert_same(weights(Path(config.work_dir) / LAST), of_two)
    assert len(list(Path(config.work_dir).glob('*/*.log'))) == 2


def test_a_batch_job_goes_on_after_a_lost_process(job, of_two, slurm_env, tmp_path):
    config = job('batch', 2, **accident('signal', 13, rank=1))
    config.custom_imports.imports.append('accidents')
    path, output = write(config, tmp_path / 'batch.py'), tmp_path / 'output'
    env = {
        **with_this_python(slurm_env),
        **dict(BATCH='1', GPUS='2', MAX_RESTARTS='1', SRUN_ARGS=f'--output={output}'),
    }

    def scontrol(*arguments: str) -> str:
        command = ['scontrol', *arguments]
        return subprocess.run(command, env=env, capture_output=True, text=True).stdout

    submitted = subprocess.check_output(
        ['tools/slurm_train.sh', 'all', 'name', path, '--work-dir', config.work_dir],
        cwd=ROOT,
        env=env,
        text=True,
    )
    number, state = submitted.split()[-1], {}
    end = time.monotonic() + 1200
    while state.get('JobState') not in ('COMPLETED', 'FAILED'):
        assert time.monotonic() < end, (state, output.read_text())
        time.sleep(0.2)
        if state.get('JobState') == 'PENDING' and state['Restarts'] == '1':
            # Slurm would wait for two minutes.
            scontrol('update', f'JobId={number}', 'StartTime=now')
        words = scontrol('show', 'job', number).split()
        state = dict(word.partition('=')[::2] for word in words)
    assert state['JobState'] == 'COMPLETED', (state, output.read_text())
    assert state['Restarts'] == '1' and ': Killed' in output.read_text()
    assert_same(weights(Path(config.work_dir) / LAST), of_two)
    assert len(list(Path(config.work_dir).glob('*/*.log'))) == 2


def test_slurm_train_starts_the_tool_in_each_task(slurm_env, tmp_path):
    """What it starts tells what it was given, in place of training."""
    python = tmp_path / 'python'
    python.write_text('#!/bin/sh\necho "$SLURM_PROCID of $SLURM_NTASKS: $*"\n')
    python.chmod(0o755)
    lines = subprocess.check_output(
        ['tools/slurm_train.sh', 'all', 'name', 'a b.py', '--resume'],
        cwd=ROOT,
        env={**slurm_env, 'PATH': f'{tmp_path}:{slurm_env["PATH"]}', 'GPUS': '2'},
        text=True,
    )
    arguments = '-u tools/train.py a b.py --launcher slurm --resume'
    assert sorted(lines.splitlines()) == [f'{i} of 2: {arguments}' for i in range(2)]


def test_a_signal_to_one_process_stops_all_with_a_checkpoint(job, of_two, tmp_path):
    config = job('stopped', 2, **accident('signal', 12, rank=1, number=signal.SIGTERM))
    first, second = train(config, 2)
    assert first.returncode == second.returncode == 1
    assert 'Traceback' not in first.stderr + second.stderr
    assert 'after 13 iterations; the checkpoint to go on from is' in first.stderr
    assert 'iterations' not in second.stderr
    finish(job('stopped', 2, resume=True), 2)
    assert_same(weights(Path(config.work_dir) / LAST), of_two)


def test_a_loss_that_one_process_finds_not_finite_ends_all(job):
    changes = accident('nan', 9, rank=1)
    config = job('nan', 2, **changes, **{'default_hooks.logger.interval': 4})
    for done in train(config, 2):
        # Due for the checkpoint of iteration 10, which is not written; on both of them.
        assert done.returncode == 1
        sentence = 'Error: The loss is nan at iteration 10: training stops'
        assert sentence in done.stderr
    assert not list(Path(config.work_dir).glob('iter_*'))
    assert (Path(config.work_dir) / 'stopped.txt').exists()


@pytest.mark.parametrize(
    ('kind', 'reason'),
    [('signal', 'closed by peer|reset by peer'), ('hang', 'Timed out')],
)
def test_a_process_that_is_lost_or_hangs_ends_the_job(job, kind, reason):
    config = job(kind, 2, **accident(kind, 5, rank=1))
    config.env_cfg.dist_cfg.timeout = 15
    done, _ = train(config, 2, patience=30 if kind == 'signal' else 2)
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    sentence = r'Error: Another process of this job has ended, or hangs at iteration 6 '
    assert re.search(rf'{sentence}.*({reason}).*continue with --resume', done.stderr)
