"""Evaluate methods on benchmarks: tables and a chart, measured beside published.

python tools/benchmark.py --methods pacl sclip clip --benchmarks voc20 ade20k \
    --checkpoint pacl=work_dirs/pacl_vitb16_cc12m/iter_30330.pth

Whole images, for which methods differ in how they pool them, have a table of their own:

python tools/benchmark.py --methods clip clip_mean pacl --benchmarks classification \
    --checkpoint pacl=work_dirs/pacl_vitb16_cc12m/iter_30330.pth
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cli

if TYPE_CHECKING:
    from pacl_mmseg.benchmark.grid import Cell

SMALL_WORLD = 'small_world'
ALL_SETS = 'classification'


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Evaluate methods on benchmarks')
    parser.add_argument(
        '--methods', nargs='+', required=True, help='e.g. pacl clip (docs/benchmark.md)'
    )
    parser.add_argument(
        '--benchmarks',
        nargs='+',
        required=True,
        help='e.g. voc20 (docs/evaluation.md), or those of whole images '
        '(docs/classification.md)',
    )
    parser.add_argument(
        '--checkpoint',
        nargs='+',
        default=[],
        metavar='METHOD=FILE',
        help='checkpoint of each trained method',
    )
    parser.add_argument(
        '--encoder',
        default='vitb16',
        help='vitb16 (the default), vitl14, rn50 or dino_vitb16',
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
    from pacl_mmseg.benchmark import image_tables, tables
    from pacl_mmseg.benchmark.grid import Launcher, run_cells

    if args.gpus < 1:
        raise ValueError(f'--gpus must be at least 1, not {args.gpus}.')
    if args.launcher is None:
        args.launcher = 'pytorch' if args.gpus > 1 else 'none'
    if args.launcher == 'none' and args.gpus > 1:
        raise ValueError(f'--gpus {args.gpus} needs --launcher pytorch or slurm.')
    cli.set_data_root(args)
    cells = grid(args)
    if args.dry_run:
        sys.exit(plan(cells))
    work_dir = Path(args.work_dir)
    kind, extra = tables, dict(encoder=args.encoder)
    if whole_images(args.benchmarks):
        kind, extra = image_tables, {}

    def rows(failures: Mapping[Cell, str]) -> list[dict]:
        lines = []
        for cell in cells:
            benchmark, method = cell.name.split('/')
            found = cell.record(), failures.get(cell)
            lines.append(kind.table_row(method, benchmark, *found, **extra))
        return lines

    failures = run_cells(
        cells,
        work_dir,
        Launcher(args.launcher, args.gpus),
        lambda failures: kind.write_tables(work_dir, rows(failures)),
    )
    print(f'\n{kind.markdown(rows(failures))}')
    print(f'{work_dir} has {kind.FILES}.')
    if failures:
        sys.exit(f'\n{len(failures)} of {len(cells)} failed; run again to retry them.')


def grid(args: argparse.Namespace) -> list[Cell]:
    """The cells that the arguments ask for."""
    from pacl_mmseg.benchmark import (
        BENCHMARKS,
        CLASSIFICATION,
        CLASSIFIERS,
        IMAGE_LEVEL,
        METHODS,
        compose,
    )
    from pacl_mmseg.benchmark.grid import Cell
    from pacl_mmseg.utils import check_name

    whole = whole_images(args.benchmarks)
    known = CLASSIFIERS if whole else METHODS
    for benchmark in args.benchmarks:
        check_name('benchmark', benchmark, (*BENCHMARKS, *IMAGE_LEVEL, ALL_SETS))
    for method in args.methods:
        check_name('method', method, known)
    if whole and (args.protocol or {*BENCHMARKS} & {*args.benchmarks}):
        raise ValueError(
            'Benchmarks of whole images have protocols and a table of their own: leave '
            '--protocol and benchmarks of segmentation out.'
        )
    benchmarks = [
        name
        for given in args.benchmarks
        for name in (CLASSIFICATION if given == ALL_SETS else [given])
    ]
    if args.protocol and SMALL_WORLD in args.benchmarks:
        raise ValueError(f'{SMALL_WORLD} has its own protocol: leave --protocol out.')
    trained = {method for method in args.methods if known[method].trained}
    pairs = (item.partition('=')[::2] for item in args.checkpoint)
    checkpoints = {method: cli.find_shipped(file) for method, file in pairs}
    if len(checkpoints) < len(args.checkpoint):
        raise ValueError('--checkpoint names a method twice: give one file for each.')
    if checkpoints.keys() != trained:
        wanted = ' '.join(f'{method}=FILE' for method in sorted(trained))
        raise ValueError(
            f'Give --checkpoint {wanted}: the trained methods, and no others.'
            if wanted
            else 'None of these methods has trained parts: leave --checkpoint out.'
        )
    options = cli.options_from(args)
    # MMEngine remarks on every environment variable in every config; not here.
    logging.disable(logging.INFO)
    try:
        return [
            Cell(
                f'{benchmark}/{method}',
                compose(
                    method, benchmark, args.protocol or 'sclip', options, args.encoder
                ),
                Path(args.work_dir),
                checkpoints.get(method),
            )
            for benchmark in dict.fromkeys(benchmarks)
            for method in dict.fromkeys(args.methods)
        ]
    finally:
        logging.disable(logging.NOTSET)


def plan(cells: Sequence[Cell]) -> int:
    """Say what would run and what is missing; returns whether something is."""
    everything = {}
    for cell in cells:
        state = 'finished'
        if cell.record() is None:
            missing = cell.missing(fetch=False)
            everything |= dict.fromkeys(missing)
            state = 'something is missing' if missing else 'would run'
        print(f'{cell.name}: {state}')
    for sentence in everything:
        print(sentence)
    return int(bool(everything))


def whole_images(benchmarks: Sequence[str]) -> bool:
    """Whether any of these benchmarks is one of whole images."""
    from pacl_mmseg.benchmark import IMAGE_LEVEL

    return bool({*IMAGE_LEVEL, ALL_SETS} & {*benchmarks})


if __name__ == '__main__':
    cli.run(main)
