"""What the command-line tools share."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from mmengine.config import Config, DictAction

from pacl_mmseg.apis import load_config

# What bad input raises, as opposed to a mistake in the program.
EXPECTED_ERRORS = (ValueError, FileNotFoundError, RuntimeError, ImportError)


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """MMSeg's own arguments, the same for training and testing."""
    parser.add_argument('--work-dir', help='directory for logs, results, checkpoints')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override settings of the config, as key=value; lists as '
        'key="[a,b]" or key=a,b, nested keys with dots',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='job launcher',
    )
    # torch.distributed.launch passes --local-rank to the script.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    parser.add_argument(
        '--traceback', action='store_true', help='show where an error came from'
    )


def config_from(args: argparse.Namespace) -> Config:
    """Read the config and apply the arguments that all tools have."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = load_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    default = Path('work_dirs') / Path(args.config).stem
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(default)
    return cfg


def check_data_root(cfg: Config, *loaders: str) -> None:
    """Complain about missing data before anything is built.

    Raises:
        FileNotFoundError: A dataset's ``data_root`` does not exist.
    """
    for name in loaders:
        dataset, path = (cfg.get(name) or {}).get('dataset', {}), f'{name}.dataset'
        while isinstance(dataset.get('dataset'), dict):  # inside wrappers
            dataset, path = dataset['dataset'], f'{path}.dataset'
        root = dataset.get('data_root')
        if root and '://' not in root and not Path(root).is_dir():
            raise FileNotFoundError(
                f'{root} does not exist: put the {dataset["type"]} there, or set '
                f'{path}.data_root to where it is.'
            )


def run(main: Callable[[], object]) -> None:
    """Run a tool; bad input ends in one sentence and exit status 1."""
    try:
        main()
    except EXPECTED_ERRORS as error:
        if '--traceback' in sys.argv:
            raise
        message = str(error)
        if 'Original Traceback' in message:  # from a data worker: its last line says it
            message = message.strip().splitlines()[-1].partition(': ')[2]
        sentence = ' '.join(message.split())
        sys.exit(f'\nError: {sentence}\n(--traceback shows where it came from)')
