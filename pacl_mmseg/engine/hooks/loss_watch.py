"""The log variables of training steps, and a watch over the loss."""

from __future__ import annotations

import math
from operator import attrgetter
from typing import NamedTuple

import torch
from mmengine.dist import all_gather_object, all_reduce
from mmengine.hooks import CheckpointHook, Hook, LoggerHook, RuntimeInfoHook
from mmengine.runner import Runner

from pacl_mmseg.datasets.shards import ImageTextShards
from pacl_mmseg.engine.batches import provenance
from pacl_mmseg.engine.checkpoint import last_good
from pacl_mmseg.engine.late_scalars import LateScalars
from pacl_mmseg.engine.work_dir import stop_for_good
from pacl_mmseg.registry import HOOKS

_NAMED = 40  # shards or images that a message lists


class _Finding(NamedTuple):
    """A loss that is not finite, on one process."""

    iteration: int
    loss: float
    names: list[str]


@HOOKS.register_module()
class LossWatchHook(RuntimeInfoHook):
    """``RuntimeInfoHook`` that leaves the GPU at work, and watches the loss.

    The log variables of a step are published one iteration late on a GPU, except where
    they are wanted at once: for the log, a checkpoint, validation and at the end. On a
    CPU they are always in time.

    A loss that is not finite stops the run, also when it is started again, before
    anything else is written. The message names the iteration and the shards (for
    map-style data, the images) of its batch on the processes that found it: on all
    where the loss is the same on all, as InfoNCE is. Each process looks at its own
    loss; where there are several, they tell each other what they found where variables
    are wanted at once, and stop together.
    """

    def __init__(self) -> None:
        super().__init__()
        self._found: list[_Finding] = []
        self._scalars = LateScalars()

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        note = runner.iter + 1, provenance(data_batch)
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
        for (iteration, source), scalars in self._scalars.take(flush):
            super().after_train_iter(runner, iteration - 1, outputs=scalars)
            if 'loss' in scalars:
                self._check(runner, iteration, scalars['loss'], source)
        if flush or runner.world_size == 1:
            self._report(runner)

    def _wanted_now(self, runner: Runner, batch_idx: int) -> bool:
        loop = runner.train_loop
        return (
            self.is_last_train_iter(runner)
            or self.every_n_train_iters(runner, getattr(loop, 'val_interval', 0))
            or due(runner, batch_idx, LoggerHook, CheckpointHook)
        )

    def _check(
        self, runner: Runner, iteration: int, loss: float, source: tuple[list, list]
    ) -> None:
        if not math.isfinite(loss) and not self._found:
            names = _in_flight(runner, source)
            self._found.append(_Finding(iteration, loss, names))

    def _report(self, runner: Runner) -> None:
        """Tell what was found since the last report; all processes call it together."""
        found, self._found = self._found, []
        if runner.world_size > 1:
            anything = torch.tensor(len(found))
            all_reduce(anything, 'max')
            of_all = all_gather_object(found) if anything else []
            found = [finding for of_one in of_all for finding in of_one]
        if not found:
            return
        first = min(found, key=attrgetter('iteration'))
        found = [finding for finding in found if finding.iteration == first.iteration]
        names = dict.fromkeys(name for finding in found for name in finding.names)
        stop_for_good(
            runner.work_dir,
            f'The loss is {first.loss} at iteration {first.iteration}: training stops '
            f'and writes nothing more; the last good checkpoint is {last_good(runner)}.'
            ' Lower the learning rate, or use bfloat16 in place of float16, and '
            'continue with --resume. In flight: '
            f'{some(list(names)) or "data without names"}.',
        )


def due(runner: Runner, batch_idx: int, *kinds: type[Hook]) -> bool:
    """Whether a hook of these kinds acts after this iteration."""
    return any(
        hook.every_n_inner_iters(batch_idx, hook.interval)
        for hook in runner.hooks
        if isinstance(hook, kinds)
    )


def some(names: list[str]) -> str:
    """The first names of a list in words."""
    text = ', '.join(names[:_NAMED])
    more = len(names) - _NAMED
    return text if more <= 0 else f'{text} and {more} more'


def _in_flight(runner: Runner, source: tuple[list, list]) -> list[str]:
    """Names of a step's shards, or else images, on this process."""
    positions, paths = source
    dataset = runner.train_dataloader.dataset
    if isinstance(dataset, ImageTextShards) and positions:
        return dataset.shard_names(positions)
    return [str(path) for path in paths]
