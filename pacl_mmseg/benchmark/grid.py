"""The cells of a benchmark run, methods x benchmarks: each a process of its own."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from mmengine.config import Config

from pacl_mmseg.benchmark.missing import (
    missing_checkpoint,
    missing_data,
    missing_weights,
)
from pacl_mmseg.benchmark.results import config_sha256, file_sha256

LAUNCHERS = ('none', 'pytorch', 'slurm')
# What MMEngine logs while it tests.
PROGRESS = re.compile(
    r'Iter\(test\) \[ *(?P<done>\d+)/(?P<all>\d+)\] +'
    r'eta: ((?P<days>\d+) days?, )?(?P<clock>\d+:\d+:\d+)'
)


@dataclass(frozen=True, eq=False)
class Cell:
    """One method on one benchmark.

    Args:
        method, benchmark: Their names.
        config: What is run.
        checkpoint: Of a trained method, else None.
        work_dir: Of the whole run.
    """

    method: str
    benchmark: str
    config: Config
    checkpoint: str | None
    work_dir: Path

    def __str__(self) -> str:
        return f'{self.benchmark} {self.method}'

    def missing(self, fetch: bool) -> list[str]:
        """What it lacks, one sentence each; see :mod:`pacl_mmseg.benchmark.missing`."""
        found = (
            missing_checkpoint(self.method, self.checkpoint),
            missing_data(self.config),
            missing_weights(self.config, fetch),
        )
        return [sentence for sentence in found if sentence]

    @property
    def folder(self) -> Path:
        """Where its ``config.py``, ``log.txt`` and ``result.json`` are.

        Another protocol, option or checkpoint has another folder, so that no result is
        lost to the next.
        """
        key = hashlib.sha256(repr(self._identity).encode()).hexdigest()[:8]
        return self.work_dir / self.benchmark / self.method / key

    def record(self) -> dict[str, Any] | None:
        """Its result, if there is one of this very config and checkpoint."""
        try:
            record = json.loads((self.folder / 'result.json').read_text())
            checkpoint = record['checkpoint'] or {}
            made_by = record['config_sha256'], checkpoint.get('sha256')
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None  # none, half a one, or of another version
        return record if made_by == self._identity else None

    @functools.cached_property
    def _identity(self) -> tuple[str, str | None]:
        """Hashes of its config and, if that is there, its checkpoint."""
        known = self.checkpoint is not None and os.path.isfile(self.checkpoint)
        weights = file_sha256(self.checkpoint) if known else None
        return config_sha256(self.config), weights

    def run(
        self, launcher: Launcher, report: Callable[[int, int, timedelta], None]
    ) -> str | None:
        """Test it, in one or more processes of its own.

        Args:
            launcher: How they are started.
            report: Called with batches done, batches in all and the time that the rest
                will take.

        Returns:
            None, or why it failed.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        config, log = self.folder / 'config.py', self.folder / 'log.txt'
        self.config.dump(config)
        weights = [] if self.checkpoint is None else [self.checkpoint]
        command = launcher.command(config, *weights, '--work-dir', self.folder)
        with (
            log.open('w') as file,
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors='replace',
            ) as process,
        ):
            try:
                for line in process.stdout:
                    file.write(line)
                    file.flush()
                    if match := PROGRESS.search(line):
                        report(int(match['done']), int(match['all']), _time(match))
            except BaseException:  # interrupted: leave no process behind
                process.terminate()
                raise
        if process.returncode == 0 and self.record() is not None:
            return None
        return _reason(log, process.returncode)


