"""Train a model: an embedder on image-text data, or any MMSeg config.

python tools/train.py configs/pacl_vitb16_cc12m.py --work-dir work_dirs/pacl
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import cli

if TYPE_CHECKING:
    from mmengine.runner import Runner


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Train a model')
    parser.add_argument('config', help='train config file path')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='continue from the newest checkpoint of the work dir, or from a given one',
    )
    parser.add_argument(
        '--amp',
        action='store_true',
        help='mixed precision (float16; optim_wrapper.dtype=bfloat16 for bfloat16)',
    )
    cli.add_arguments(
        parser,
        '--work-dir',
        '--cfg-options',
        '--launcher',
        '--local-rank',
        '--traceback',
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> Runner:
    """Train and return the runner."""
    args = parse_args(argv)
    import torch
    from mmengine.dist import is_main_process
    from mmengine.runner import Runner

    from pacl_mmseg.engine import Interrupted, shut_down
    from pacl_mmseg.registry import RUNNERS, kind_of

    cfg = cli.config_from(args, 'train_dataloader', 'val_dataloader')
    amp = kind_of(cfg.get('optim_wrapper')) == 'AmpOptimWrapper'
    if amp and not torch.cuda.is_available():
        raise ValueError(
            "Mixed precision is for GPUs (MMEngine's AmpOptimWrapper), and there is "
            'none: leave out --amp, or set optim_wrapper.type=OptimWrapper, or use a '
            'config without it (pacl_vitb16_30m.py for pacl_vitb16_30m_bf16.py).'
        )
    if amp:
        # bfloat16 has the range of float32, and needs no scale.
        scaled = cfg.optim_wrapper.get('dtype') != 'bfloat16'
        loss_scale = 'dynamic' if scaled else dict(enabled=False)
        cfg.optim_wrapper.setdefault('loss_scale', loss_scale)
    if args.resume:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    try:
        runner.train()
    except Interrupted as stop:
        first = is_main_process()
        shut_down()
        sys.exit(f'\n{stop} To go on:\n{resume_command(argv)}' if first else 1)
    return runner


def resume_command(argv: Sequence[str] | None) -> str:
    """The command that was typed, with a last ``--resume``, which is what counts."""
    words = shlex.split(os.environ.get('PACL_COMMAND', ''))  # what a launcher was given
    words = words or ['python', sys.argv[0], *(sys.argv[1:] if argv is None else argv)]
    return shlex.join(words if words[-1] == '--resume' else [*words, '--resume'])


if __name__ == '__main__':
    cli.run(main)
