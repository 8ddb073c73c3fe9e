"""What happens to a run when something outside of it goes wrong."""

from __future__ import annotations

import math
import os
import signal
import sys
from collections import Counter
from itertools import count
from pathlib import Path

import pytest
import torch
from engine_runs import ROOT, assert_same, run, weights, worker, write
from mmengine.config import Config
from mmengine.hooks import Hook

from pacl_mmseg.engine import loops
from pacl_mmseg.engine.batches import EndlessBatches
from pacl_mmseg.engine.hooks import LateScalars
from pacl_mmseg.registry import HOOKS

sys.path.append(str(ROOT / 'tests' / 'test_datasets'))
from shard_files import all_keys, jpeg, write_shards


@HOOKS.register_module(force=True)
class KillDataWorker(Hook):
    """Kills a data worker in the middle of the iterations after the given ones."""

    def __init__(self, after: list[int]) -> None:
        self.after = after

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter in self.after:
            worker = runner.train_loop.dataloader_iterator.iterator._workers[0]
            os.kill(worker.pid, signal.SIGKILL)
            # The system has told this process about it when this returns.
            os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)


@HOOKS.register_module(force=True)
class NoteNames(Hook):
    """Notes the images that were trained on."""

    names: list[str]

    def before_train(self, runner):
        type(self).names = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        samples = data_batch['data_samples']
        if isinstance(samples, dict):
            self.names.extend(samples['img_path'])
        else:
            self.names.extend(sample.metainfo['img_path'] for sample in samples)


@pytest.fixture
def config(config: Config) -> Config:
    """Without validation, which is not what fails here."""
    config.val_cfg = config.val_dataloader = config.val_evaluator = None
    return config


@pytest.fixture
def shards(config, tmp_path) -> Config:
    """The config on six shards of five pairs."""
    pattern = write_shards(tmp_path / 'shards', 6)
    config.train_dataloader.update(
        batch_size=5,
        num_workers=2,
        sampler=None,
    )
    config.train_dataloader.dataset = dict(
        type='ImageTextShards',
        shards=pattern,
        shuffle_buffer=4,
        pipeline=[
            dict(type='LoadPILImage'),
            dict(type='PickCaption'),
            dict(type='Resize', scale=(32, 32)),
            dict(type='PackImageText'),
        ],
    )
    return config


def warnings_of(work_dir: str | Path) -> str:
    return ''.join(p.read_text() for p in Path(work_dir).glob('*/*.log'))


def test_a_killed_data_worker_changes_nothing(config):
    config.train_dataloader.num_workers = 2
    run(config)
    whole = weights(Path(config.work_dir) / 'iter_6.pth')
    config.work_dir += '_killed'
    config.custom_hooks = [dict(type='KillDataWorker', after=[2])]
    runner = run(config)
    assert runner.train_loop.data_restarts == 1
    assert 'most often the memory was full' in warnings_of(config.work_dir)
    assert_same(whole, weights(Path(config.work_dir) / 'iter_6.pth'))


def test_a_killed_data_worker_of_shards_loses_no_sample(shards):
    config = shards
    # Noticed after the fourth batch, when each of the two workers has given two of its
    # three: what follows completes the epoch of 30, one batch from each.
    config.custom_hooks = [
        dict(type='KillDataWorker', after=[3]),
        dict(type='NoteNames'),
    ]
    runner = run(config)
    assert runner.train_loop.data_restarts == 1
    keys = Counter(Path(name).stem for name in NoteNames.names)
    assert keys == Counter(all_keys(6))


def test_data_workers_that_are_killed_again_and_again(config):
    config.train_dataloader.num_workers = 2
    run(config)
    whole = weights(Path(config.work_dir) / 'iter_6.pth')
    config.work_dir += '_killed'
    config.default_hooks.checkpoint.interval = 100
    config.train_cfg.max_data_restarts = 2
    config.custom_hooks = [dict(type='KillDataWorker', after=[1, 2, 3])]
    sentence = r'killed 3 times.*at iteration 5.*--resume from .*_killed/iter_4\.pth'
    with pytest.raises(RuntimeError, match=sentence):
        run(config)
    config.custom_hooks = []
    config.resume = True
    run(config)
    assert_same(whole, weights(Path(config.work_dir) / 'iter_6.pth'))


