"""Log variables of training steps that a GPU is not made to wait for."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from torch import Tensor


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
