"""What the command-line tools share.

Nothing heavy is imported before the arguments are parsed: ``--help`` is quick.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger

# What bad input raises at any time. Anything else is a mistake in a config while its
# parts are built, and later one in the program.
EXPECTED_ERRORS = (ValueError, OSError, RuntimeError, ImportError)
# What a launcher sets, and how to get it.
LAUNCHED = {
    'pytorch': ('RANK', 'torchrun (tools/dist_train.sh)'),
    'slurm': ('SLURM_STEP_NODELIST', 'srun (tools/slurm_train.sh)'),
    'mpi': ('OMPI_COMM_WORLD_LOCAL_RANK', 'mpirun'),
}
# What several tools have, the same in each of them.
ARGUMENTS = {
    '--work-dir': dict(help='directory for logs, results, checkpoints'),
    '--cfg-options': dict(
        nargs='+',
        action='extend',
        metavar='KEY=VALUE',
        help='override settings of the config; lists as key="[a,b]" or key=a,b, nested '
        'keys with dots, texts with commas as key="\'a, b\'"',
    ),
    '--launcher': dict(
        choices=('none', *LAUNCHED), default='none', help='job launcher'
    ),
    # What torch.distributed.launch passes, and torchrun says in the environment.
    '--local-rank': dict(type=int, help=argparse.SUPPRESS),
    '--protocol': dict(
        help='evaluate as published, say as naclip (docs/protocols.md has all); by '
        "default the config's own settings, which are those of sclip",
    ),
    '--subset': dict(
        type=int, metavar='N', help='only the first N images; the result says so'
    ),
    '--data-root': dict(
        help='folder that has the benchmarks, as MMSeg lays them out '
        '(or set PACL_DATA_ROOT; default: data)',
    ),
    '--traceback': dict(action='store_true', help='show where an error came from'),
}


def add_arguments(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add some of :data:`ARGUMENTS`."""
    for name in names:
        parser.add_argument(name, **ARGUMENTS[name])


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


def check_source(source: Path) -> None:
    """Complain about a photo that is not there, before anything slow is done.

    Raises:
        ValueError: It is an address.
        FileNotFoundError: There is no such file or folder.
    """
    if re.match(r'(https?|ftp|s3|gs):/', str(source)):  # a Path has one slash of two
        raise ValueError('Addresses are not taken: download it first, give the file.')
    if not source.exists():
        raise FileNotFoundError(f'There is no file or folder {source}.')


def make_folder(folder: Path) -> None:
    """Make the folder of results, before anything slow is done for them.

    Raises:
        ValueError: It cannot be made, or nothing can be written to it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f'Nothing can be written to the folder {folder} ({error.strerror}): give '
            'another one.'
        ) from error


def set_data_root(args: argparse.Namespace) -> None:
    """Tell the configs, which are read later, where the benchmarks lie.

    Raises:
        ValueError: The folder cannot be written into a config.
    """
    root = getattr(args, 'data_root', None) or os.environ.pop('PACL_DATA_ROOT', None)
    if root and set(root) & set('\'"\\'):
        raise ValueError(
            f'The data root {root} has a quote or backslash, which MMEngine cannot '
            'put into a config: link it under another name.'
        )
    if root:
        os.environ['PACL_DATA_ROOT'] = os.path.expanduser(root)


def config_from(args: argparse.Namespace, *loaders: str) -> Config:
    """Read the config and apply the arguments that train.py and test.py have.

    Args:
        args: What was parsed.
        loaders: Data loaders whose files are looked for before anything is built.

    Raises:
        ValueError: The config, or an argument, says what nothing understands.
        FileNotFoundError: A folder or list of a dataset does not exist.
    """
    from pacl_mmseg.apis import apply_options, load_config
    from pacl_mmseg.benchmark import apply_protocol
    from pacl_mmseg.benchmark.missing import missing_data

    variable, program = LAUNCHED.get(args.launcher, (None, None))
    if variable and variable not in os.environ:
        raise ValueError(
            f'--launcher {args.launcher} is for what {program} has started, and this '
            f'has not been ({variable} is not set): start it so, or leave out '
            '--launcher.'
        )
    set_data_root(args)
    options = options_from(args)
    cfg = load_config(args.config, options)
    parts = [Path(args.config).stem]
    if protocol := getattr(args, 'protocol', None):
        if 'benchmark' not in cfg:
            raise ValueError(
                f'--protocol differs from benchmark to benchmark, and {args.config} '
                "does not say which it is: add benchmark = '...' to it."
            )
        apply_protocol(cfg, protocol, cfg.benchmark)
        apply_options(cfg, options)  # which win
        parts.append(protocol)
    cfg.launcher = args.launcher
    default = Path('work_dirs') / '_'.join(parts)
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(default)
    for name in loaders:
        if lacking := missing_data(cfg, name):
            raise FileNotFoundError(lacking)
    return cfg


def config_to_analyse(args: argparse.Namespace, reads_data: bool = True) -> Config:
    """Read the config of an analysis and apply ``--data-root`` and ``--cfg-options``.

    Args:
        args: What was parsed.
        reads_data: Whether its test data are looked at.

    Raises:
        ValueError: As of :func:`config_from`; or the config has no test data.
        FileNotFoundError: These are not there.
    """
    from pacl_mmseg.apis import load_config
    from pacl_mmseg.benchmark.missing import missing_data

    set_data_root(args)
    cfg = load_config(args.config, options_from(args))
    if reads_data and cfg.get('test_dataloader') is None:
        raise ValueError(
            f'{args.config} has no test data: use one that has, such as '
            'configs/pacl_voc20.py.'
        )
    if reads_data and (lacking := missing_data(cfg)):
        raise FileNotFoundError(lacking)
    return cfg


def find_shipped(path: str) -> str:
    """See :func:`pacl_mmseg.paths.find_shipped`; for argparse, ``--help`` is quick."""
    from pacl_mmseg.paths import find_shipped

    return find_shipped(path)


def checkpoint_first(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """A checkpoint, if these arguments begin with one, and the others."""
    first, *rest = words or ['']
    found = first.endswith(('.pth', '.safetensors'))
    return (find_shipped(first), rest) if found else (None, list(words))


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
        # MMEngine's IterTimerHook notes the time of each batch when it is finished.
        scalars = MessageHub.get_current_instance().log_scalars
        begun = any(name.endswith('/time') for name in scalars)
        expected = isinstance(error, EXPECTED_ERRORS) or not begun
        if '--traceback' in sys.argv or not expected:
            raise
        sentence = reason_of(error)
        sys.exit(f'\nError: {sentence}\n(--traceback shows where it came from)')
    except KeyboardInterrupt:
        sys.exit('\nInterrupted.')
    from pacl_mmseg.engine import shut_down

    shut_down()


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
    place = traceback.extract_tb(error.__traceback__)[-1]
    file = Path(*Path(place.filename).parts[-3:])
    return f'{type(error).__name__} in {file}:{place.lineno}: {message}'
