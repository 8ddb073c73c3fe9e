"""The log variables of training steps, and a watch over the loss."""

from __future__ import annotations

import math
from operator import itemgetter

from mmengine.dist import all_gather_object
from mmengine.hooks import LoggerHook, RuntimeInfoHook
from mmengine.runner import Runner
from torch import Tensor

from pacl_mmseg.datasets.shards import ImageTextShards
from pacl_mmseg.engine.batches import field
from pacl_mmseg.engine.work_dir import stop_for_good
from pacl_mmseg.registry import HOOKS

_NAMED = 40  # shards or images that a message lists
_UNREAD = 100  # steps whose log variables wait to be read


@HOOKS.register_module()
class LossWatchHook(RuntimeInfoHook):
    """``RuntimeInfoHook`` that leaves the GPU at work, and watches the loss.

    To read a log variable is to wait for the GPU. They are read where they are wanted:
    for the log, before validation and checkpoints, at the end, and every 100 steps.

    A loss or a trained parameter that is not finite then stops the run, also when it is
    started again, before anything else is written. The message names the iteration and,
    for a loss, the shards (for map-style data, the images) of its batch on the
    processes that found it: on all where the loss is the same on all, as InfoNCE is.
    """

    def __init__(self) -> None:
        super().__init__()
        self._unread: list[tuple[int, dict, list[str]]] = []

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        values = {
            name: value.detach() if isinstance(value, Tensor) else value
            for name, value in (outputs or {}).items()
        }
        self._unread.append((runner.iter, values, field(data_batch, 'img_path')))
        logged = any(
            hook.every_n_inner_iters(batch_idx, hook.interval)
            or hook.end_of_epoch(runner.train_dataloader, batch_idx)
            for hook in runner.hooks
            if isinstance(hook, LoggerHook)
        )
        if logged or len(self._unread) == _UNREAD:
            self.read(runner)

    def before_val(self, runner: Runner) -> None:
        self.read(runner)
        super().before_val(runner)

    def after_train(self, runner: Runner) -> None:
        self.read(runner)
        super().after_train(runner)

    def read(self, runner: Runner) -> None:
        """Put the log variables so far into the message hub; look at them and weights.

        All processes call it together.

        Raises:
            RuntimeError: A loss or a weight is not finite; on all processes.
        """
        unread, self._unread = self._unread, []
        found = None
        for index, values, names in unread:
            super().after_train_iter(runner, index, outputs=values)
            loss = float(values.get('loss', 0))
            if not math.isfinite(loss):
                found = index + 1, loss, names
                break
        everywhere = [one for one in all_gather_object(found) if one]
        if everywhere:
            iteration, loss, _ = min(everywhere, key=itemgetter(0))
            names = [n for i, _, names in everywhere if i == iteration for n in names]
            if isinstance(runner.train_dataloader.dataset, ImageTextShards):
                names = [name.rpartition('/')[0] for name in names]
            in_flight = some(list(dict.fromkeys(names))) or 'data without names'
            what = f'The loss is {loss} at iteration {iteration}'
            stop_for_good(runner, what, f' In flight: {in_flight}.')
        for name, value in runner.bare_model.named_parameters():
            if value.requires_grad and not value.isfinite().all():
                iteration = runner.message_hub.get_info('iter') + 1
                what = f'{name} is not finite at iteration {iteration}'
                stop_for_good(runner, what)


def some(names: list[str]) -> str:
    """The first names of a list in words."""
    text = ', '.join(names[:_NAMED])
    more = len(names) - _NAMED
    return text if more <= 0 else f'{text} and {more} more'
