"""The training loop of contrastive pretraining."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.runner import IterBasedTrainLoop
from torch.utils.data import DataLoader

from pacl_mmseg.datasets.shards import ImageTextShards, ShardProgress
from pacl_mmseg.engine.checkpoint import set_random_state
from pacl_mmseg.registry import LOOPS


class _EndlessBatches:
    """Batches without end, from wherever the dataset or its sampler starts.

    Stands in for MMEngine's iterator, which on resuming loads and throws away what
    was trained already; here the position itself is restored.
    """

    def __init__(self, dataloader: DataLoader) -> None:
        self.dataloader = dataloader
        self.iterator: Iterator | None = None

    def start(self) -> None:
        self.iterator = iter(self.dataloader)

    def __next__(self) -> Any:
        if self.iterator is None:
            self.start()
        try:
            return next(self.iterator)
        except StopIteration:  # a finite sampler: begin its next epoch
            self.start()
            return next(self.iterator)


@LOOPS.register_module()
class PretrainLoop(IterBasedTrainLoop):
    """``IterBasedTrainLoop`` that knows its data position and can return to it.

    Works with ``ShuffledDraws`` + ``DrawSampler`` (map-style data, exact) and with
    ``ImageTextShards`` (exact up to the shards that were open). The arguments are
    those of ``IterBasedTrainLoop``: ``max_iters``, ``val_interval``, ...
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Upstream's loop has started the data workers by now, before it can know where
        # to resume, and persistent workers would never hear of it.
        early = getattr(self.dataloader, '_iterator', None)
        if early is not None:
            early._shutdown_workers()
            self.dataloader._iterator = None
        self.dataloader_iterator = _EndlessBatches(self.dataloader)
        self.shard_progress = ShardProgress(
            getattr(self.dataloader.dataset, 'state', None)
        )
        self._resumed_random_state: dict | None = None

    @property
    def samples_per_iter(self) -> int:
        """Samples that all processes together take in one iteration."""
        return self.dataloader.batch_size * self.runner.world_size

    def state_dict(self, iterations: int) -> dict:
        """This rank's data position after so many iterations."""
        return dict(
            samples=iterations * self.samples_per_iter,
            shards=self.shard_progress.state_dict(),
        )

    def load_state_dict(self, states: list[dict], random_state: dict | None) -> None:
        """Return to a data position; call before the first batch is taken.

        Args:
            states: What :meth:`state_dict` gave on every rank.
            random_state: This rank's, restored right before the first batch.
        """
        if hasattr(self.dataloader.sampler, 'start'):
            self.dataloader.sampler.start = states[0]['samples']
        dataset = self.dataloader.dataset
        if isinstance(dataset, ImageTextShards):
            dataset.load_state_dict(
                ShardProgress.merge([state['shards'] for state in states])
            )
            self.shard_progress = ShardProgress(dataset.state)
        self._resumed_random_state = random_state

    def run(self) -> None:
        """Train. The stock loop but for resuming, where it would skip batches again."""
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        if self._resumed_random_state is not None:
            # Making the iterator draws from torch's generator, as it did in the run
            # that is being resumed, so it comes first.
            self.dataloader_iterator.start()
            set_random_state(self._resumed_random_state)
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(self.dataloader_iterator))
            self._decide_current_val_interval()
            validate = self._iter % self.val_interval == 0
            validate = validate or self._iter == self._max_iters
            if validate and self.runner.val_loop and self._iter >= self.val_begin:
                self.runner.val_loop.run()
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
