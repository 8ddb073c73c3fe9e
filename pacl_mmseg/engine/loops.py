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

    def skip_iter(self, num_iters: int) -> None:
        """Called by the stock loop on resuming; there is nothing to skip."""

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
        self.dataloader_iterator = _EndlessBatches(self.dataloader)
        self.shard_progress = ShardProgress(
            getattr(self.dataloader.dataset, 'state', None)
        )
        self._resumed_random_state: dict | None = None

    @property
    def samples_per_iter(self) -> int:
        """Samples that all processes together take in one iteration."""
        return self.dataloader.batch_size * self.runner.world_size

    def state_dict(self) -> dict:
        """This rank's data position once the iteration under way has ended."""
        return dict(
            samples=(self._iter + 1) * self.samples_per_iter,
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

    def run(self) -> Any:
        if self._resumed_random_state is not None:
            # Making the iterator draws from torch's generator, as it did in the run
            # that is being resumed, so it comes first.
            self.dataloader_iterator.start()
            set_random_state(self._resumed_random_state)
        return super().run()
