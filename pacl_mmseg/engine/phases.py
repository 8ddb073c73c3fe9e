"""Where the time of a training step goes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import torch
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from torch import nn

# In the order of a step. What is absent in a model is left out.
MODULES = {
    'copy': 'data_preprocessor',
    'vision': 'backbone',
    'text': 'decode_head.text_encoder',
    'embedder': 'neck',
    'phi': 'decode_head.compatibility',
    # Not 'loss': MMEngine's log shows the mean of ten of what is called so.
    'objective': 'decode_head.loss_decode',
}
PHASES = ('data', *MODULES, 'backward', 'optimizer', 'reduce')


class PhaseTimer:
    """Times the phases of training steps by hooks on the parts of a model.

    =========  ========================================================================
    data       Waiting for the next batch; only what :meth:`phase` is put around.
    copy       ``data_preprocessor``: to the device, normalised.
    vision     ``backbone``.
    text       ``decode_head.text_encoder``.
    embedder   ``neck``.
    phi        ``decode_head.compatibility``, forward.
    objective  ``decode_head.loss_decode``, forward.
    backward   Of all that is trained, with what is reduced between processes meanwhile.
    optimizer  The optimizer's step.
    reduce     Communication in the backward pass as measured by
               ``DistributedDataParallel`` itself in its latest sampled step (it samples
               the first ten and then one in a hundred; a part of ``backward``, not
               added to it). Absent in one process.
    =========  ========================================================================

    On a GPU the times are between CUDA events and nothing waits for the GPU before
    :meth:`read`; on a CPU they are of a clock. Only steps in training mode are timed.
    It adds two function calls to every part: cheap enough to leave on.

    Args:
        model: The model, wrapped for several processes or not.
        optim_wrapper: MMEngine's; without one, backward and optimizer are left out.

    Use it as a context, or call :meth:`remove` at the end.
    """

    def __init__(
        self, model: nn.Module, optim_wrapper: OptimWrapper | None = None
    ) -> None:
        self._wrapper = model if hasattr(model, '_get_ddp_logging_data') else None
        while is_model_wrapper(model):
            model = model.module
        self._model = model
        self._removers: list[Callable[[], None]] = []
        self._started: dict[str, Any] = {}
        self._events: dict[str, list[tuple[Any, Any]]] = defaultdict(list)
        self._seconds: dict[str, float] = defaultdict(float)
        self._calls: dict[str, int] = defaultdict(int)
        for name, path in MODULES.items():
            try:
                module = attrgetter(path)(model)
            except AttributeError:
                continue
            if isinstance(module, nn.Module):
                self._attach(name, module)
        if optim_wrapper is not None:
            self._attach_optimizer(optim_wrapper)

    def _attach(self, name: str, module: nn.Module) -> None:
        handles = (
            module.register_forward_pre_hook(lambda *_: self.start(name)),
            module.register_forward_hook(lambda *_: self.stop(name)),
        )
        self._removers += [handle.remove for handle in handles]

    def _attach_optimizer(self, optim_wrapper: OptimWrapper) -> None:
        optimizer, backward = optim_wrapper.optimizer, optim_wrapper.backward
        handles = (
            optimizer.register_step_pre_hook(lambda *_: self.start('optimizer')),
            optimizer.register_step_post_hook(lambda *_: self.stop('optimizer')),
        )
        self._removers += [handle.remove for handle in handles]

        # There is no hook before and after a whole backward pass.
        def timed(*args: Any, **kwargs: Any) -> None:
            with self.phase('backward'):
                backward(*args, **kwargs)

        optim_wrapper.backward = timed
        self._removers.append(lambda: vars(optim_wrapper).pop('backward', None))

    def remove(self) -> None:
        """Take all hooks off the model and the optimizer; may be called again."""
        while self._removers:
            self._removers.pop()()

    def __enter__(self) -> PhaseTimer:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a block of code as (a part of) a phase."""
        self.start(name)
        try:
            yield
        finally:
            self.stop(name)

    def start(self, name: str) -> None:
        """Begin a phase; one that never ends, as an error came, is not counted."""
        if self._model.training:
            self._started[name] = self._now(name)

    def stop(self, name: str) -> None:
        """End a phase."""
        started = self._started.pop(name, None)
        if started is None:
            return
        self._calls[name] += 1
        now = self._now(name)
        if isinstance(now, float):
            self._seconds[name] += now - started
        else:
            self._events[name].append((started, now))

    def _now(self, name: str) -> Any:
        # The process waits for data, not the GPU.
        if name == 'data' or not next(self._model.parameters()).is_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def read(self) -> dict[str, float]:
        """Seconds a step of each phase, averaged over the steps since the last read.

        On a GPU this waits for the last of those steps. Without any step it is empty.
        """
        for name, pairs in self._events.items():
            pairs[-1][1].synchronize()
            self._seconds[name] += sum(a.elapsed_time(b) for a, b in pairs) / 1000
        steps = max(self._calls.values(), default=0)
        times = {
            name: self._seconds[name] / steps
            for name in (*PHASES, *self._seconds)
            if name in self._seconds
        }
        if times and self._wrapper is not None:
            data = self._wrapper._get_ddp_logging_data()
            nanoseconds = data.get('backward_comm_time', 0)
            if nanoseconds > 0:
                times['reduce'] = nanoseconds / 1e9
        for record in (self._events, self._seconds, self._calls):
            record.clear()
        return times
