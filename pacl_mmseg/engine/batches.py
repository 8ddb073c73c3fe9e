"""Batches without end, on the device that trains."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader


class EndlessBatches:
    """Batches without end, from wherever the dataset or its sampler starts.

    Stands in for MMEngine's iterator, which on resuming loads and throws away what
    was trained already; here the position itself is restored.

    A GPU gets a batch's tensor of images by a stream of its own: whoever asks for the
    next batch before the GPU has done the last step has it copied meanwhile. Texts stay
    where they are, with the encoder that sorts them by length.

    Args:
        dataloader: Its ``pin_memory`` makes the copy one that nothing waits for.
        device: Where the model is.
    """

    def __init__(self, dataloader: DataLoader, device: torch.device) -> None:
        self.dataloader = dataloader
        self.iterator: Iterator | None = None
        self.stream = torch.cuda.Stream(device) if device.type == 'cuda' else None
        self.device = device
        # Upstream's loop may have started the data workers, before it can know where
        # to resume, and persistent workers would never hear of it.
        self.stop()

    def stop(self) -> None:
        """Stop the data workers; the next batch starts new ones."""
        # MMEngine's loop may have started the loader's own.
        for iterator in (self.iterator, getattr(self.dataloader, '_iterator', None)):
            if hasattr(iterator, '_shutdown_workers'):
                iterator._shutdown_workers()
        self.iterator = self.dataloader._iterator = None

    def __next__(self) -> Any:
        """The next batch.

        Raises:
            RuntimeError: The data loader is empty, or one of its workers has died.
        """
        for _ in range(2):
            if self.iterator is None:
                self.iterator = iter(self.dataloader)
            try:
                return self.to_device(next(self.iterator))
            except StopIteration:  # a finite sampler: begin its next epoch
                self.iterator = None
        raise RuntimeError(
            'The data loader gives no batch: the data are fewer than batch_size x '
            'processes, with drop_last=True, or used up, with repeat=False.'
        )

    def to_device(self, batch: Any) -> Any:
        """Give a batch with its images on the device; on a CPU it is the same one."""
        if self.stream is None or not isinstance(batch['inputs'], torch.Tensor):
            return batch
        with torch.cuda.stream(self.stream):
            images = batch['inputs'].to(self.device, non_blocking=True)
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self.stream)
        images.record_stream(current)  # not to be freed before the step has used it
        return {**batch, 'inputs': images}


def field(batch: dict | None, name: str) -> list:
    """A field of a batch's samples, of those that have it."""
    samples = (batch or {}).get('data_samples') or []
    if isinstance(samples, dict):
        return samples.get(name, [])
    return [one.metainfo[name] for one in samples if name in one.metainfo]
