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

    A GPU gets the images of a batch by a stream of its own: whoever asks for the next
    batch before the GPU has done the last step has them copied meanwhile. Texts stay
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

    def start(self) -> None:
        """Start the data workers, from where dataset and sampler are set to."""
        self.iterator = iter(self.dataloader)

    def stop(self) -> None:
        """Stop the data workers; the next batch starts new ones."""
        iterator = self.iterator
        if iterator is None:  # MMEngine's loop may have started one
            iterator = getattr(self.dataloader, '_iterator', None)
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
                self.start()
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
        if self.stream is None:
            return batch
        images = batch['inputs']
        with torch.cuda.stream(self.stream):
            if isinstance(images, torch.Tensor):
                copies = [images.to(self.device, non_blocking=True)]
            else:
                copies = [image.to(self.device, non_blocking=True) for image in images]
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self.stream)
        for copy in copies:  # not to be freed before the step has used them
            copy.record_stream(current)
        single = isinstance(images, torch.Tensor)
        return {**batch, 'inputs': copies[0] if single else copies}


def positions(batch: dict | None) -> list:
    """Positions in the shards of a batch's samples; empty for other data."""
    samples = _samples(batch)
    if isinstance(samples, dict):
        return samples.get('shard_position', [])
    return [
        sample.metainfo['shard_position']
        for sample in samples
        if 'shard_position' in sample.metainfo
    ]


def provenance(batch: dict | None) -> tuple[list, list]:
    """Where a batch's samples are from: :func:`positions`, and names of images."""
    samples = _samples(batch)
    if isinstance(samples, dict):
        return positions(batch), samples.get('img_path', [])
    paths = [sample.metainfo.get('img_path', 'unnamed') for sample in samples]
    return positions(batch), paths


def _samples(batch: dict | None) -> Any:
    return (batch or {}).get('data_samples') or []
