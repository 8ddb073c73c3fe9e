"""Trains a config in a process of its own; kills itself on request."""

import argparse
import os
import signal

import torch.distributed as dist
from mmengine.config import Config
from mmengine.hooks import Hook

import pacl_mmseg  # noqa: F401
from pacl_mmseg.registry import RUNNERS

parser = argparse.ArgumentParser()
parser.add_argument('config')
parser.add_argument('--kill-after', type=int)
args = parser.parse_args()
runner = RUNNERS.build(Config.fromfile(args.config))


class Kill(Hook):
    """In the middle of the iteration after the given one: nothing is flushed."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == args.kill_after:
            os.kill(os.getpid(), signal.SIGKILL)


if args.kill_after is not None:
    runner.register_hook(Kill())
runner.train()
if dist.is_initialized():
    dist.destroy_process_group()