def test_a_full_disk(config, tmp_path):
    run(config)
    whole = weights(Path(config.work_dir) / 'iter_6.pth')
    config.work_dir = str(tmp_path / 'full')
    config.default_hooks.checkpoint.update(interval=1, max_keep_ckpts=2)
    path = write(config, tmp_path / 'config.py')
    done = worker(path, '--accident', 'disk-full', '--after', 2)
    assert done.returncode == 1, done.stderr
    output = done.stdout + done.stderr
    assert 'iter_3.pth was not written' in output
    assert '(1 of at most 3 failures in a row); the last good' in output
    assert '3. failure in a row: training stops' in output
    assert f'{tmp_path / "full" / "iter_2.pth"}; make room and continue' in output
    names = {p.name for p in (tmp_path / 'full').glob('*') if 'iter' in p.name}
    assert names == {'iter_1.pth', 'iter_2.pth'}  # whole, and nothing half done
    config.resume = True
    run(config)
    assert_same(whole, weights(tmp_path / 'full' / 'iter_6.pth'))
    names = {p.name for p in (tmp_path / 'full').glob('iter_*')}
    assert names == {'iter_5.pth', 'iter_6.pth'}


def test_a_full_disk_at_the_end(config, tmp_path):
    config.default_hooks.checkpoint.interval = 3
    path = write(config, tmp_path / 'config.py')
    done = worker(path, '--accident', 'disk-full', '--after', 4)
    assert done.returncode == 1, done.stderr
    assert '1. failure in a row and the end of training: training stops' in done.stderr
    assert (Path(config.work_dir) / 'iter_3.pth').exists()
    assert not (Path(config.work_dir) / 'iter_6.pth').exists()


def test_stops_on_a_non_finite_loss_and_keeps_the_last_checkpoint(config):
    config.optim_wrapper.optimizer = dict(type='SGD', lr=1e30)
    with pytest.raises(RuntimeError, match=r'nan at iteration|is not finite at iter'):
        run(config)
    for path in Path(config.work_dir).glob('iter_*.pth'):
        assert all(v.isfinite().all() for v in weights(path).values())


@HOOKS.register_module(force=True)
class BreakEmbedder(Hook):
    """Scales the embedder's weights before the iteration after the given one."""

    def __init__(self, after: int, factor: float) -> None:
        self.after, self.factor = after, factor

    @torch.no_grad()
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.after:
            for value in runner.bare_model.neck.parameters():
                value.mul_(self.factor)


def test_a_non_finite_loss_names_its_images(config):
    config.custom_hooks = [
        dict(type='BreakEmbedder', after=3, factor=float('nan')),
        dict(type='NoteNames'),
    ]
    with pytest.raises(RuntimeError, match='nan at iteration 4') as error:
        run(config)
    names = NoteNames.names[-4:]
    assert str(error.value).endswith(f'In flight: {", ".join(names)}.')
    last = Path(config.work_dir) / 'iter_3.pth'
    assert sorted(Path(config.work_dir).glob('iter_*'))[-1] == last
    assert f'the last good checkpoint is {last}. ' in str(error.value)
    # Neither does a run forget it that resumes it and writes none.
    config.resume = True
    config.default_hooks.checkpoint.interval = 100
    with pytest.raises(RuntimeError, match=f'last good checkpoint is {last}'):
        run(config)


@HOOKS.register_module(force=True)
class PoisonEmbedder(Hook):
    """Makes weights infinite that the loss has not seen yet."""

    @torch.no_grad()
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == 4:
            next(runner.bare_model.neck.parameters()).fill_(math.inf)


def test_weights_that_are_not_finite_are_not_written(config):
    config.custom_hooks = [dict(type='PoisonEmbedder')]
    sentence = r'not finite at iteration 4: .*last good checkpoint is .*iter_3\.pth'
    with pytest.raises(RuntimeError, match=sentence):
        run(config)
    assert not (Path(config.work_dir) / 'iter_4.pth').exists()


def test_a_non_finite_loss_names_its_shards(shards):
    shards.custom_hooks = [dict(type='BreakEmbedder', after=0, factor=float('nan'))]
    with pytest.raises(RuntimeError, match=r'In flight: .*shards/0000\d.tar'):
        run(shards)


