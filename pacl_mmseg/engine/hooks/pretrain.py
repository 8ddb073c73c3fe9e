"""Counters, reports and checkpoint contents of contrastive pretraining."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

from mmengine.dist import all_gather_object, is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner
from torch.utils.data import Dataset

from pacl_mmseg.datasets.counts import sample_counts
from pacl_mmseg.datasets.shards import ImageTextShards
from pacl_mmseg.datasets.token_cache import check_token_caches
from pacl_mmseg.engine.checkpoint import plain
from pacl_mmseg.engine.hooks.loss_watch import some
from pacl_mmseg.engine.loops import PretrainLoop, accumulated
from pacl_mmseg.models import ZeroShotTextHead
from pacl_mmseg.registry import HOOKS


@HOOKS.register_module()
class PretrainHook(Hook):
    """Counters, reports and checkpoint contents of ``ContrastivePretrainRunner``.

    The runner registers it by itself, as ``default_hooks.pretrain``. Every iteration it
    logs ``samples_per_s`` (all processes). Before validation and test it compares the
    number of classes of the vocabulary with the dataset's. Every ``report_interval``
    iterations and at the end it reports the samples trained on, and, of this run and
    over all processes, those of each source and those skipped; it lists shards found
    broken in the log and in ``broken_shards.txt`` of the work directory.

    Args:
        report_interval: Iterations between two reports; none below 1.
    """

    priority = 55  # after the iteration timer, before the logger and checkpoints

    def __init__(self, report_interval: int = 1000) -> None:
        self.report_interval = report_interval
        self._broken: list[str] = []

    def before_run(self, runner: Runner) -> None:
        if not hasattr(runner, 'rank_states'):
            raise RuntimeError(
                f'This config is not for {type(runner).__name__}: set runner_type = '
                "'ContrastivePretrainRunner' and build the runner with "
                'mmengine.registry.RUNNERS.build(config), as tools/train.py does.'
            )

    def before_train(self, runner: Runner) -> None:
        check_token_caches(runner.cfg, runner.bare_model)
        for hook in runner.hooks:
            if isinstance(hook, CheckpointHook) and not hook.by_epoch:
                _check_accumulation(runner, hook)

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        loop, hub = runner.train_loop, runner.message_hub
        if not isinstance(loop, PretrainLoop):
            return
        seconds = hub.get_scalar('train/time').mean(runner.log_processor.window_size)
        hub.update_scalar('train/samples_per_s', loop.samples_per_iter / seconds)
        if self.every_n_train_iters(runner, self.report_interval):
            self._report(runner, runner.iter + 1)

    def after_train(self, runner: Runner) -> None:
        interval = self.report_interval
        if interval > 0 and (runner.iter % interval or not runner.iter):
            self._report(runner, runner.iter)

    def before_val(self, runner: Runner) -> None:
        _check_vocabulary(runner, runner.val_dataloader.dataset)

    def before_test(self, runner: Runner) -> None:
        _check_vocabulary(runner, runner.test_dataloader.dataset)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add what resuming needs; leave only tensors and plain values."""
        checkpoint['ranks'] = runner.rank_states
        info = plain(checkpoint['message_hub']['runtime_info'])
        for name in ('cfg', 'dataset_meta'):  # in meta already
            info.pop(name, None)
        checkpoint['message_hub'] = dict(
            log_scalars={}, runtime_info=info, resumed_keys=dict.fromkeys(info, True)
        )
        contents = plain(dict(checkpoint))
        checkpoint.clear()
        checkpoint.update(contents)

    def _report(self, runner: Runner, iterations: int) -> None:
        """Report what was read and skipped; all processes call it together."""
        loop = runner.train_loop
        if not isinstance(loop, PretrainLoop):
            return
        sources: Counter[str] = Counter()
        for samples in all_gather_object(loop.shard_progress.samples):
            sources.update(samples)
        parts = [f'{number} of {name}' for name, number in sources.items()]
        summary = ', '.join([*parts, sample_counts.summary(reduce=True)])
        runner.logger.info(
            f'Samples so far: {loop.samples(iterations)}; in this run {summary}'
        )
        dataset = loop.dataloader.dataset
        if not isinstance(dataset, ImageTextShards):
            return
        broken = dataset.broken_shards()
        if broken != self._broken and is_main_process():
            self._broken = broken
            runner.logger.warning(
                f'{len(broken)} broken shards, passed over: {some(broken)}'
            )
            path = Path(runner.work_dir) / 'broken_shards.txt'
            path.write_text(''.join(f'{name}\n' for name in broken))


def _check_accumulation(runner: Runner, hook: CheckpointHook) -> None:
    """Complain if a checkpoint would be written between accumulated gradients."""
    accumulate = accumulated(runner.optim_wrapper)
    intervals = {'default_hooks.checkpoint.interval': hook.interval}
    if hook.save_best and runner.val_loop is not None:
        intervals['train_cfg.val_interval'] = runner.val_interval
    for name, interval in intervals.items():
        if interval > 0 and interval % accumulate:
            raise ValueError(
                f'A checkpoint every {interval} iterations would fall amid an '
                f'accumulation of {accumulate} gradients and could not be resumed: '
                f'set {name} to a multiple of {accumulate}.'
            )


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
    names = head.vocabulary.classes
    theirs, ours = ([*map(_plain, each)] for each in (classes, names))
    if theirs != ours and sorted(theirs) == sorted(ours):
        place = [a == b for a, b in zip(theirs, ours, strict=True)].index(False)
        raise ValueError(
            f'The vocabulary has the classes of {type(dataset).__name__} in another '
            f'order: number {place} is {names[place]!r} here and {classes[place]!r} '
            'there.'
        )


def _plain(name: str) -> str:
    """A name without case, underscores and signs."""
    return re.sub(r'[^a-z0-9]+', ' ', name.lower()).strip()
