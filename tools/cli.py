"""What the command-line tools share."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mmengine.config import Config, DictAction

from pacl_mmseg.apis import apply_options, load_config
from pacl_mmseg.apis.messages import reason_of
from pacl_mmseg.benchmark import PROTOCOLS, apply_protocol
from pacl_mmseg.benchmark.missing import missing_data
from pacl_mmseg.engine import shut_down

# What bad input raises, as opposed to a mistake in the program.
# MMSeg asserts that files can be read, and names them; MMEngine says of which type an
# option (TypeError) or the type itself (KeyError) is unknown.
EXPECTED_ERRORS = (
    *(ValueError, OSError, RuntimeError, ImportError),
    *(AssertionError, TypeError, KeyError),
)


def add_common_arguments(
    parser: argparse.ArgumentParser,
    launchers: Sequence[str] = ('none', 'pytorch', 'slurm', 'mpi'),
) -> None:
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
        choices=launchers,
        default='none',
        help='job launcher',
    )
    # torch.distributed.launch passes --local-rank to the script.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    add_traceback_argument(parser)


def add_traceback_argument(parser: argparse.ArgumentParser) -> None:
    """What :func:`run` goes by."""
    parser.add_argument(
        '--traceback', action='store_true', help='show where an error came from'
    )


def add_data_root_argument(parser: argparse.ArgumentParser) -> None:
    """What :func:`set_data_root` goes by."""
    parser.add_argument(
        '--data-root',
        help='folder that has the benchmarks, as MMSeg lays them out '
        '(or set PACL_DATA_ROOT; default: data)',
    )


def add_evaluation_arguments(parser: argparse.ArgumentParser) -> None:
    """What the tools that evaluate share."""
    parser.add_argument(
        '--protocol',
        help=f'evaluate as published: {", ".join(PROTOCOLS)} (docs/protocols.md); '
        "by default the config's own settings, which are those of sclip",
    )
    add_data_root_argument(parser)


def set_data_root(args: argparse.Namespace) -> None:
    """Tell the configs, which are read later, where the benchmarks lie.

    Raises:
        ValueError: The folder cannot be written into a config.
    """
    root = getattr(args, 'data_root', None) or os.environ.pop('PACL_DATA_ROOT', None)
    if not root:
        return
    if set(root) & set('\'"\\'):
        raise ValueError(
            f'The data root {root} has a quote or backslash, which MMEngine cannot '
            'put into a config: link it under another name.'
        )
    os.environ['PACL_DATA_ROOT'] = os.path.expanduser(root)


def config_from(args: argparse.Namespace) -> Config:
    """Read the config and apply the arguments that all tools have."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    set_data_root(args)
    cfg = load_config(args.config)
    if getattr(args, 'protocol', None):
        if 'benchmark' not in cfg:
            raise ValueError(
                f'--protocol differs from benchmark to benchmark, and {args.config} '
                "does not say which it is: add benchmark = '...' to it."
            )
        apply_protocol(cfg, args.protocol, cfg.benchmark)
    apply_options(cfg, args.cfg_options)
    cfg.launcher = args.launcher
    parts = [Path(args.config).stem, getattr(args, 'protocol', None)]
    default = Path('work_dirs') / '_'.join(filter(None, parts))
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(default)
    return cfg


def check_data_root(cfg: Config, *loaders: str) -> None:
    """Complain about missing data before anything is built.

    Raises:
        FileNotFoundError: A folder or list of a dataset does not exist.
    """
    for name in loaders:
        sentence = missing_data(cfg, name)
        if sentence:
            raise FileNotFoundError(sentence)


def run(main: Callable[[], object]) -> None:
    """Run a tool; bad input ends in one sentence and exit status 1."""
    try:
        main()
    except EXPECTED_ERRORS as error:
        if '--traceback' in sys.argv or not str(error):
            raise
        sentence = ' '.join(reason_of(error).split())
        sys.exit(f'\nError: {sentence}\n(--traceback shows where it came from)')
    shut_down()
