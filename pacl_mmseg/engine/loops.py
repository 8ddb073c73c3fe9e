"""The training loop of contrastive pretraining."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from time import perf_counter
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.hooks import CheckpointHook
from mmengine.runner import IterBasedTrainLoop
from torch import nn
from torch.utils.data import DataLoader

from pacl_mmseg.datasets.shards import ImageTextShards, ShardProgress
from pacl_mmseg.engine.batches import (
    DataWorkerKilled,
    EndlessBatches,
    lost_a_worker,
)
from pacl_mmseg.engine.checkpoint import last_good, set_random_state
from pacl_mmseg.engine.phases import PhaseTimer
from pacl_mmseg.registry import LOOPS


@LOOPS.register_module()
class PretrainLoop(IterBasedTrainLoop):
    """``IterBasedTrainLoop`` that knows its data position and can return to it.

    Works with ``ShuffledDraws`` + ``DrawSampler`` (map-style data, exact) and with
    ``ImageTextShards``. When a data worker is killed, new ones go on behind the last
    batch that was trained on, or validated on.

    Args:
        max_data_restarts: How often in a run data workers are started anew after one
            was killed, in each process. What kills them is mostly want of memory,
            which does not go away: the default, 3, survives an accident and not more.
            After that, training stops with a checkpoint of the last iteration.
        *args, **kwargs: Those of ``IterBasedTrainLoop``: ``max_iters``,
            ``val_interval``, ...
    """

    phase_timer: PhaseTimer | None = None  # set by PretrainHook(phases=True)
    data_seconds = 0.0  # waited for the batch of the current iteration

    def __init__(self, *args: Any, max_data_restarts: int = 3, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.max_data_restarts = max_data_restarts
        self.data_restarts = 0
        self.dataloader_iterator = EndlessBatches(
            self.dataloader, torch.device(get_device())
        )
        dataset = self.dataloader.dataset
        self.shard_progress = ShardProgress(getattr(dataset, 'state', None))
        self._resumed_random_state: dict | None = None
        # Iterations and samples of the run that is continued, whose batches may have
        # been of another size.
        self._before = (0, 0)

    @property
    def samples_per_iter(self) -> int:
        """Samples that all processes together take in one iteration."""
        return self.dataloader.batch_size * self.runner.world_size

    def samples(self, iterations: int) -> int:
        """Samples that all processes together have taken in so many iterations."""
        before, samples = self._before
        return samples + (iterations - before) * self.samples_per_iter

    def state_dict(self, iterations: int) -> dict:
        """This rank's data position after so many iterations."""
        return dict(
            samples=self.samples(iterations),
            samples_per_iter=self.samples_per_iter,
            shards=self.shard_progress.state_dict(),
        )

    def load_state_dict(self, states: list[dict], random_state: dict | None) -> None:
        """Return to a data position; call before the first batch is taken.

        Args:
            states: What :meth:`state_dict` gave on every rank.
            random_state: This rank's, restored right before the first batch.
        """
        self._before = (self._iter, states[0]['samples'])
        self._set_start()
        dataset = self.dataloader.dataset
        if isinstance(dataset, ImageTextShards):
            dataset.load_state_dict(
                ShardProgress.merge([state['shards'] for state in states])
            )
            self.shard_progress = ShardProgress(dataset.state)
        self._resumed_random_state = random_state

    def _set_start(self) -> None:
        if hasattr(self.dataloader.sampler, 'start'):
            self.dataloader.sampler.start = self.samples(self._iter)

    def run(self) -> nn.Module:
        """Train. The stock loop but for resuming, where it would skip batches again."""
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        if self._resumed_random_state is not None:
            # Making the iterator draws from torch's generator, as it did in the run
            # that is being resumed, so it comes first.
            self.dataloader_iterator.start()
            set_random_state(self._resumed_random_state)
        try:
            while self._iter < self._max_iters and not self.stop_training:
                self.runner.model.train()
                timer, started = self.phase_timer, perf_counter()
                with timer.phase('data') if timer else nullcontext():
                    batch = self._next_batch()
                self.data_seconds = perf_counter() - started
                self.run_iter(batch)
                self._decide_current_val_interval()
                validate = self._iter % self.val_interval == 0
                validate = validate or self._iter == self._max_iters
                if validate and self.runner.val_loop and self._iter >= self.val_begin:
                    self._validate()
        finally:
            self.dataloader_iterator.stop()
            self.dataloader_iterator.signals.give_back()
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
        return self.runner.model

    def _validate(self) -> None:
        val_loop = self.runner.val_loop
        dataloader = val_loop.dataloader
        val_loop.dataloader = _ValidationBatches(dataloader, self)
        try:
            val_loop.run()
        finally:
            val_loop.dataloader = dataloader

    def _next_batch(self) -> Any:
        while True:
            try:
                return next(self.dataloader_iterator)
            except DataWorkerKilled as error:
                self._restart_data(error)

    def count_restart(self, error: Exception, where: str) -> None:
        """Warn of a killed worker.

        Raises:
            RuntimeError: It was one too many.
        """
        if self.data_restarts >= self.max_data_restarts:
            self._give_up(error, where)
        self.data_restarts += 1
        self.runner.logger.warning(
            f'A data worker was killed {where} ({error}); most often the memory was '
            'full. New workers go on behind the last batch '
            f'({self.data_restarts} of at most {self.max_data_restarts} times).'
        )

    def _restart_data(self, error: DataWorkerKilled) -> None:
        """Go on behind the last batch that was trained on, with new workers."""
        self.count_restart(error, f'at iteration {self._iter + 1}')
        if self.runner.val_loop is not None:  # it may have been one of these
            _drop_lost_workers(self.runner.val_dataloader)
        dataset = self.dataloader.dataset
        if isinstance(dataset, ImageTextShards):
            dataset.continue_from(self.shard_progress.state_dict())
        self._set_start()
        # Starting workers draws from the generator that dropout draws from.
        with torch.random.fork_rng(devices=[]):
            self.dataloader_iterator.stop()
            self.dataloader_iterator.start()

    def _give_up(self, error: Exception, where: str) -> None:
        saved = _save_last_iteration(self)
        raise RuntimeError(
            f'Data workers were killed {self.data_restarts + 1} times, the last one '
            f'{where} ({error}): give the job more memory (and shared memory), or '
            'lower train_dataloader.num_workers, its prefetch_factor or the '
            f'shuffle_buffer, and continue with --resume from {saved}.'
        ) from error


