"""What the scripts beside this one share: options, turns, memory."""

from __future__ import annotations

import argparse
import itertools
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

Jobs = Mapping[str, Callable[[], object]]


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


def medians(jobs: Jobs, device: str, repeat: int, steps: int = 1) -> dict[str, float]:
    """Median seconds of each job.

    They take turns, each ``steps`` times in a row, ``repeat`` times after one turn to
    warm up. On a CPU with one thread it is the process' own time, which other programs
    disturb less.
    """
    alone = device == 'cpu' and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    taken: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(repeat + 1):
        for name, job in jobs.items():
            synchronize(device)
            start = clock()
            for _ in range(steps):
                job()
            synchronize(device)
            taken[name].append((clock() - start) / steps)
    return {name: statistics.median(values[1:]) for name, values in taken.items()}


def synchronize(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device == 'cuda':
        torch.cuda.synchronize()


def added_bytes(job: Callable[[], object], device: str) -> int:
    """What the tensors of a job add, at its peak, to the memory held before it.

    By CUDA's allocator, or on a CPU by all that PyTorch's allocates and frees, which
    its profiler records.
    """
    if device == 'cuda':
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        job()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(profile_memory=True) as profiler:
        job()
    events = profiler.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.nbytes())
    return max(itertools.accumulate((size for _, size in changes), initial=0))


def peak_bytes(device: str) -> int:
    """The most that this process has held: of CUDA's memory, or in all (Linux)."""
    if device == 'cuda':
        return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
