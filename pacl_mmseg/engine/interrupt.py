"""Ctrl-C and SIGTERM: training ends between two iterations."""

from __future__ import annotations

import os
import signal
import threading
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from mmengine.dist import is_main_process


class Interrupted(KeyboardInterrupt):
    """Training was told to stop, and has written a checkpoint."""


class Interrupt:
    """Within this context the first SIGINT or SIGTERM is noted and nothing else.

    A second Ctrl-C acts as ever. As a signal often goes to all processes of a group,
    data workers may die of it, too, and are not missed any more: PyTorch would raise an
    error in the middle of whatever is being done.

    Args:
        timeout: Seconds for which processes wait for each other.
    """

    signal: str | None = None  # the name of the one that came here

    def __init__(self, timeout: float) -> None:
        self._before: dict[int, Any] = {}  # handlers of signals
        self._group = None
        if dist.is_initialized():
            # Between hosts: a GPU is not waited for.
            self._group = dist.new_group(
                backend='gloo', timeout=timedelta(seconds=timeout)
            )

    def __enter__(self) -> Interrupt:
        self._process = os.getpid()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a data worker, which has inherited this
            return
        if self.signal is None:
            child = signal.SIGCHLD
            self._before[child] = signal.signal(child, lambda *_: None)
            if is_main_process():
                os.write(2, b'\nStopping behind this iteration, with a checkpoint.\n')
        self.signal = signal.Signals(number).name
        if number == signal.SIGINT:  # who presses Ctrl-C again does not want to wait
            signal.signal(number, self._before[number])

    def came(self) -> bool:
        """Whether a signal came to any rank; all ranks call it together."""
        if self._group is None:
            return self.signal is not None
        flag = torch.tensor(int(self.signal is not None))
        dist.all_reduce(flag, dist.ReduceOp.MAX, self._group)
        return bool(flag)
