"""Regular and best checkpoints, of which none goes before its successor stands."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

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
        **kwargs: Those of ``CheckpointHook``.
    """

    def __init__(
        self,
        interval: int | None = None,
        max_keep_ckpts: int = -1,
        by_epoch: bool = False,
        **kwargs: Any,
    ) -> None:
        if by_epoch:
            raise ValueError('PretrainCheckpointHook counts iterations: by_epoch=False')
        super().__init__(interval, by_epoch=False, **kwargs)  # which keeps all
        self.keep = max_keep_ckpts

    def before_run(self, runner: Runner) -> None:
        if self.interval is None:
            trained = (n for n, p in runner.model.named_parameters() if p.requires_grad)
            towers = r'(module\.)?(backbone|decode_head\.text_encoder)\.'
            self.interval = 1000 if any(re.match(towers, n) for n in trained) else 240

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        if is_main_process() and '://' not in self.out_dir:
            for file in Path(self.out_dir).glob('.*.pth*'):
                # Also as an earlier version named its temporary files.
                if re.fullmatch(r'\.\d+\..+\.pth|\..+\.pth\.\d+\.tmp', file.name):
                    file.unlink()
        if runner.iter:
            self._sweep(runner)

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        super().after_train_iter(runner, *args, **kwargs)
        if self.last_ckpt == self._path(runner.iter + 1):
            self._sweep(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict) -> None:
        if not self.save_best:
            return
        # So that the stock hook removes none.
        self.best_ckpt_path, self.best_ckpt_path_dict = None, defaultdict(lambda: None)
        super().after_val_epoch(runner, metrics)
        self._sweep(runner)

    def after_train(self, runner: Runner) -> None:
        path = self._path(runner.iter)
        if 0 < runner.iter < runner.max_iters and self.last_ckpt != path:
            meta = dict(epoch=runner.epoch, iter=runner.iter)
            self._save_checkpoint_with_step(runner, runner.iter, meta)
            self._sweep(runner)
        self.best_ckpt_path_dict = dict(enumerate(self._best(runner)))  # to publish
        super().after_train(runner)

    def _path(self, step: int) -> str:
        name = self.filename_tmpl.format(step)
        return self.file_backend.join_path(self.out_dir, name)

    @staticmethod
    def _best(runner: Runner) -> list[str]:
        info = runner.message_hub.runtime_info
        return [path for key, path in info.items() if key.startswith('best_ckpt')]

    def _sweep(self, runner: Runner) -> None:
        """Remove all regular checkpoints but the newest, and best ones of before."""
        if not is_main_process():
            return
        noted = self._best(runner)
        best = {Path(path).name for path in noted}
        # Not where the noted one is gone: a better one came after the last checkpoint.
        sure = all(map(self.file_backend.exists, noted))
        regular = re.escape(self.filename_tmpl).replace(r'\{\}', r'(\d+)')
        steps, surplus = [], []
        for name in self.file_backend.list_dir_or_file(
            self.out_dir, list_dir=False, suffix='.pth'
        ):
            if found := re.fullmatch(regular, name):
                steps.append(int(found[1]))
            elif sure and re.fullmatch(f'best_.+_{regular}', name) and name not in best:
                surplus.append(self.file_backend.join_path(self.out_dir, name))
        if self.keep > 0:
            surplus += map(self._path, sorted(steps)[: -self.keep])
        for path in surplus:
            self.file_backend.remove(path)
