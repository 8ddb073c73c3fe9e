"""Trains a config in a process of its own; has accidents on request."""

import argparse
import math
import os
import resource
import signal
import time
from pathlib import Path

from mmengine.config import Config
from mmengine.hooks import Hook

import pacl_mmseg  # noqa: F401
from pacl_mmseg.engine import shut_down
from pacl_mmseg.registry import RUNNERS


class Accident(Hook):
    """In the middle of the iteration after the given one: nothing is flushed."""

    def __init__(self, kind: str, after: int, rank: int) -> None:
        self.kind, self.after, self.rank = kind, after, rank

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter != self.after or runner.rank != self.rank:
            return
        if self.kind == 'kill':
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.kind == 'hang':
            time.sleep(3600)
        elif self.kind == 'disk-full':  # for checkpoints, not for logs
            first = min(Path(runner.work_dir).glob('iter_*.pth'))
            limits = resource.getrlimit(resource.RLIMIT_FSIZE)
            half = first.stat().st_size // 2
            resource.setrlimit(resource.RLIMIT_FSIZE, (half, limits[1]))
        elif self.kind == 'nan':  # in a loss that each process has for itself
            loss = runner.bare_model.decode_head.loss_decode
            loss.register_forward_hook(not_a_number)


def not_a_number(module, args, losses):
    name = module.loss_name
    return {**losses, name: math.nan * losses[name]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument('config')
    parser.add_argument('--accident', choices=['kill', 'hang', 'disk-full', 'nan'])
    parser.add_argument('--after', type=int)
    parser.add_argument('--rank', type=int, default=0)
    args = parser.parse_args()
    runner = RUNNERS.build(Config.fromfile(args.config))
    if args.accident:
        runner.register_hook(Accident(args.accident, args.after, args.rank))
    runner.train()


if __name__ == '__main__':
    main()
    shut_down()
