"""Convert official downloads to what the benchmarks' configs load, and check them.

docs/datasets.md says what to download and where to unpack it. Only validation splits
are converted. Started again, this goes on with what is missing.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import check_data
import cli


def main(argv: Sequence[str] | None = None) -> bool:
    """Convert benchmarks; returns whether all are usable."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('benchmarks', nargs='+', help='names (docs/datasets.md)')
    parser.add_argument(
        '--source',
        help='official annotations, if not where docs/datasets.md puts them',
    )
    parser.add_argument(
        '--nproc', type=int, default=os.cpu_count(), help='number of processes'
    )
    parser.add_argument(
        '--overwrite', action='store_true', help='also convert what is there already'
    )
    args = check_data.parse(parser, argv)
    from pacl_mmseg.datasets.preparation import CONVERTERS, prepare_benchmark

    if args.source and len(args.benchmarks) > 1:
        raise ValueError('--source belongs to one benchmark: prepare them one by one.')
    for name in args.benchmarks:
        if name in CONVERTERS:
            summary = prepare_benchmark(
                name, args.source, nproc=args.nproc, overwrite=args.overwrite
            )
            print(f'{name}: {summary}', flush=True)
        else:
            print(f'{name} is loaded as downloaded: nothing to convert', flush=True)
    return check_data.report(args.benchmarks)


if __name__ == '__main__':
    cli.run(lambda: main() or sys.exit(1))
