"""The training loop of contrastive pretraining."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from mmengine.device import get_device
from mmengine.optim import OptimWrapper
from mmengine.runner import IterBasedTrainLoop, Runner, set_random_seed
from torch import nn

from pacl_mmseg.datasets.shards import ImageTextShards, ShardProgress
from pacl_mmseg.engine.batches import EndlessBatches, field
from pacl_mmseg.engine.interrupt import Interrupt
from pacl_mmseg.engine.work_dir import last_good
from pacl_mmseg.registry import LOOPS


@LOOPS.register_module()
class PretrainLoop(IterBasedTrainLoop):
    """``IterBasedTrainLoop`` that knows its data position and can return to it.

    Works with ``ShuffledDraws`` + ``DrawSampler`` (map-style data, exact) and with
    ``ImageTextShards``. The model's random numbers depend on the run's seed and the
    iteration alone. It takes the arguments of ``IterBasedTrainLoop``.
    """

    interrupted = False  # before the last iteration, by Ctrl-C or SIGTERM

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.dataloader_iterator = EndlessBatches(
            self.dataloader, torch.device(get_device())
        )
        dataset = self.dataloader.dataset
        self.shard_progress = ShardProgress(getattr(dataset, 'state', None))
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

    def load_state_dict(self, states: list[dict]) -> None:
        """Return to a data position; call before the first batch is taken.

        Args:
            states: What :meth:`state_dict` gave on every rank.
        """
        self._before = (self._iter, states[0]['samples'])
        if hasattr(self.dataloader.sampler, 'start'):
            self.dataloader.sampler.start = self.samples(self._iter)
        dataset = self.dataloader.dataset
        if isinstance(dataset, ImageTextShards):
            dataset.load_state_dict(
                ShardProgress.merge([state['shards'] for state in states])
            )
            self.shard_progress = ShardProgress(dataset.state)

    def run(self) -> nn.Module:
        """Train. The stock loop but for resuming, where it would skip batches again.

        Ctrl-C or SIGTERM ends it early, behind an iteration (with gradients that are
        accumulated, behind the last of them) and with a checkpoint.

        Raises:
            RuntimeError: A data worker or another process was lost.
        """
        if self._iter >= self._max_iters:
            self.runner.logger.warning(
                f'Nothing to train: {self._iter} of train_cfg.max_iters='
                f'{self._max_iters} iterations are done.'
            )
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        with Interrupt(self.runner.timeout) as interrupt:
            try:
                self._train(interrupt)
            except (RuntimeError, EOFError, ConnectionError) as error:
                raise _explained(
                    error, self._iter + 1, self.runner, interrupt.signal
                ) from error
            finally:
                self.dataloader_iterator.stop()
            self.runner.call_hook('after_train_epoch')
            self.runner.call_hook('after_train')
        return self.runner.model

    def _train(self, interrupt: Interrupt) -> None:
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            try:
                batch = next(self.dataloader_iterator)
            except (RuntimeError, EOFError, ConnectionError):
                # The signal may have ended the data workers, too.
                alone = self.runner.world_size == 1
                if alone and interrupt.signal and self._between_updates:
                    self.interrupted = True
                    return
                raise
            # A resumed run has the same random numbers, whatever it has done before.
            words = np.random.SeedSequence((self.runner.seed, self._iter))
            set_random_seed(int(words.generate_state(1)[0]))
            self.shard_progress.update(field(batch, 'shard_position'))
            self.run_iter(batch)
            if interrupt.came() and self._between_updates:
                self.interrupted = self._iter < self._max_iters
            if self.interrupted:
                return
            self._decide_current_val_interval()
            validate = self._iter % self.val_interval == 0
            validate = validate or self._iter == self._max_iters
            if validate and self.runner.val_loop and self._iter >= self.val_begin:
                self.runner.val_loop.run()

    @property
    def _between_updates(self) -> bool:
        return self._iter % accumulated(self.runner.optim_wrapper) == 0


def accumulated(optim_wrapper: OptimWrapper) -> int:
    """The number of iterations whose gradients make one update of the weights."""
    return getattr(optim_wrapper, '_accumulative_counts', 1)


def _explained(
    error: Exception, iteration: int, runner: Runner, signal: str | None
) -> Exception:
    """What a person can do about it, where something outside of training failed."""
    reason = str(error).strip()
    if signal:  # of several processes, of which one could not go on
        what = f'{signal} stopped a process that waited'
        remedy = 'no checkpoint of this iteration was written;'
    elif reason.startswith('DataLoader worker (pid') or not isinstance(
        error, RuntimeError
    ):
        what = 'A data worker was lost'
        remedy = (
            'most often the memory was full: give the job more memory (and shared '
            'memory), or lower train_dataloader.num_workers, its prefetch_factor or '
            'the shuffle_buffer, and'
        )
    elif isinstance(error, dist.DistError) or 'gloo/transport/' in reason:
        what = 'Another process of this job has ended, or hangs'
        remedy = 'its own message may say why;'
    else:
        return error
    return RuntimeError(
        f'{what} at iteration {iteration} ({reason or type(error).__name__}): {remedy} '
        f'continue with --resume from {last_good(runner)}.'
    )