def test_loss_spikes_are_reported_and_training_goes_on(config):
    config.train_cfg.max_iters = 16
    config.default_hooks.runtime_info.update(spike_window=5, spike_interval=100)
    config.optim_wrapper.optimizer.lr = 0.0
    config.train_dataloader.dataset.dataset.num_scenes = 4  # the same batch each time
    config.train_dataloader.dataset.shuffle = False
    config.model.neck.dropout = 0.0
    config.model.decode_head.loss_decode = dict(type='InfoNCELoss', logit_scale=100.0)
    config.custom_hooks = [
        dict(type='BreakEmbedder', after=10, factor=-1.0),
        dict(type='BreakEmbedder', after=13, factor=-1.0),
    ]
    runner = run(config)
    assert runner.iter == 16
    reports = [
        line for line in warnings_of(config.work_dir).splitlines() if 'spike' in line
    ]
    assert len(reports) == 1  # at most one in 100 iterations
    assert 'Loss spike at iteration 11: ' in reports[0]
    assert 'In flight: small_world/train/000000' in reports[0]


def test_broken_shards_and_sources_are_reported(shards, tmp_path):
    broken = tmp_path / 'shards' / '00002.tar'
    broken.write_bytes(broken.read_bytes()[:700])
    shards.log_level = 'INFO'
    shards.train_cfg.max_iters = 10  # two epochs
    shards.default_hooks.pretrain.report_interval = 5
    run(shards)
    log = warnings_of(shards.work_dir)
    assert '1 broken shards, passed over: ' in log
    listed = (Path(shards.work_dir) / 'broken_shards.txt').read_text()
    assert listed == f'{broken}\n'
    assert 'Samples so far: 25; in this run 25 of all, ' in log
    assert 'Samples so far: 50; in this run 50 of all, ' in log


def test_broken_shards_that_cannot_be_noted_do_not_end_training(shards, tmp_path):
    broken = tmp_path / 'shards' / '00002.tar'
    broken.write_bytes(broken.read_bytes()[:700])
    (Path(shards.work_dir) / 'broken_shards.txt').mkdir(parents=True)
    run(shards)
    assert 'Their names were not written: ' in warnings_of(shards.work_dir)


def test_speed_and_waiting_share(config, monkeypatch):
    # By a clock that ticks where the loop reads it, batches take a second each.
    monkeypatch.setattr(loops, 'perf_counter', count().__next__)
    scalars = run(config).message_hub.log_scalars
    speeds, shares = (scalars[f'train/{n}'] for n in ('samples_per_s', 'data_wait'))
    seconds = scalars['train/time'].mean(10)
    assert speeds.current() == pytest.approx(4 / seconds)
    assert shares.current() == pytest.approx(100 / seconds)


def test_scalars_are_in_time_on_a_cpu():
    late = LateScalars()
    late.put('a', dict(loss=torch.tensor(1.5), other=2))
    assert late.take() == [('a', dict(loss=1.5, other=2))]
    assert late.take(flush=True) == []
    late.put('b', {})
    assert late.take() == [('b', {})]


def test_batches_stay_as_they_are_on_a_cpu():
    data = [dict(inputs=torch.zeros(1), data_samples=[jpeg()])]
    batches = EndlessBatches(
        torch.utils.data.DataLoader(data, batch_size=None), torch.device('cpu')
    )
    for _ in range(3):  # begins anew when the data ends
        assert next(batches)['inputs'] is data[0]['inputs']


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_on_a_gpu_scalars_come_a_step_late_and_images_beside_it():
    late = LateScalars()
    late.put(1, dict(loss=torch.ones((), device='cuda')))
    assert late.take() == []
    late.put(2, dict(loss=2 * torch.ones((), device='cuda')))
    assert late.take() == [(1, dict(loss=1.0))]
    assert late.take(flush=True) == [(2, dict(loss=2.0))]
    images = torch.arange(12, dtype=torch.uint8).reshape(4, 3)
    data = [dict(inputs=images, data_samples=dict(captions=['a']))]
    loader = torch.utils.data.DataLoader(data, batch_size=None, pin_memory=True)
    batch = next(EndlessBatches(loader, torch.device('cuda')))
    assert batch['inputs'].is_cuda and torch.equal(batch['inputs'].cpu(), images)
    assert batch['data_samples'] == dict(captions=['a'])


def test_a_run_that_never_ended_does_not_hide_killed_workers(config):
    config.train_dataloader.num_workers = 1
    left_over = EndlessBatches(
        torch.utils.data.DataLoader(range(4), num_workers=1), torch.device('cpu')
    )
    next(left_over)
    config.custom_hooks = [dict(type='KillDataWorker', after=[2])]
    assert run(config).train_loop.data_restarts == 1
    left_over.stop()
