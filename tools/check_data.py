"""Check the benchmarks' data: there, complete, correctly converted?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence

import cli
from mmengine.logging import MMLogger


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> argparse.Namespace:
    """Parse arguments, among them those that the data tools share, and act on these.

    Raises:
        ValueError: There is no such benchmark.
    """
    cli.add_arguments(parser, '--data-root', '--traceback')
    args = parser.parse_args(argv)
    from pacl_mmseg.datasets.preparation import OFFICIAL
    from pacl_mmseg.utils import check_name

    cli.set_data_root(args)
    # A config says each time that it read PACL_DATA_ROOT.
    MMLogger.get_current_instance().setLevel('WARNING')
    for name in args.benchmarks:
        check_name('benchmark', name, OFFICIAL)
    args.benchmarks = args.benchmarks or [*OFFICIAL]
    return args


def report(
    benchmarks: Iterable[str], sample: int | None = 100, subset: int | None = None
) -> bool:
    """Print a verdict on each benchmark; returns whether all are usable."""
    from pacl_mmseg.datasets.preparation import check_benchmark

    usable = True
    for name in benchmarks:
        verdict = check_benchmark(name, sample=sample, subset=subset)
        print(verdict, flush=True)
        usable &= verdict.usable
    return usable


def main(argv: Sequence[str] | None = None) -> bool:
    """Check benchmarks; returns whether all are usable."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'benchmarks', nargs='*', help='names (docs/datasets.md); by default all'
    )
    parser.add_argument(
        '--all', action='store_true', help='read every image and mask, not just 100'
    )
    cli.add_arguments(parser, '--subset')
    args = parse(parser, argv)
    sample = None if args.all else 100
    return report(args.benchmarks, sample, args.subset)


if __name__ == '__main__':
    cli.run(lambda: main() or sys.exit(1))
