"""What contrastive pretraining does around the stock training loop."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, NamedTuple

import torch
from mmengine.dist import all_gather_object, all_reduce, is_main_process
from mmengine.hooks import CheckpointHook, Hook, LoggerHook, RuntimeInfoHook
from mmengine.runner import Runner
from mmseg.engine.hooks import SegVisualizationHook
from torch import Tensor
from torch.utils.data import Dataset

from pacl_mmseg.datasets.counts import sample_counts
from pacl_mmseg.datasets.shards import ImageTextShards
from pacl_mmseg.datasets.token_cache import check_token_caches
from pacl_mmseg.engine.checkpoint import (
    CheckpointNotWritten,
    last_good,
    plain,
    random_state,
    set_random_state,
)
from pacl_mmseg.engine.loops import PretrainLoop
from pacl_mmseg.engine.phases import PhaseTimer
from pacl_mmseg.models import ZeroShotTextHead
from pacl_mmseg.registry import HOOKS

_NAMED = 40  # shards or images that a message lists


class LateScalars:
    """Scalars of training steps, read from a GPU without making it wait.

    A step's scalars are copied to the host behind the step. They are given when the
    next step is on its way: reading at once would let the GPU run idle until the host
    has prepared the next step. On a CPU they are given at once.
    """

    def __init__(self) -> None:
        self._pending: deque[tuple[Any, dict, Tensor | None, Any]] = deque()

    def put(self, note: Any, scalars: dict[str, Any]) -> None:
        """Take the scalars of a step, with anything to give back with them."""
        tensors = [v.detach() for v in scalars.values() if isinstance(v, Tensor)]
        values, copied = None, None
        if tensors:
            values = torch.stack([tensor.double().mean() for tensor in tensors])
            # From a GPU this is a copy to pinned memory, queued behind the step.
            values = values.to('cpu', non_blocking=True)
        if tensors and tensors[0].is_cuda:
            copied = torch.cuda.Event()
            copied.record()
        self._pending.append((note, dict(scalars), values, copied))

    def take(self, flush: bool = False) -> list[tuple[Any, dict[str, float]]]:
        """What is due, oldest first: (note, scalars); with ``flush`` all there is."""
        due = []
        while self._pending:
            note, scalars, values, copied = self._pending[0]
            if copied is not None:
                if len(self._pending) == 1 and not flush:
                    break
                copied.synchronize()
            self._pending.popleft()
            numbers = iter(() if values is None else values.tolist())
            for name, value in scalars.items():
                scalars[name] = next(numbers) if isinstance(value, Tensor) else value
            due.append((note, scalars))
        return due


class _Finding(NamedTuple):
    """A loss that is not finite, or a spike, on one process."""

    iteration: int
    loss: float
    mean: float
    excess: float
    names: list[str]


@HOOKS.register_module()
class LossWatchHook(RuntimeInfoHook):
    """``RuntimeInfoHook`` that leaves the GPU at work, and watches the loss.

    The log variables of a step are published one iteration late on a GPU, except where
    they are wanted at once: for the log, a checkpoint, validation and at the end. On a
    CPU they are always in time.

    A loss that is not finite stops the run before anything else is written. A spike is
    reported and training goes on: a loss above the mean of the last ``spike_window``
    losses by more than ``spike_deviations`` of their standard deviations (or of a
    thousandth of the mean if that is more, as a loss that does not move has none).
    Both messages name the iteration and the shards (for map-style data, the images) of
    its batch on the processes that found it: on all where the loss is the same on all,
    as InfoNCE is. Each process looks at its own loss; where there are several, they
    tell each other what they found where variables are wanted at once, and stop
    together.

    Args:
        spike_deviations: As said; None reports no spikes. The default, 6, is
            practically never reached by normally distributed noise (once in 1e9).
        spike_window: Losses in the running mean. Nothing is reported until that many
            have been seen. The default, 200, is 0.8 million samples at the paper's
            batch of 4096.
        spike_interval: Iterations after a report in which no other one is made.
    """

    def __init__(
        self,
        spike_deviations: float | None = 6.0,
        spike_window: int = 200,
        spike_interval: int = 100,
    ) -> None:
        super().__init__()
        self.spike_deviations = spike_deviations
        self.spike_interval = spike_interval
        self._losses: deque[float] = deque(maxlen=spike_window)
        self._found: list[_Finding] = []
        self._quiet_until = 0
        self._scalars = LateScalars()

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        note = runner.iter + 1, _provenance(data_batch)
        self._scalars.put(note, outputs or {})
        self.publish(runner, flush=self._wanted_now(runner, batch_idx))

    def publish(self, runner: Runner, flush: bool = True) -> None:
        """Put the log variables that are due into the message hub and look at them.

        Args:
            runner: The runner.
            flush: Those of all steps; all processes call it together.

        Raises:
            RuntimeError: A loss is not finite; on all processes.
        """
        for (iteration, provenance), scalars in self._scalars.take(flush):
            super().after_train_iter(runner, iteration - 1, outputs=scalars)
            if 'loss' in scalars:
                self._check(runner, iteration, scalars['loss'], provenance)
        if flush or runner.world_size == 1:
            self._report(runner)

    def _wanted_now(self, runner: Runner, batch_idx: int) -> bool:
        loop = runner.train_loop
        return (
            self.is_last_train_iter(runner)
            or self.every_n_train_iters(runner, getattr(loop, 'val_interval', 0))
            or _due(runner, batch_idx, LoggerHook, CheckpointHook)
        )

    def _check(
        self, runner: Runner, iteration: int, loss: float, provenance: Any
    ) -> None:
        if not math.isfinite(loss):
            if all(math.isfinite(finding.loss) for finding in self._found):
                names = _in_flight(runner, provenance)
                self._found.append(_Finding(iteration, loss, 0.0, 0.0, names))
            return
        losses = self._losses
        if len(losses) == losses.maxlen and self.spike_deviations is not None:
            mean = fmean(losses)
            deviation = max(pstdev(losses, mean), abs(mean) / 1000)
            excess = (loss - mean) / deviation if deviation else 0.0
            if excess > self.spike_deviations and iteration >= self._quiet_until:
                self._quiet_until = iteration + self.spike_interval
                names = _in_flight(runner, provenance)
                self._found.append(_Finding(iteration, loss, mean, excess, names))
        losses.append(loss)

    def _report(self, runner: Runner) -> None:
        """Tell what was found since the last report; all processes call it together."""
        found, self._found = self._found, []
        if runner.world_size > 1:
            anything = torch.tensor(len(found))
            all_reduce(anything, 'max')
            of_all = all_gather_object(found) if anything else []
            found = [finding for of_one in of_all for finding in of_one]
        by_iteration: dict[int, list[_Finding]] = defaultdict(list)
        for finding in found:
            by_iteration[finding.iteration].append(finding)
        for iteration, findings in sorted(by_iteration.items()):
            names = [name for finding in findings for name in finding.names]
            names = _some(list(dict.fromkeys(names))) or 'data without names'
            worst = min(findings, key=lambda finding: math.isfinite(finding.loss))
            if not math.isfinite(worst.loss):
                raise RuntimeError(
                    f'The loss is {worst.loss} at iteration {iteration}: training '
                    'stops and writes nothing more; the last good checkpoint is '
                    f'{last_good(runner)}. Lower the learning rate, or use bfloat16 '
                    f'in place of float16. In flight: {names}.'
                )
            runner.logger.warning(
                f'Loss spike at iteration {iteration}: {worst.loss:.4g} after a mean '
                f'of {worst.mean:.4g} ({worst.excess:.1f} standard deviations). In '
                f'flight: {names}.'
            )


@HOOKS.register_module()
class PretrainCheckpointHook(CheckpointHook):
    """``CheckpointHook`` for disks that can be full.

    A checkpoint that cannot be written is a warning: training goes on, the earlier
    checkpoints stay, the best one too, and the next one is tried in its turn. (The
    stock hook removes the oldest one, or the previous best, before it writes; this one
    after, so that there has to be room for one more.) It is an error at the end of
    training, and where it happens at ``max_failures`` iterations in a row.

    Args:
        max_failures: The default, 3, risks the work of as many intervals.
        **kwargs: Those of ``CheckpointHook``.
    """

    def __init__(self, *args: Any, max_failures: int = 3, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.max_failures = max_failures
        self._failures = 0
        self._failed_at = -1

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        # Before the stock hook notes a checkpoint that will then not be written.
        runner.check_finite(meta['iter'])
        info = runner.message_hub.runtime_info
        before = {k: info[k] for k in ('last_ckpt', 'keep_ckpt_ids') if k in info}
        last = self.last_ckpt
        limit, self.max_keep_ckpts = self.max_keep_ckpts, -1
        ids = list(self.keep_ckpt_ids) if limit > 0 else []
        kept = [*(other for other in ids if other != step), step]
        if limit > 0:
            runner.message_hub.update_info('keep_ckpt_ids', kept[-limit:])
        try:
            super()._save_checkpoint_with_step(runner, step, meta)
        except Exception as error:
            if isinstance(error, OSError) and not isinstance(
                error, CheckpointNotWritten
            ):  # the note of the name; the files themselves count
                runner.logger.warning(f'last_checkpoint was not written: {error}')
            else:
                self.last_ckpt = last
                _restore(info, before, ('last_ckpt', 'keep_ckpt_ids'))
                if not isinstance(error, CheckpointNotWritten):
                    raise
                self._failed(runner, error, step, last=step >= runner.max_iters)
                return
        finally:
            self.max_keep_ckpts = limit
        self._failures = 0
        if limit > 0:
            self.keep_ckpt_ids = deque(kept[-limit:], limit)
            for old in kept[:-limit]:
                name = self.filename_tmpl.format(old)
                self._remove(self.file_backend.join_path(self.out_dir, name))

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if not self.save_best:
            return
        info = runner.message_hub.runtime_info
        notes = {k: v for k, v in info.items() if k.startswith('best_')}
        old = self._best
        self._best = [None] * len(old)  # so that nothing is removed yet
        try:
            super()._save_best_checkpoint(runner, metrics)
        except Exception as error:
            for path in set(self._best) - set(old):
                self._remove(path)
            self._best = old
            _restore(info, notes, [k for k in info if k.startswith('best_')])
            if not isinstance(error, CheckpointNotWritten):
                raise
            self._failed(runner, error, runner.iter, last=False)
            return
        self._best = [new or path for new, path in zip(self._best, old, strict=True)]
        for path in set(old) - set(self._best):
            self._remove(path)

    @property
    def _best(self) -> list[str | None]:
        """Paths of the best checkpoints, by each of the metrics in ``save_best``."""
        if len(self.key_indicators) == 1:
            return [self.best_ckpt_path]
        return [self.best_ckpt_path_dict[key] for key in self.key_indicators]

    @_best.setter
    def _best(self, paths: list[str | None]) -> None:
        if len(self.key_indicators) == 1:
            (self.best_ckpt_path,) = paths
        else:
            paths = zip(self.key_indicators, paths, strict=True)
            self.best_ckpt_path_dict = dict(paths)

    def _remove(self, path: str | None) -> None:
        if path and is_main_process() and self.file_backend.isfile(path):
            self.file_backend.remove(path)

    def _failed(
        self, runner: Runner, error: CheckpointNotWritten, step: int, last: bool
    ) -> None:
        self._failures += step != self._failed_at
        self._failed_at = step
        good = last_good(runner)
        if last or self._failures >= self.max_failures:
            raise RuntimeError(
                f'{error} This is the {self._failures}. failure in a row'
                f'{" and the end of training" if last else ""}: training stops. The '
                f'last good checkpoint is {good}; make room and continue with --resume.'
            ) from error
        runner.logger.warning(
            f'{error} Training goes on ({self._failures} of at most '
            f'{self.max_failures} failures in a row); the last good checkpoint is '
            f'{good}. Make room.'
        )


def _restore(info: dict, before: dict, names: Iterable[str]) -> None:
    """Set entries back to what they were; absent ones are absent again."""
    for name in names:
        info.pop(name, None)
    info.update(before)


@HOOKS.register_module()
class PretrainLoggerHook(LoggerHook):
    """``LoggerHook`` that does not end training where curves cannot be written.

    A full disk is then met by the checkpoint hook, which can go on.
    """

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        with _unwritten(runner, 'Scalars'):
            super().after_train_iter(runner, *args, **kwargs)

    def after_val_epoch(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        with _unwritten(runner, 'Scalars'):
            super().after_val_epoch(runner, *args, **kwargs)


@HOOKS.register_module()
class PretrainVisualizationHook(SegVisualizationHook):
    """``SegVisualizationHook`` that does not end training on a full disk.

    An image that is not a file, and so cannot be drawn on, is an error as ever.
    """

    def after_val_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        with _unwritten(runner, 'Pictures'):
            super().after_val_iter(runner, *args, **kwargs)


@contextmanager
def _unwritten(runner: Runner, what: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        runner.logger.warning(f'{what} were not written: {error}')


@HOOKS.register_module()
class PretrainHook(Hook):
    """Counters, reports and checkpoint contents of ``ContrastivePretrainRunner``.

    The runner registers it by itself. Every iteration it follows the position in the
    shards and logs ``samples_per_s`` (all processes) and ``data_wait``, the percentage
    of the time for which the process waited for its next batch; on a GPU that is at
    work meanwhile such a wait need not cost anything. (MMEngine's own ``data_time``
    also has the time of checkpoints, logging and metrics in it.) Before validation and
    test it compares the number of classes of the vocabulary with the dataset's. It
    keeps validation from moving the random generators. Every ``report_interval``
    iterations and at the end it reports the samples trained on, and, of this run and
    over all processes, those of each source and those skipped; it lists shards found
    broken in the log and in ``broken_shards.txt`` of the work directory.

    Args:
        report_interval: Iterations between two reports.
        phases: Also log the seconds a step of each phase as ``phase_vision`` etc., see
            :class:`PhaseTimer`, when the logger logs. Costs two function calls per
            phase and step and, on a GPU, no waiting but with the log's other values.
            Off by default only to keep the log's lines short.
    """

    priority = 55  # after the iteration timer, before the logger and checkpoints

    def __init__(self, report_interval: int = 1000, phases: bool = False) -> None:
        self.report_interval = report_interval
        self.phases = phases
        self._timer: PhaseTimer | None = None
        self._reported = ''
        self._broken: list[str] = []
        self._waits: deque[float] = deque()

    def before_run(self, runner: Runner) -> None:
        if not hasattr(runner, 'rank_states'):
            raise RuntimeError(
                f'This config is not for {type(runner).__name__}: set runner_type = '
                "'ContrastivePretrainRunner' and build the runner with "
                'mmengine.registry.RUNNERS.build(config), as tools/train.py does.'
            )

    def before_train(self, runner: Runner) -> None:
        check_token_caches(runner.cfg, runner.bare_model)
        _check_accumulation(runner)
        self._waits = deque(maxlen=runner.log_processor.window_size)
        if self.phases:
            self._timer = PhaseTimer(runner.model, runner.optim_wrapper)
            runner.train_loop.phase_timer = self._timer

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        loop, hub = runner.train_loop, runner.message_hub
        if not isinstance(loop, PretrainLoop):
            return
        loop.shard_progress.update(_positions(data_batch))
        self._waits.append(loop.data_seconds)
        seconds = hub.get_scalar('train/time').mean(self._waits.maxlen)
        if seconds > 0:
            waited = fmean(self._waits)
            hub.update_scalar('train/samples_per_s', loop.samples_per_iter / seconds)
            hub.update_scalar('train/data_wait', 100 * waited / seconds)
        if self._timer is not None and _due(runner, batch_idx, LoggerHook):
            for name, value in self._timer.read().items():
                hub.update_scalar(f'train/phase_{name}', value)
        if self.every_n_train_iters(runner, self.report_interval):
            self._report(runner, runner.iter + 1)

    def after_train(self, runner: Runner) -> None:
        self._report(runner, runner.iter)
        if self._timer is not None:
            self._timer.remove()
            runner.train_loop.phase_timer = self._timer = None

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

    def _report(self, runner: Runner, iterations: int) -> None:
        """Report what was read and skipped; all processes call it together."""
        loop = runner.train_loop
        if not isinstance(loop, PretrainLoop):
            return
        sources: dict[str, int] = {}
        for samples in all_gather_object(dict(loop.shard_progress.samples)):
            for name, number in samples.items():
                sources[name] = sources.get(name, 0) + number
        parts = [f'{number} of {name}' for name, number in sources.items()]
        summary = ', '.join([*parts, sample_counts.summary(reduce=True)])
        summary = f'{loop.samples(iterations)}; in this run {summary}'
        if summary != self._reported:
            runner.logger.info(f'Samples so far: {summary}')
            self._reported = summary
        dataset = loop.dataloader.dataset
        if not isinstance(dataset, ImageTextShards):
            return
        broken = dataset.broken_shards(reduce=True)
        if broken != self._broken and is_main_process():
            self._broken = broken
            runner.logger.warning(
                f'{len(broken)} broken shards, passed over: {_some(broken)}'
            )
            path = Path(runner.work_dir) / 'broken_shards.txt'
            with _unwritten(runner, 'Their names'):
                path.write_text(''.join(f'{name}\n' for name in broken))


def _due(runner: Runner, batch_idx: int, *kinds: type[Hook]) -> bool:
    """Whether a hook of these kinds acts after this iteration."""
    return any(
        hook.every_n_inner_iters(batch_idx, hook.interval)
        for hook in runner.hooks
        if isinstance(hook, kinds)
    )


def _samples(batch: dict | None) -> Any:
    return (batch or {}).get('data_samples') or []


def _positions(batch: dict | None) -> list:
    """Positions in the shards of a batch's samples; empty for other data."""
    samples = _samples(batch)
    if isinstance(samples, dict):
        return samples.get('shard_position', [])
    return [
        sample.metainfo['shard_position']
        for sample in samples
        if 'shard_position' in sample.metainfo
    ]


