"""What contrastive pretraining does around the stock training loop."""

from __future__ import annotations

import math
from typing import Any

from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner
from torch.utils.data import Dataset

from pacl_mmseg.datasets.counts import sample_counts
from pacl_mmseg.engine.checkpoint import plain, random_state, set_random_state
from pacl_mmseg.engine.loops import PretrainLoop
from pacl_mmseg.models import ZeroShotTextHead
from pacl_mmseg.registry import HOOKS


@HOOKS.register_module()
class PretrainHook(Hook):
    """Checks, counters and checkpoint contents of ``ContrastivePretrainRunner``.

    The runner registers it by itself. Every iteration it stops the run on a non-finite
    loss (before a checkpoint is written), follows the position in the shards and logs
    ``samples_per_s``. Before validation and test it compares the number of classes of
    the vocabulary with the dataset's. It keeps validation from moving the random
    generators, and reports skipped samples every ``report_interval`` iterations and at
    the end.

    Args:
        report_interval: Iterations between two reports of skipped samples.
    """

    priority = 55  # after the iteration timer, before the logger and checkpoints

    def __init__(self, report_interval: int = 1000) -> None:
        self.report_interval = report_interval
        self._reported = ''

    def before_train(self, runner: Runner) -> None:
        accumulate = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
        for hook in runner.hooks:
            interval = hook.interval if isinstance(hook, CheckpointHook) else 0
            if interval > 0 and interval % accumulate:
                raise ValueError(
                    f'A checkpoint every {interval} iterations would fall amid an '
                    f'accumulation of {accumulate} gradients and could not be resumed: '
                    'set default_hooks.checkpoint.interval to a multiple of '
                    f'{accumulate}.'
                )

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        loss = outputs['loss'].item()
        if not math.isfinite(loss):
            last = runner.message_hub.runtime_info.get('last_ckpt', 'none yet')
            raise RuntimeError(
                f'The loss is {loss} at iteration {runner.iter + 1}: training stops '
                f'and writes nothing more; the last good checkpoint is {last}. Lower '
                'the learning rate, or use bfloat16 in place of float16.'
            )
        loop = runner.train_loop
        if not isinstance(loop, PretrainLoop):
            return
        loop.shard_progress.update(
            sample.metainfo['shard_position']
            for sample in data_batch['data_samples']
            if 'shard_position' in sample.metainfo
        )
        seconds = runner.message_hub.get_scalar('train/time').current()
        if seconds > 0:
            speed = loop.samples_per_iter / seconds
            runner.message_hub.update_scalar('train/samples_per_s', speed)
        if self.every_n_train_iters(runner, self.report_interval):
            self._report(runner)

    def after_train(self, runner: Runner) -> None:
        self._report(runner)

    def before_val(self, runner: Runner) -> None:
        _check_vocabulary(runner, runner.val_dataloader.dataset)
        runner.random_state_before_val = random_state()

    def after_val(self, runner: Runner) -> None:
        set_random_state(runner.random_state_before_val)
        runner.random_state_before_val = None

    def before_test(self, runner: Runner) -> None:
        _check_vocabulary(runner, runner.test_dataloader.dataset)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add what resuming needs; leave only tensors and plain values."""
        checkpoint['ranks'] = runner.rank_states
        info = checkpoint.pop('message_hub')['runtime_info']
        dropped = ('cfg', 'dataset_meta')  # in meta already
        info = {k: v for k, v in plain(info).items() if k not in dropped}
        checkpoint['message_hub'] = dict(
            log_scalars={}, runtime_info=info, resumed_keys=dict.fromkeys(info, True)
        )
        contents: dict[str, Any] = plain(dict(checkpoint))
        checkpoint.clear()
        checkpoint.update(contents)

    def _report(self, runner: Runner) -> None:
        summary = sample_counts.summary()
        if summary != self._reported:
            runner.logger.info(f'Samples so far: {summary}')
            self._reported = summary


def _check_vocabulary(runner: Runner, dataset: Dataset) -> None:
    """Complain before the first image if predictions cannot be compared with labels."""
    head = getattr(runner.bare_model, 'decode_head', None)
    classes = getattr(dataset, 'metainfo', {}).get('classes')
    if not isinstance(head, ZeroShotTextHead) or classes is None:
        return
    if len(classes) != head.num_classes:
        raise ValueError(
            f'The vocabulary has {head.num_classes} classes, but '
            f'{type(dataset).__name__} has {len(classes)}: set '
            'model.decode_head.dataset_name to the benchmark that is tested.'
        )
