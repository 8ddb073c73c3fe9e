"""Runs whose results are tabulated: configs trained and tested, each in its process.

What a cell measured is what its ``result.json`` says, written by ``tools/test.py``.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shlex
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from mmengine.config import Config

from pacl_mmseg.benchmark.missing import missing_data, missing_weights
from pacl_mmseg.benchmark.protocols import subset_in_words
from pacl_mmseg.benchmark.results import (
    TRAINED,
    config_sha256,
    file_sha256,
    read_result,
)
from pacl_mmseg.paths import TOOLS


@dataclass(frozen=True)
class Launcher:
    """How a tool is started.

    Args:
        name: ``none``, ``pytorch`` (``torchrun`` on this machine) or ``slurm``
            (``srun``); as in ``tools/slurm_train.sh``, ``GPUS_PER_NODE`` (0 for none),
            ``CPUS_PER_TASK`` and ``SRUN_ARGS`` (such as ``-p PARTITION``) are taken
            from the environment.
        processes: How many, each with a GPU where there are any.
    """

    name: str = 'none'
    processes: int = 1

    def command(self, tool: str, *arguments: str | Path) -> list[str]:
        """The command line that starts a tool with these arguments."""
        python, start = [sys.executable, '-u'], []
        if self.name == 'pytorch':
            python += ['-m', 'torch.distributed.run', '--standalone']
            python += [f'--nproc_per_node={self.processes}']
        elif self.name == 'slurm':
            per_node = min(self.processes, int(os.environ.get('GPUS_PER_NODE', '4')))
            gpus = [f'--gres=gpu:{per_node}', f'--ntasks-per-node={per_node}']
            start = [
                *('srun', f'--ntasks={self.processes}', *(gpus if per_node else [])),
                f'--cpus-per-task={os.environ.get("CPUS_PER_TASK", "8")}',
                '--kill-on-bad-exit=1',
                *shlex.split(os.environ.get('SRUN_ARGS', '')),
            ]
        whole = [TOOLS / tool, *arguments, '--launcher', self.name]
        return [*start, *python, *map(str, whole)]

    def run(
        self, tool: str, config: Config, path: Path, *arguments: str | Path
    ) -> str | None:
        """Run a tool on a config, with ``log.txt`` and results beside it.

        Args:
            tool: Its file in ``tools``.
            config: What it gets.
            path: File to write the config to.
            arguments: More for the tool.

        Returns:
            None, or why it failed.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        config.dump(path)
        log = path.with_name('log.txt')
        command = self.command(tool, path, *arguments, '--work-dir', path.parent)
        with (
            log.open('wb') as file,
            subprocess.Popen(command, stdout=file, stderr=file) as process,
        ):
            try:
                status = process.wait()
            except BaseException:  # interrupted: leave no process behind
                process.terminate()
                process.wait()  # a training writes a checkpoint
                raise
        return _reason(log, status) if status else None


@dataclass(frozen=True, eq=False)
class Training:
    """A run of ``tools/train.py``, whose last checkpoint cells test.

    Args:
        config: What is run.
        folder: Where.
    """

    config: Config
    folder: Path

    @functools.cached_property
    def file(self) -> Path:
        """The config as it was run; of another content, it has another name."""
        return self.folder / f'config_{config_sha256(self.config, TRAINED)[:8]}.py'

    @property
    def checkpoint(self) -> Path:
        """What it ends with."""
        return self.folder / f'iter_{self.config.train_cfg.max_iters}.pth'

    def run(self, launcher: Launcher) -> str | None:
        """Train, or go on training, if that is not done; returns why it failed."""
        if not self.file.is_file() and any(self.folder.glob('iter_*.pth')):
            return f'{self.folder} has the checkpoints of another config: remove it.'
        if self.checkpoint.is_file():
            return None
        return launcher.run('train.py', self.config, self.file, '--resume')