def _provenance(batch: dict | None) -> tuple[list, list]:
    """What :func:`_in_flight` needs of a batch: positions and names of images."""
    samples = _samples(batch)
    if isinstance(samples, dict):
        return _positions(batch), samples.get('img_path', [])
    paths = [sample.metainfo.get('img_path', 'unnamed') for sample in samples]
    return _positions(batch), paths


def _in_flight(runner: Runner, provenance: tuple[list, list]) -> list[str]:
    """Names of a step's shards, or else images, on this process."""
    positions, paths = provenance
    dataset = runner.train_dataloader.dataset
    if isinstance(dataset, ImageTextShards) and positions:
        return dataset.shard_names(positions)
    return [str(path) for path in paths]


def _some(names: list[str]) -> str:
    text = ', '.join(names[:_NAMED])
    more = len(names) - _NAMED
    return text if more <= 0 else f'{text} and {more} more'


def _check_accumulation(runner: Runner) -> None:
    """Complain if a checkpoint would be written between accumulated gradients."""
    accumulate = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
    hooks = [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]
    hooks = [hook for hook in hooks if not hook.by_epoch]
    name = 'default_hooks.checkpoint.interval'
    intervals = [(name, hook.interval) for hook in hooks if hook.interval > 0]
    if runner.val_loop is not None and any(hook.save_best for hook in hooks):
        intervals.append(('train_cfg.val_interval', runner.val_interval))
    for name, interval in intervals:
        if interval % accumulate:
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