@dataclass(frozen=True)
class Launcher:
    """How a tool is started.

    Args:
        name: One of :data:`LAUNCHERS`. ``pytorch`` is ``torchrun`` on this machine.
            ``slurm`` is ``srun``; as in ``tools/slurm_train.sh``, ``GPUS_PER_NODE``,
            ``CPUS_PER_TASK`` and ``SRUN_ARGS`` (such as ``-p PARTITION``) are taken
            from the environment.
        processes: How many, each with a GPU where there are any.
        tool: ``tools/test.py``.
    """

    name: str
    processes: int
    tool: Path

    def command(self, *arguments: str | Path) -> list[str]:
        """The command line that starts the tool with these arguments."""
        python, start = [sys.executable, '-u'], []
        if self.name == 'pytorch':
            python += ['-m', 'torch.distributed.run', '--standalone']
            python += [f'--nproc_per_node={self.processes}']
        elif self.name == 'slurm':
            per_node = min(self.processes, int(os.environ.get('GPUS_PER_NODE', '4')))
            start = [
                *('srun', f'--gres=gpu:{per_node}', f'--ntasks={self.processes}'),
                f'--ntasks-per-node={per_node}',
                f'--cpus-per-task={os.environ.get("CPUS_PER_TASK", "8")}',
                '--kill-on-bad-exit=1',
                *shlex.split(os.environ.get('SRUN_ARGS', '')),
            ]
        tool = [self.tool, *arguments, '--launcher', self.name]
        return [*start, *python, *map(str, tool)]


class Progress:
    """Says how far a run is: in one line of a terminal, elsewhere once a minute.

    Args:
        cells: How many cells there are.
        finished: How many of them were finished before.
    """

    def __init__(self, cells: int, finished: int) -> None:
        self.cells = cells
        self.finished = finished
        self.seconds: list[float] = []  # that each cell of this run took
        self.terminal = sys.stdout.isatty()

    def start(self, cell: Cell) -> None:
        """A cell begins."""
        self.title = f'[{self.finished + 1}/{self.cells}] {cell}'
        self.started = time.monotonic()
        self.shown = -math.inf
        self._show('starting')

    def update(self, done: int, batches: int, rest: timedelta) -> None:
        """It has done so many batches and will take so long for the rest."""
        whole = time.monotonic() - self.started + rest.total_seconds()
        mean = statistics.fmean([*self.seconds, whole])
        left = rest.total_seconds() + mean * (self.cells - self.finished - 1)
        self._show(f'batch {done}/{batches}, {rest} left; in all {_hours(left)} left')

    def end(self, outcome: str) -> None:
        """It is done, or failed."""
        self.seconds.append(time.monotonic() - self.started)
        self.finished += 1
        self._print(f'{outcome} in {_hours(self.seconds[-1])}', end='\n')

    def _show(self, text: str) -> None:
        if self.terminal:
            self._print(text, end='')
        elif time.monotonic() - self.shown >= 60:
            self.shown = time.monotonic()
            self._print(text, end='\n')

    def _print(self, text: str, end: str) -> None:
        over = '\r\033[K' if self.terminal else ''
        print(f'{over}{self.title}: {text}', end=end, flush=True)


def run_cells(
    cells: Sequence[Cell],
    launcher: Launcher,
    refresh: Callable[[Mapping[Cell, str]], None],
) -> dict[Cell, str]:
    """Run the cells that are not finished; one that fails does not stop the others.

    Args:
        cells: All cells.
        launcher: How each is started.
        refresh: Called after every cell with the failures so far.

    Returns:
        Why cells failed.
    """
    todo = [cell for cell in cells if cell.record() is None]
    print(f'{len(cells)} to evaluate, {len(cells) - len(todo)} finished before.')
    progress = Progress(len(cells), len(cells) - len(todo))
    failures: dict[Cell, str] = {}
    for cell in todo:
        progress.start(cell)
        failure = cell.run(launcher, progress.update)
        if failure:
            failures[cell] = failure
            progress.end(f'failed: {failure}')
        else:
            progress.end(f'mIoU {cell.record()["metrics"].get("mIoU")}')
        refresh(failures)
    if not todo:
        refresh(failures)
    return failures


def _time(match: re.Match) -> timedelta:
    hours, minutes, seconds = map(int, match['clock'].split(':'))
    days = int(match['days'] or 0)
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)


def _hours(seconds: float) -> timedelta:
    return timedelta(seconds=round(seconds))


def _reason(log: Path, status: int) -> str:
    """Why a process failed, from its log: our own sentence if it got to say one."""
    lines = log.read_text(errors='replace').strip().splitlines()
    said = [line for line in lines if line.startswith('Error: ')]
    raised = [line for line in lines if re.match(r'[\w.]+Error: +\S', line)]
    what = (said or raised or lines or ['it wrote nothing'])[-1]
    if status < 0 and not said + raised:
        what = f'killed by signal {-status}, perhaps for want of memory'
    return f'{what.removeprefix("Error: ")} (see {log})'
