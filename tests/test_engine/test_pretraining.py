"""Training, checkpoints and resuming, through real runs of a tiny model."""

from __future__ import annotations

import copy
import signal
from pathlib import Path

import pytest
import torch
from engine_runs import assert_same, log_of, run, train, weights
from mmengine.config import Config


def test_trains_the_embedder_and_writes_a_small_plain_checkpoint(config, monkeypatch):
    # Any Config will do, and none is formatted by yapf, which would be slow.
    monkeypatch.setattr('yapf.yapflib.yapf_api.FormatCode', None)
    config = Config(config.to_dict())
    runner = run(config)
    path = Path(config.work_dir) / 'iter_6.pth'
    checkpoint = torch.load(path, weights_only=True)  # tensors and plain values only
    names = {n for n in checkpoint['state_dict'] if not n.endswith('_extra_state')}
    assert names == {n for n, p in runner.model.named_parameters() if p.requires_grad}
    assert all(name.startswith('neck.') for name in names)
    assert checkpoint['meta']['iter'] == 6
    assert checkpoint['ranks'][0]['data']['samples'] == 24
    assert {'optimizer', 'param_schedulers'} <= checkpoint.keys()
    first = weights(path.with_name('iter_1.pth'))
    assert not torch.equal(
        first['neck.skip.weight'], checkpoint['state_dict']['neck.skip.weight']
    )
    assert not list(path.parent.glob('.*.tmp'))
    scalars = runner.message_hub.log_scalars
    for name in ('decode.loss_infonce', 'decode.acc_i2t', 'decode.acc_t2i', 'lr'):
        assert f'train/{name}' in scalars
    assert scalars['train/samples_per_s'].current() > 0
    assert 0 <= scalars['val/mIoU'].current() <= 100  # the val loop ran


@pytest.mark.parametrize(('num_workers', 'killed_after'), [(0, 1), (2, 3), (2, 5)])
def test_resumes_bit_for_bit_after_sigkill(config, whole, num_workers, killed_after):
    config.train_dataloader.num_workers = num_workers
    config.custom_hooks = [dict(type='Accident', kind='signal', after=[killed_after])]
    (done,) = train(config)
    assert done.returncode == -signal.SIGKILL, done.stderr
    last = Path(config.work_dir) / 'iter_6.pth'
    names = {path.name for path in last.parent.glob('iter_*')}
    assert names == {f'iter_{i}.pth' for i in range(1, killed_after + 1)}
    config.custom_hooks, config.resume = [], True
    run(config)
    assert_same(whole, weights(last))


def test_a_stale_note_of_the_last_checkpoint_does_not_matter(config, whole):
    run(config)
    for index in (4, 5, 6):
        (Path(config.work_dir) / f'iter_{index}.pth').unlink()
    (Path(config.work_dir) / 'last_checkpoint').write_text('')
    for name in ('iter_9-a76148b8', 'iter_copy', 'epoch_x'):  # published ones, copies
        (Path(config.work_dir) / f'{name}.pth').write_text('')
    config.resume = True
    config.log_level = 'INFO'
    runner = run(config)
    assert runner.iter == 6
    log = ''.join(p.read_text() for p in Path(config.work_dir).glob('*/*.log'))
    assert 'Samples so far: 24; in this run ' in log
    assert_same(whole, weights(Path(config.work_dir) / 'iter_6.pth'))


@pytest.mark.parametrize(
    ('key', 'value', 'told'),
    [
        ('train_cfg.max_iters', 4, True),
        ('optim_wrapper.optimizer.lr', 1.0, True),
        ('train_cfg.val_interval', 5, False),
    ],
)
def test_a_schedule_that_stays_that_of_the_checkpoint_is_told(config, key, value, told):
    config.train_cfg.update(max_iters=2, val_interval=9)
    run(config)
    config.merge_from_dict({key: value})
    config.resume = True
    run(config)
    assert ('Learning rates and their schedule are' in log_of(config.work_dir)) == told
    assert ('Nothing to train: 2 of' in log_of(config.work_dir)) == (value != 4)


def test_gradient_accumulation(config):
    config.optim_wrapper.accumulative_counts = 2
    with pytest.raises(ValueError, match='multiple of 2'):
        run(config)
    stock = copy.deepcopy(config)
    stock.default_hooks.checkpoint.update(type='CheckpointHook', by_epoch=False)
    with pytest.raises(ValueError, match='multiple of 2'):
        run(stock)
    config.default_hooks.checkpoint.interval = 2
    run(config)
    whole = weights(Path(config.work_dir) / 'iter_6.pth')
    (Path(config.work_dir) / 'iter_6.pth').unlink()
    config.resume = True
    run(config)
    assert_same(whole, weights(Path(config.work_dir) / 'iter_6.pth'))


def test_resumes_what_another_loop_wrote(config):
    config.val_cfg = config.val_dataloader = config.val_evaluator = None
    config.train_cfg.update(type='IterBasedTrainLoop', max_iters=2)
    run(config)
    config.train_cfg.update(type='PretrainLoop', max_iters=3)
    config.resume = True
    assert run(config).iter == 3
    log = ''.join(p.read_text() for p in Path(config.work_dir).glob('*/*.log'))
    assert 'iter_2.pth has no data position: data starts anew' in log


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_mixed_precision(config, dtype, monkeypatch):
    if not torch.cuda.is_available():
        if dtype == 'float16':
            pytest.skip('MMEngine runs float16 on a GPU only, and there is none')
        # Its wrapper refuses CPUs, which can do bfloat16 as well.
        module = 'mmengine.optim.optimizer.amp_optimizer_wrapper'
        monkeypatch.setattr(f'{module}.is_cuda_available', lambda: True)
    run(config)
    full = weights(Path(config.work_dir) / 'iter_6.pth')
    config.optim_wrapper.update(type='AmpOptimWrapper', dtype=dtype)
    config.work_dir += '_amp'
    run(config)
    low = weights(Path(config.work_dir) / 'iter_6.pth')
    name = 'neck.skip.weight'
    assert low[name].dtype == torch.float32
    assert not torch.equal(low[name], full[name])
    torch.testing.assert_close(low[name], full[name], rtol=0, atol=0.02)


def test_refuses_to_start_with_nothing_to_train(config):
    config.model.neck = None
    config.model.backbone.output = 'projection'
    with pytest.raises(RuntimeError, match='Nothing in this model is trainable'):
        run(config)
