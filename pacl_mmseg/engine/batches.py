"""Batches without end, on the device that trains, from workers that may die."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader


class DataWorkerKilled(RuntimeError):
    """A data worker ended by itself: the system, as a rule, has killed it."""


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
        self.signals = _WorkerSignals()
        # Upstream's loop may have started the data workers, before it can know where
        # to resume, and persistent workers would never hear of it.
        self.stop()

    def start(self) -> None:
        """Start the data workers, from where dataset and sampler are set to."""
        self.iterator = iter(self.dataloader)
        self.signals.take_over()

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
            DataWorkerKilled: A worker has died. After :meth:`stop` and with the data's
                position restored one may go on.
            RuntimeError: The data loader is empty.
        """
        for _ in range(2):
            if self.iterator is None:
                self.start()
            try:
                with self.signals.raised():
                    batch = next(self.iterator)
            except StopIteration:  # a finite sampler: begin its next epoch
                self.iterator = None
            except (RuntimeError, OSError, EOFError) as error:
                if not lost_a_worker(self.iterator, error):
                    raise
                raise DataWorkerKilled(str(error).strip()) from error
            else:
                return self.to_device(batch)
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


def lost_a_worker(iterator: Any, error: Exception | None = None) -> bool:
    """Whether one of a data loader's workers has died.

    Args:
        iterator: The data loader's iterator, or None.
        error: What it raised: what a dead worker leaves behind can also break the
            transfer of another batch, so that not only PyTorch's own message counts.
    """
    if error is not None and str(error).startswith('DataLoader worker (pid'):
        return True
    workers = getattr(iterator, '_workers', ())
    for worker in workers:
        worker.join(0.05)
    return any(worker.exitcode not in (None, 0) for worker in workers)


class _WorkerSignals:
    """Lets the death of a worker be noticed only while one waits for a batch.

    PyTorch raises an error from a signal handler, and so in the middle of whatever the
    main thread does: of an update of the weights, too, which would be left half done.
    """

    def __init__(self) -> None:
        self._handler: Callable | None = None
        self._waiting = self._missed = False

    def take_over(self) -> None:
        """Stand before PyTorch's handler, which it sets with the first workers.

        Of several that did not give it back, the last one stands before it.
        """
        main = threading.current_thread() is threading.main_thread()
        if not main or not hasattr(signal, 'SIGCHLD'):
            return
        handler = signal.getsignal(signal.SIGCHLD)
        owner = getattr(handler, '__self__', None)
        if isinstance(owner, _WorkerSignals):
            handler = owner._handler
        if callable(handler):
            self._handler = handler
            signal.signal(signal.SIGCHLD, self._on_signal)

    def give_back(self) -> None:
        """Put PyTorch's handler back."""
        current = signal.getsignal(signal.SIGCHLD)
        if self._handler is not None and current == self._on_signal:
            signal.signal(signal.SIGCHLD, self._handler)
        self._handler = None

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Within this block a worker's death is raised, also one from before it."""
        self._waiting = True
        try:
            if self._missed and self._handler is not None:
                self._missed = False
                self._handler(signal.SIGCHLD, None)
            yield
        finally:
            self._waiting = False

    def _on_signal(self, number: int, frame: Any) -> None:
        if self._waiting:
            self._handler(number, frame)
        else:
            self._missed = True