class _ValidationBatches:
    """A validation dataloader that goes on where a worker was killed.

    New workers begin anew, and what was validated already is passed over, so that the
    evaluator and the hooks do not notice.
    """

    def __init__(self, dataloader: DataLoader, loop: PretrainLoop) -> None:
        self._dataloader = dataloader
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataloader, name)

    def __len__(self) -> int:
        return len(self._dataloader)

    def __iter__(self) -> Iterator:
        done = 0
        while True:
            try:
                batches = iter(self._dataloader)
                # Where training has no workers, these are the first ones.
                self._loop.dataloader_iterator.signals.take_over()
                for index, batch in enumerate(batches):
                    if index >= done:
                        done += 1
                        yield batch
                return
            except (RuntimeError, OSError, EOFError) as error:
                if not _drop_lost_workers(self._dataloader, error):
                    raise
                iteration = self._loop.iter
                self._loop.count_restart(
                    error, f'in the validation after iteration {iteration}'
                )


def _drop_lost_workers(dataloader: DataLoader, error: Exception | None = None) -> bool:
    """Forget persistent workers, of which one has died; new ones are started then.

    Returns:
        Whether one has; see :func:`lost_a_worker`.
    """
    iterator = getattr(dataloader, '_iterator', None)
    lost = lost_a_worker(iterator, error)
    if lost and iterator is not None:
        iterator._shutdown_workers()
        dataloader._iterator = None
    return lost


def _save_last_iteration(loop: PretrainLoop) -> str:
    """Write a checkpoint between two iterations if that can be done here.

    Returns:
        The newest checkpoint there is, in words.
    """
    runner = loop.runner
    hooks = [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]
    if not hooks:
        return 'the last checkpoint'
    accumulate = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
    # Other processes would be in the middle of the next iteration.
    if runner.world_size == 1 and loop.iter > 0 and loop.iter % accumulate == 0:
        meta = dict(epoch=loop.epoch, iter=loop.iter)
        hooks[0]._save_checkpoint_with_step(runner, loop.iter, meta)
        return last_good(runner)
    return f'the last regular checkpoint, {last_good(runner)}'