@dataclass(frozen=True, eq=False)
class Cell:
    """One measurement: a config, tested.

    Args:
        name: What it is called, and where below ``work_dir`` it is.
        config: What is tested.
        work_dir: Of all cells.
        weights: Checkpoint, or the training that makes it, or None.
        arguments: Further ones of ``tools/test.py``.
    """

    name: str
    config: Config
    work_dir: Path
    weights: str | Training | None = None
    arguments: tuple[str, ...] = ()

    def missing(self, fetch: bool) -> list[str]:
        """What it lacks, one sentence each; see :mod:`pacl_mmseg.benchmark.missing`."""
        given = isinstance(self.weights, str) and not os.path.isfile(self.weights)
        found = (
            f'There is no checkpoint {self.weights}.' if given else None,
            missing_data(self.config),
            missing_weights(self.config, fetch),
        )
        return [sentence for sentence in found if sentence]

    @property
    def checkpoint(self) -> str | None:
        """The file of its weights."""
        trained = isinstance(self.weights, Training)
        return str(self.weights.checkpoint) if trained else self.weights

    @property
    def folder(self) -> Path:
        """Where its ``config.py``, ``log.txt`` and ``result.json`` are.

        Another protocol, option or checkpoint has another folder, so that no result is
        lost to the next.
        """
        weights = self.checkpoint
        if weights is not None and os.path.isfile(weights):
            weights = file_sha256(weights)
        if isinstance(self.weights, Training):
            weights = str(self.weights.file), weights
        key = hashlib.sha256(repr((self._config_sha256, weights)).encode()).hexdigest()
        return self.work_dir / self.name / key[:8]

    def record(self) -> dict[str, Any] | None:
        """Its result, if there is one; warns of all of its name that are no good."""
        found = None
        for path in sorted((self.work_dir / self.name).glob('*/result.json')):
            try:
                record = read_result(path)
            except ValueError as error:
                warnings.warn(f'Not taken up: {error}', stacklevel=2)
            else:
                found = record if path.parent == self.folder else found
        return found

    @functools.cached_property
    def _config_sha256(self) -> str:
        return config_sha256(self.config)

    def run(self, launcher: Launcher) -> str | None:
        """Train if need be and test; returns why it failed."""
        if isinstance(self.weights, Training) and (why := self.weights.run(launcher)):
            return why
        weights = [] if self.weights is None else [self.checkpoint]
        path = self.folder / 'config.py'
        failure = launcher.run('test.py', self.config, path, *weights, *self.arguments)
        if failure or self.record() is not None:
            return failure
        return f'it wrote no result.json in {self.folder}'


def run_cells(
    cells: Sequence[Cell],
    work_dir: Path,
    launcher: Launcher,
    refresh: Callable[[Mapping[Cell, str]], None] = lambda failures: None,
) -> dict[Cell, str]:
    """Run the cells that are not finished; one that fails does not stop the others.

    Args:
        cells: All cells.
        work_dir: Theirs, which is locked meanwhile.
        launcher: How each is started.
        refresh: Called before the first and after every cell with the failures so far.

    Returns:
        Why cells failed.

    Raises:
        ValueError: Something is missing, or another process runs cells there.
        SystemExit: SIGINT or SIGTERM came; what is finished is kept.
    """
    todo = [cell for cell in cells if cell.record() is None]
    missing = dict.fromkeys(x for cell in todo for x in cell.missing(fetch=True))
    if missing:
        raise ValueError(f'Nothing was started. {" ".join(missing)}')
    work_dir.mkdir(parents=True, exist_ok=True)
    finished, failures = len(cells) - len(todo), {}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with FileLock(work_dir / '.lock', timeout=0):
            print(f'{len(cells)} to evaluate, {finished} finished before.')
            refresh(failures)
            for number, cell in enumerate(todo, finished + 1):
                title, start = f'[{number}/{len(cells)}] {cell.name}', time.monotonic()
                print(f'{title}: running, with log.txt below {work_dir}', flush=True)
                if failure := cell.run(launcher):
                    failures[cell], said = failure, f'failed: {failure}'
                else:
                    record = cell.record()
                    images = subset_in_words(record['protocol'])
                    said = f'{_headline(record["metrics"])} on {images}'
                print(f'{title}: {said} in {time.monotonic() - start:.0f} s')
                refresh(failures)
    except Timeout:
        raise ValueError(f'Another run goes on in {work_dir}.') from None
    except KeyboardInterrupt:
        sys.exit('\nStopped; run again to go on.')
    return failures


def _headline(metrics: Mapping[str, float]) -> str:
    shown = ('mIoU', 'accuracy/top1', 'i2t/retrieval/Recall@1')
    name = next((name for name in shown if name in metrics), shown[0])
    return f'{name} {metrics.get(name)}'


def _reason(log: Path, status: int) -> str:
    """Why a process failed, from its log: our own sentence if it got to say one."""
    lines = log.read_text(errors='replace').splitlines()
    said = [line for line in lines if line.startswith('Error: ')]
    what = said[-1].removeprefix('Error: ') if said else f'exit status {status}'
    return f'{what} (see {log})'
