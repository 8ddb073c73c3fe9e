"""What the command-line tools share.

Nothing heavy is imported before the arguments are parsed: ``--help`` is quick.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger

# What bad input raises at any time. Anything else is a mistake in a config while its
# parts are built, and later one in the program.
EXPECTED_ERRORS = (ValueError, OSError, RuntimeError, ImportError)
PROTOCOLS = ('sclip', 'clearclip', 'naclip', 'naclip_pamr', 'dinoiser', 'pacl_paper')
# What a launcher sets, and how to get it.
LAUNCHED = {
    'pytorch': ('RANK', 'torchrun (tools/dist_train.sh)'),
    'slurm': ('SLURM_PROCID', 'srun (tools/slurm_train.sh)'),
    'mpi': ('OMPI_COMM_WORLD_LOCAL_RANK', 'mpirun'),
}


def add_common_arguments(
    parser: argparse.ArgumentParser,
    launchers: Sequence[str] = ('none', 'pytorch', 'slurm', 'mpi'),
) -> None:
    """MMSeg's own arguments, the same for training and testing."""
    parser.add_argument('--work-dir', help='directory for logs, results, checkpoints')
    add_options_argument(parser)
    parser.add_argument(
        '--launcher',
        choices=launchers,
        default='none',
        help='job launcher',
    )
    # torch.distributed.launch passes --local-rank to the script.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    add_traceback_argument(parser)


def add_options_argument(parser: argparse.ArgumentParser) -> None:
    """What :func:`options_from` reads."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action='extend',
        metavar='KEY=VALUE',
        help='override settings of the config; lists as key="[a,b]" or key=a,b, nested '
        'keys with dots, texts with commas as key="\'a, b\'"',
    )


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
    add_subset_argument(parser)
    add_data_root_argument(parser)


def names_in(table: str, module: str) -> list[str]:
    """The keys of a table in a module of the package that imports nothing heavy.

    Only its file is read: importing the package takes seconds, which ``--help`` lacks.

    Args:
        table: Name of a mapping.
        module: Path of the module in the package.
    """
    (package,) = importlib.util.find_spec('pacl_mmseg').submodule_search_locations
    return list(runpy.run_path(str(Path(package, module)))[table])


def add_subset_argument(parser: argparse.ArgumentParser) -> None:
    """The same where data are checked and where they are tested on."""
    parser.add_argument(
        '--subset',
        type=int,
        metavar='N',
        help='only the first N images; the result says so',
    )


def options_from(args: argparse.Namespace) -> dict[str, Any]:
    """``--cfg-options``, and what the other arguments change in a config."""
    from pacl_mmseg.apis import read_options

    options = read_options(args.cfg_options)
    for key in options:
        if key.split('.')[0] == 'test_pipeline':
            raise ValueError(
                f'--cfg-options {key}: that is for single images (inference_model); '
                'a test takes test_dataloader.dataset.pipeline.'
            )
    if getattr(args, 'subset', None) is not None:
        options['test_dataloader.dataset.indices'] = args.subset
    if getattr(args, 'amp', False):
        options.setdefault('optim_wrapper.type', 'AmpOptimWrapper')
    return options


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
    """Read the config and apply the arguments that all tools have.

    Raises:
        ValueError: The config, or an argument, says what nothing understands.
    """
    from pacl_mmseg.apis import apply_options, load_config

    check_launcher(args.launcher)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    set_data_root(args)
    options = options_from(args)
    cfg = load_config(args.config, options)
    if getattr(args, 'protocol', None):
        if 'benchmark' not in cfg:
            raise ValueError(
                f'--protocol differs from benchmark to benchmark, and {args.config} '
                "does not say which it is: add benchmark = '...' to it."
            )
        from pacl_mmseg.benchmark import apply_protocol

        apply_protocol(cfg, args.protocol, cfg.benchmark)
        apply_options(cfg, options)  # which win
    cfg.launcher = args.launcher
    parts = [Path(args.config).stem, getattr(args, 'protocol', None)]
    default = Path('work_dirs') / '_'.join(filter(None, parts))
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(default)
    return cfg


def check_launcher(launcher: str) -> None:
    """Complain about a launcher that has not started this process.

    Raises:
        ValueError: What it sets in the environment is not set.
    """
    variable, program = LAUNCHED.get(launcher, (None, None))
    if variable and variable not in os.environ:
        raise ValueError(
            f'--launcher {launcher} is for what {program} has started, and this has '
            f'not been ({variable} is not set): start it so, or leave out --launcher.'
        )


def check_data_root(cfg: Config, *loaders: str) -> None:
    """Complain about missing data before anything is built.

    Raises:
        FileNotFoundError: A folder or list of a dataset does not exist.
    """
    from pacl_mmseg.benchmark.missing import missing_data

    for name in loaders:
        sentence = missing_data(cfg, name)
        if sentence:
            raise FileNotFoundError(sentence)


def run(main: Callable[[], object]) -> None:
    """Run a tool; bad input ends in one sentence and exit status 1.

    A log file, where there is one already, has the traceback of every error. The
    console has it too, with ``--traceback``, or if the program made a mistake after the
    first batch: hours later it is all there is.
    """
    try:
        main()
    except Exception as error:
        # MMEngine raises those of hooks anew, without where they came from.
        error.__suppress_context__ = False
        log_traceback()
        expected = isinstance(error, EXPECTED_ERRORS) or not batches_done()
        if '--traceback' in sys.argv or not expected:
            raise
        sentence = reason_of(error)
        sys.exit(f'\nError: {sentence}\n(--traceback shows where it came from)')
    except KeyboardInterrupt:
        sys.exit('\nInterrupted.')
    from pacl_mmseg.engine import shut_down

    shut_down()


def batches_done() -> bool:
    """Whether a batch was finished, whose time MMEngine's IterTimerHook notes."""
    scalars = MessageHub.get_current_instance().log_scalars
    return any(name.endswith('/time') for name in scalars)


def log_traceback() -> None:
    """Write the traceback of the error at hand to the log files, not the console."""
    logger = MMLogger.get_current_instance()
    record = logger.makeRecord(
        *(logger.name, logging.ERROR, __file__, 0, 'This run ended with:', ()),
        exc_info=sys.exc_info(),
    )
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


def reason_of(error: Exception) -> str:
    """An error's message in one line; of one from a data worker, without its traceback.

    With its type and place, where these may be all that it says.
    """
    # A KeyError's own text has quotes around it.
    message = str(*error.args[:1] if isinstance(error, KeyError) else [error])
    if 'Original Traceback' in message:  # its last line says it
        message = message.strip().splitlines()[-1].partition(': ')[2]
    message = ' '.join(message.split())
    if isinstance(error, EXPECTED_ERRORS) and message:
        return message
    place = error.__traceback__
    while place.tb_next:
        place = place.tb_next
    file = Path(*Path(place.tb_frame.f_code.co_filename).parts[-3:])
    return f'{type(error).__name__} in {file}:{place.tb_lineno}: {message}'
