"""Accidents in the middle of an iteration, as a hook that any process can have."""

from __future__ import annotations

import math
import os
import resource
import signal
import time
from pathlib import Path

from mmengine.hooks import Hook

from pacl_mmseg.registry import HOOKS


@HOOKS.register_module(force=True)
class Accident(Hook):
    """Has an accident in the iterations after the given ones, in a run's first start.

    Args:
        kind: ``'signal'`` to this process, ``'kill-worker'``, ``'hang'``,
            ``'disk-full'`` for checkpoints, not for logs, or ``'nan'`` in the loss.
        after: Numbers of iterations.
        rank: The process.
        number: The signal.
    """

    def __init__(
        self, kind: str, after: list[int], rank: int = 0, number: int = signal.SIGKILL
    ) -> None:
        self.kind, self.after = kind, after
        self.rank, self.number = rank, number

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        counts = ('TORCHELASTIC_RESTART_COUNT', 'SLURM_RESTART_COUNT')
        restarted = any(os.environ.get(name, '0') != '0' for name in counts)
        if runner.iter not in self.after or runner.rank != self.rank or restarted:
            return
        if self.kind == 'signal':
            os.kill(os.getpid(), self.number)
        elif self.kind == 'kill-worker':
            kill(runner.train_loop.dataloader_iterator.iterator._workers[0].pid)
        elif self.kind == 'hang':
            time.sleep(3600)
        elif self.kind == 'disk-full':
            size = min(Path(runner.work_dir).glob('iter_*.pth')).stat().st_size
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, hard))
        elif self.kind == 'nan':  # in a loss that each process has for itself
            loss = runner.bare_model.decode_head.loss_decode
            loss.register_forward_hook(not_a_number)


def kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)
    # The system has told this process about it when this returns.
    os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)


def not_a_number(module, args, losses):
    return {**losses, 'loss_infonce': math.nan * losses['loss_infonce']}
