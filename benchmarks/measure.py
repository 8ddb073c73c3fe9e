"""What the scripts beside this one share: options and turns."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch


def parser(description: str) -> argparse.ArgumentParser:
    """The options that all have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = 'cuda' if torch.cuda.is_available() else 'cpu'
    parser.add_argument('--device', choices=('cpu', 'cuda'), default=default)
    parser.add_argument('--repeat', type=int, default=5, help='timed turns')
    parser.add_argument(
        '--threads', type=int, default=torch.get_num_threads(), help='of the CPU'
    )
    parser.add_argument('--json', type=Path, help='file for the results')
    return parser


def medians(
    jobs: Mapping[str, Callable[[], object]], device: str, repeat: int, steps: int = 1
) -> dict[str, float]:
    """Median seconds of each job.

    They take turns, each ``steps`` times in a row, ``repeat`` times after one turn to
    warm up. On a CPU with one thread it is the process' own time, which other programs
    disturb less.
    """
    alone = device == 'cpu' and torch.get_num_threads() == 1

    def now() -> float:
        if device == 'cuda':
            torch.cuda.synchronize()
        return time.process_time() if alone else time.perf_counter()

    taken: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(repeat + 1):
        for name, job in jobs.items():
            start = now()
            for _ in range(steps):
                job()
            taken[name].append((now() - start) / steps)
    return {name: statistics.median(values[1:]) for name, values in taken.items()}
