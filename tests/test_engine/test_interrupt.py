"""Ctrl-C and SIGTERM end training with a checkpoint."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from pathlib import Path

import pytest
from engine_runs import ROOT, assert_same, run, train, weights
from mmengine.hooks import Hook

from pacl_mmseg.engine import Interrupted
from pacl_mmseg.engine.batches import EndlessBatches
from pacl_mmseg.registry import HOOKS


@HOOKS.register_module(force=True)
class SignalGroup(Hook):
    """Signals this process and its data workers, or the process alone, but twice."""

    def __init__(self, after: int, number: int, twice: bool = False) -> None:
        self.after, self.number, self.twice = after, number, twice

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter != self.after:
            return
        os.kill(os.getpid(), self.number)
        if self.twice:
            os.kill(os.getpid(), self.number)
        for worker in runner.train_loop.dataloader_iterator.iterator._workers:
            os.kill(worker.pid, self.number)
            if self.number == signal.SIGTERM:
                os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)


@pytest.fixture(autouse=True)
def interruptible():
    """As in a terminal: a shell starts what runs in the background deaf to Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def config(config):
    config.val_cfg = config.val_dataloader = config.val_evaluator = None
    config.train_dataloader.num_workers = 2
    config.default_hooks.checkpoint.interval = 100
    return config


def handlers() -> list:
    return [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_ends_training_with_a_checkpoint(
    config, whole, number, capfd
):
    before = handlers()
    config.custom_hooks = [dict(type='SignalGroup', after=2, number=int(number))]
    last = Path(config.work_dir) / 'iter_3.pth'
    sentence = f'stopped after 3 iterations; the checkpoint to go on from is {last}'
    with pytest.raises(Interrupted, match=sentence):
        run(config)
    assert 'Stopping behind this iteration' in capfd.readouterr().err
    assert handlers() == before
    config.custom_hooks, config.resume = [], True
    run(config)
    assert_same(whole, weights(last.with_name('iter_6.pth')))


def test_a_checkpoint_of_a_signal_is_found_elsewhere_too(config, whole, tmp_path):
    config.default_hooks.checkpoint.out_dir = str(tmp_path / 'elsewhere')
    config.custom_hooks = [dict(type='SignalGroup', after=2, number=15)]
    with pytest.raises(Interrupted, match=r'is .*/elsewhere/run/iter_3\.pth'):
        run(config)
    config.custom_hooks, config.resume = [], True
    run(config)
    assert_same(whole, weights(tmp_path / 'elsewhere' / 'run' / 'iter_6.pth'))


def test_a_signal_while_the_next_batch_is_awaited(config, whole, monkeypatch):
    next_batch = EndlessBatches.__next__
    batches = iter(range(6))

    def fail(self):
        if next(batches) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
            raise RuntimeError('DataLoader worker (pid 1) is killed by signal')
        return next_batch(self)

    with monkeypatch.context() as patch:
        patch.setattr(EndlessBatches, '__next__', fail)
        with pytest.raises(Interrupted, match=r'after 4 iterations.*/iter_4\.pth'):
            run(config)
    config.resume = True
    run(config)
    assert_same(whole, weights(Path(config.work_dir) / 'iter_6.pth'))


def test_a_signal_amid_accumulated_gradients_waits_for_the_last(config):
    config.optim_wrapper.accumulative_counts = 2
    config.custom_hooks = [dict(type='SignalGroup', after=2, number=2)]
    with pytest.raises(Interrupted, match=r'after 4 iterations.*/iter_4\.pth'):
        run(config)


def test_a_second_ctrl_c_does_not_wait(config):
    config.custom_hooks = [dict(type='SignalGroup', after=2, number=2, twice=True)]
    with pytest.raises(KeyboardInterrupt) as error:
        run(config)
    assert error.type is KeyboardInterrupt
    assert not list(Path(config.work_dir).glob('iter_*'))


def test_a_signal_in_the_last_iteration_changes_nothing(config):
    config.custom_hooks = [dict(type='SignalGroup', after=5, number=15)]
    assert run(config).iter == 6
    assert (Path(config.work_dir) / 'iter_6.pth').exists()


def test_the_command_that_resumes_is_printed(config, whole):
    sigterm = dict(type='Accident', kind='signal', after=[1], number=15)
    config.custom_hooks = [sigterm]
    (done,) = train(config)
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert 'To go on:\npython ' in done.stderr
    assert done.stderr.rstrip().endswith('config.py --resume')
    assert (Path(config.work_dir) / 'iter_2.pth').exists()


@pytest.mark.parametrize(
    ('typed', 'added'),
    [
        ("a.py --work-dir 'x y'", ' --resume'),
        ('a.py --resume', ''),
        ('a.py --resume b.pth --amp', ' --resume'),
        ('--resume=b.pth a.py', ' --resume'),
    ],
)
def test_the_command_that_resumes(monkeypatch, typed, added):
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    import train as tool

    monkeypatch.setattr(sys, 'argv', ['train.py'])
    words = shlex.split(typed + added)
    assert tool.resume_command(shlex.split(typed)) == f'python train.py {typed}{added}'
    given = tool.parse_args(words)
    assert (given.config, given.resume) == ('a.py', 'auto')  # the newest checkpoint
    monkeypatch.setenv('PACL_COMMAND', f'tools/dist_train.sh {typed}')
    assert tool.resume_command([]) == f'tools/dist_train.sh {typed}{added}'
