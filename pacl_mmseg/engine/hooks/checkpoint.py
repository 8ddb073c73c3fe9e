"""Regular and best checkpoints, of which none goes before its successor stands."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from pacl_mmseg.engine.work_dir import regular_checkpoints
from pacl_mmseg.registry import HOOKS


@HOOKS.register_module()
class PretrainCheckpointHook(CheckpointHook):
    """``CheckpointHook`` that removes old checkpoints after it has written new ones.

    The stock hook does so before, and a full disk or a kill in between costs a
    checkpoint. What earlier runs were killed amid is swept when training starts. A
    training that ends before its last iteration writes a checkpoint, too.

    Args:
        interval: Iterations between two checkpoints. By default 240 where only an
            embedder and temperatures are trained (13 MB a file for ViT-B/16; a multiple
            of most numbers of accumulated gradients), and 1000 where a tower is.
        max_keep_ckpts: Regular checkpoints that are kept, the newest; -1 keeps all.
        by_epoch: False, as training is counted in iterations.
        **kwargs: Those of ``CheckpointHook``, but for ``filename_tmpl``.

    Raises:
        ValueError: Files would have other names, or lie in no folder.
    """

    def __init__(
        self,
        interval: int | None = None,
        max_keep_ckpts: int = -1,
        by_epoch: bool = False,
        **kwargs: Any,
    ) -> None:
        if by_epoch or 'filename_tmpl' in kwargs or '://' in str(kwargs.get('out_dir')):
            raise ValueError(
                'PretrainCheckpointHook writes iter_N.pth into a folder: leave out '
                'by_epoch, filename_tmpl and an out_dir that is none.'
            )
        super().__init__(interval, by_epoch=False, **kwargs)  # which keeps all
        self.keep = max_keep_ckpts

    def before_run(self, runner: Runner) -> None:
        if self.interval is None:
            names = [
                n for n, p in runner.bare_model.named_parameters() if p.requires_grad
            ]
            towers = 'backbone.', 'decode_head.text_encoder.'
            self.interval = 1000 if any(n.startswith(towers) for n in names) else 240

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        if is_main_process():
            for part in Path(self.out_dir).glob('.[0-9]*.pth'):  # of a killed run
                part.unlink()
        if runner.iter:
            self._sweep(runner)

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        before = self.last_ckpt
        super().after_train_iter(runner, *args, **kwargs)
        if self.last_ckpt != before:
            self._sweep(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict) -> None:
        if not self.save_best:
            return
        # So that the stock hook removes none.
        self.best_ckpt_path, self.best_ckpt_path_dict = None, defaultdict(lambda: None)
        super().after_val_epoch(runner, metrics)
        self._sweep(runner)

    def after_train(self, runner: Runner) -> None:
        name = self.filename_tmpl.format(runner.iter)
        new = Path(self.last_ckpt or '').name != name
        if 0 < runner.iter < runner.max_iters and new:
            meta = dict(epoch=runner.epoch, iter=runner.iter)
            self._save_checkpoint_with_step(runner, runner.iter, meta)
            self._sweep(runner)
        self.best_ckpt_path_dict = dict(enumerate(_best(runner)))  # to publish
        super().after_train(runner)

    def _sweep(self, runner: Runner) -> None:
        """Remove all regular checkpoints but the newest, and best ones of before."""
        if not is_main_process():
            return
        surplus = regular_checkpoints(self.out_dir)
        surplus = surplus[: -self.keep] if self.keep > 0 else []
        best = {Path(path).name: Path(path) for path in _best(runner)}
        # Where the noted one is gone, a better one came after the last checkpoint.
        if all(path.exists() for path in best.values()):
            surplus += [
                path
                for path in Path(self.out_dir).glob('best_*.pth')
                if re.fullmatch(r'best_.+_iter_\d+\.pth', path.name)
                and path.name not in best
            ]
        for path in surplus:
            path.unlink()


def _best(runner: Runner) -> list[str]:
    info = runner.message_hub.runtime_info
    return [path for key, path in info.items() if key.startswith('best_ckpt')]
