"""What happens to a run when something outside of it, or the loss, goes wrong."""

from __future__ import annotations

import math
import re
import resource
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from engine_runs import ROOT, assert_same, log_of, run, weights
from mmengine.config import Config
from mmengine.hooks import Hook

from pacl_mmseg.engine.batches import EndlessBatches
from pacl_mmseg.registry import HOOKS

sys.path.append(str(ROOT / 'tests' / 'test_datasets'))
from shard_files import all_keys, jpeg, write_shards


@HOOKS.register_module(force=True)
class NoteNames(Hook):
    """Notes the images that were trained on."""

    names: list[str]

    def before_train(self, runner):
        type(self).names = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
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


def checkpoints(config: Config) -> list[str]:
    return sorted(path.name for path in Path(config.work_dir).glob('*iter_*'))


def test_a_lost_data_worker_ends_training_which_resumes(config, whole):
    config.train_dataloader.num_workers = 2
    config.custom_hooks = [dict(type='Accident', kind='kill-worker', after=[2])]
    sentence = r'A data worker was lost at iteration 3 .*--resume from .*/iter_2\.pth'
    with pytest.raises(RuntimeError, match=sentence):
        run(config)
    config.custom_hooks, config.resume = [], True
    run(config)
    assert_same(whole, weights(Path(config.work_dir) / 'iter_6.pth'))


def test_no_sample_is_lost_with_a_data_worker_of_shards(shards):
    # Each of the two workers has given two of its three batches; the epoch has six.
    shards.custom_hooks = [
        dict(type='NoteNames'),
        dict(type='Accident', kind='kill-worker', after=[4]),
    ]
    with pytest.raises(RuntimeError, match='A data worker was lost at iteration 5'):
        run(shards)
    names = NoteNames.names
    shards.custom_hooks.pop()
    shards.resume = True
    run(shards)
    keys = Counter(Path(name).stem for name in names + NoteNames.names)
    assert keys == Counter(all_keys(6))


@pytest.fixture
def file_size():
    """The limit on it is restored."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk(config, whole, file_size):
    config.default_hooks.checkpoint.max_keep_ckpts = 2
    config.custom_hooks = [dict(type='Accident', kind='disk-full', after=[3])]
    sentence = r'iter_4\.pth was not written .*make room.*--resume from .*/iter_3\.pth'
    with pytest.raises(OSError, match=sentence):
        run(config)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert checkpoints(config) == ['iter_2.pth', 'iter_3.pth']
    assert not list(Path(config.work_dir).glob('.*.pth'))
    config.custom_hooks, config.resume = [], True
    run(config)
    assert_same(whole, weights(Path(config.work_dir) / 'iter_6.pth'))
    assert checkpoints(config) == ['iter_5.pth', 'iter_6.pth']


@HOOKS.register_module(force=True)
class BreakEmbedder(Hook):
    """Makes the embedder's weights NaN before the iteration after the given one."""

    def __init__(self, after: int) -> None:
        self.after = after

    @torch.no_grad()
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.after:
            for value in runner.bare_model.neck.parameters():
                value.fill_(math.nan)


def test_a_non_finite_loss_ends_training_for_good(config, whole, monkeypatch):
    config.custom_hooks = [dict(type='BreakEmbedder', after=3)]
    with pytest.raises(RuntimeError, match='nan at iteration 4') as error:
        run(config)
    assert re.search(
        r'In flight: (small_world/train/\d{6}(, )?){4}\.$', str(error.value)
    )
    assert checkpoints(config)[-1] == 'iter_3.pth'
    last = Path(config.work_dir) / 'iter_3.pth'
    assert f'the last good checkpoint is {last}. ' in str(error.value)
    # Started again by itself it ends at once; a person may go on.
    config.custom_hooks = []
    with monkeypatch.context() as patch:
        patch.setenv('TORCHELASTIC_RESTART_COUNT', '1')
        with pytest.raises(RuntimeError, match='Not started again: The loss is nan'):
            run(config)
    config.resume = True
    run(config)
    assert_same(whole, weights(Path(config.work_dir) / 'iter_6.pth'))
    assert not (Path(config.work_dir) / 'stopped.txt').exists()


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
    assert checkpoints(config)[-1] == 'iter_3.pth'
    assert (Path(config.work_dir) / 'stopped.txt').exists()


def test_a_non_finite_loss_names_its_shards(shards):
    shards.custom_hooks = [dict(type='BreakEmbedder', after=1)]
    # Losses are read at the end, of all six iterations; the first such one is named.
    shards.default_hooks.logger.interval = 100
    shards.default_hooks.checkpoint.interval = 100
    found = r'nan at iteration 2: .* In flight: .*shards/0000\d\.tar(,|\.$)'
    with pytest.raises(RuntimeError, match=found):
        run(shards)
    assert not checkpoints(shards)


def test_broken_shards_and_sources_are_reported(shards, tmp_path):
    broken = tmp_path / 'shards' / '00002.tar'
    broken.write_bytes(broken.read_bytes()[:700])
    shards.log_level = 'INFO'
    shards.train_cfg.max_iters = 10  # two epochs
    shards.default_hooks.pretrain.report_interval = 5
    run(shards)
    log = log_of(shards.work_dir)
    assert '1 broken shards, passed over: ' in log
    listed = (Path(shards.work_dir) / 'broken_shards.txt').read_text()
    assert listed == f'{broken}\n'
    assert 'Samples so far: 25; in this run 25 of all, ' in log
    assert 'Samples so far: 50; in this run 50 of all, ' in log


def test_speed(config):
    scalars = run(config).message_hub.log_scalars
    seconds = scalars['train/time'].mean(10)
    assert scalars['train/samples_per_s'].current() == pytest.approx(4 / seconds)


def test_batches_stay_as_they_are_on_a_cpu():
    data = [dict(inputs=torch.zeros(1), data_samples=[jpeg()])]
    batches = EndlessBatches(
        torch.utils.data.DataLoader(data, batch_size=None), torch.device('cpu')
    )
    for _ in range(3):  # begins anew when the data ends
        assert next(batches)['inputs'] is data[0]['inputs']


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_on_a_gpu_images_come_beside_the_step():
    images = torch.arange(12, dtype=torch.uint8).reshape(4, 3)
    data = [dict(inputs=images, data_samples=dict(captions=['a']))]
    loader = torch.utils.data.DataLoader(data, batch_size=None, pin_memory=True)
    batch = next(EndlessBatches(loader, torch.device('cuda')))
    assert batch['inputs'].is_cuda and torch.equal(batch['inputs'].cpu(), images)
    assert batch['data_samples'] == dict(captions=['a'])
