"""Evaluate methods on benchmarks: tables and a chart, measured beside published.

python tools/benchmark.py --methods pacl sclip clip --benchmarks voc20 ade20k \
    --checkpoint work_dirs/pacl_vitb16_cc12m/iter_30330.pth
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cli
from mmengine.logging import MMLogger

if TYPE_CHECKING:
    from pacl_mmseg.benchmark.grid import Cell

SMALL_WORLD = 'small_world'


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Evaluate methods on benchmarks')
    parser.add_argument(
        '--methods', nargs='+', required=True, help='e.g. pacl clip (README has all)'
    )
    parser.add_argument(
        '--benchmarks', nargs='+', required=True, help='e.g. voc20 (README has all)'
    )
    parser.add_argument(
        '--checkpoint',
        nargs='+',
        default=[],
        metavar='[METHOD=]FILE',
        help='checkpoint of the trained method, or of each of several',
    )
    parser.add_argument(
        '--gpus', type=int, default=1, help='processes that share each benchmark'
    )
    parser.add_argument(
        '--dry-run', action='store_true', help='say what would run and what is missing'
    )
    parser.add_argument(
        '--launcher', choices=('none', 'pytorch', 'slurm'), help='job launcher'
    )
    cli.add_arguments(
        parser,
        *('--protocol', '--subset', '--data-root'),
        *('--work-dir', '--cfg-options', '--traceback'),
    )
    parser.set_defaults(work_dir='work_dirs/benchmark')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    from pacl_mmseg.benchmark.grid import Launcher, run_cells
    from pacl_mmseg.benchmark.tables import markdown, write_tables

    if args.gpus < 1:
        raise ValueError(f'--gpus must be at least 1, not {args.gpus}.')
    if args.launcher is None:
        args.launcher = 'pytorch' if args.gpus > 1 else 'none'
    if args.launcher == 'none' and args.gpus > 1:
        raise ValueError(f'--gpus {args.gpus} needs --launcher pytorch or slurm.')
    cli.set_data_root(args)
    cells = grid(args)
    if args.dry_run:
        print(plan(cells))
        if any(cell.missing(fetch=False) for cell in cells if cell.record() is None):
            sys.exit(1)
        return
    work_dir = Path(args.work_dir)
    failures = run_cells(
        cells,
        work_dir,
        Launcher(args.launcher, args.gpus),
        lambda failures: write_tables(work_dir, rows(cells, failures)),
    )
    print(f'\n{markdown(rows(cells, failures))}')
    print(f'{work_dir} has results.md, results.csv, results.json and chart.png.')
    if failures:
        sys.exit(f'\n{len(failures)} of {len(cells)} failed; run again to retry them.')


def grid(args: argparse.Namespace) -> list[Cell]:
    """The cells that the arguments ask for; every name is checked first."""
    from pacl_mmseg.benchmark import BENCHMARKS, METHODS, PROTOCOLS, compose
    from pacl_mmseg.benchmark.grid import Cell
    from pacl_mmseg.utils import check_name

    for method in args.methods:
        check_name('method', method, METHODS)
    for benchmark in args.benchmarks:
        check_name('benchmark', benchmark, BENCHMARKS)
    protocol = args.protocol or 'sclip'
    check_name('protocol', protocol, PROTOCOLS)
    if args.protocol and SMALL_WORLD in args.benchmarks:
        raise ValueError(f'{SMALL_WORLD} has its own protocol: leave --protocol out.')
    checkpoints, options = checkpoints_of(args), cli.options_from(args)
    with quiet():
        return [
            Cell(
                f'{benchmark}/{method}',
                compose(method, benchmark, protocol, options),
                Path(args.work_dir),
                checkpoints.get(method),
            )
            for benchmark in dict.fromkeys(args.benchmarks)
            for method in dict.fromkeys(args.methods)
        ]


def checkpoints_of(args: argparse.Namespace) -> dict[str, str]:
    """The checkpoint of each trained method that is asked for."""
    from pacl_mmseg.benchmark import METHODS
    from pacl_mmseg.utils import check_name

    trained = [name for name in dict.fromkeys(args.methods) if METHODS[name].trained]
    checkpoints: dict[str, str] = {}
    for item in args.checkpoint:
        method, given, file = item.partition('=')
        if not given or '/' in method:  # a path, without a method
            if len(trained) != 1:
                raise ValueError(
                    f'--checkpoint {item} does not say of which method it is: give '
                    'METHOD=FILE.'
                )
            method, file = trained[0], item
        check_name('method', method, METHODS)
        if method not in trained or method in checkpoints:
            what = (
                'is given twice'
                if method in trained
                else 'is not evaluated, or not trained'
            )
            raise ValueError(f'--checkpoint {item}: {method} {what}.')
        checkpoints[method] = file
    for method in trained:
        if method not in checkpoints:
            raise ValueError(
                f'{method} has trained parts: give --checkpoint {method}=FILE.'
            )
    return checkpoints


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """MMEngine remarks on every environment variable in every config; not here."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('WARNING')
    try:
        yield
    finally:
        logger.setLevel(level)


def plan(cells: Sequence[Cell]) -> str:
    """What a dry run says: what would run, and what is missing, each thing once."""
    numbers: dict[str, int] = {}
    lines = []
    for cell in cells:
        state = 'finished'
        if cell.record() is None:
            missing = cell.missing(fetch=False)
            marks = [f'[{numbers.setdefault(m, len(numbers) + 1)}]' for m in missing]
            state = ' '.join(['missing', *marks]) if marks else 'would run'
        lines.append(f'{cell.name}: {state}')
    return '\n'.join([*lines, *(f'[{n}] {m}' for m, n in numbers.items())])


def rows(cells: Sequence[Cell], failures: Mapping[Cell, str]) -> list[dict]:
    """The lines of the table."""
    from pacl_mmseg.benchmark.tables import table_row

    lines = []
    for cell in cells:
        benchmark, method = cell.name.split('/')
        lines.append(table_row(method, benchmark, cell.record(), failures.get(cell)))
    return lines


if __name__ == '__main__':
    cli.run(main)
