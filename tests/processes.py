"""Processes of their own for tests, without the seconds that imports take.

A server that has imported everything forks each of them (multiprocessing's
``forkserver``): as cold as any process, but for what importing leaves.
"""

from __future__ import annotations

import gc
import multiprocessing.connection
import os
import runpy
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_CONTEXT = multiprocessing.get_context('forkserver')
_CONTEXT.set_forkserver_preload(['mmengine.runner', 'mmseg.apis', 'pacl_mmseg'])


@dataclass
class Done:
    """What a process left: as ``subprocess.CompletedProcess``."""

    returncode: int
    stdout: str
    stderr: str


class Process:
    """A started process.

    Args:
        function, arguments: What it runs; both must pickle.
        env: Environment variables that it has besides those here.
        cwd: Where it runs.
    """

    def __init__(
        self,
        function: Callable,
        *arguments: object,
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
    ) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.process: BaseProcess = _CONTEXT.Process(
            target=_child,
            args=(
                function,
                arguments,
                {**os.environ, **(env or {})},
                str(cwd),
                self.folder.name,
            ),
        )
        self.process.start()
        self.pid = self.process.pid

    def output(self, name: str) -> str:
        """What ``'stdout'`` or ``'stderr'`` has so far."""
        path = Path(self.folder.name, name)
        return path.read_text() if path.exists() else ''

    def wait(self, timeout: float = 300) -> Done:
        """Its end; a process that has none by then is killed, and an error."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError(f'Still running after {timeout} s.')
        done = Done(self.process.exitcode, self.output('stdout'), self.output('stderr'))
        self.folder.cleanup()
        return done


def tool(name: str, *arguments: object, **options: object) -> Done:
    """Run a script of ``tools/`` to its end; ``options`` are those of a process."""
    return Process(script, name, [*map(str, arguments)], **options).wait()


def ranks(
    function: Callable, processes: int, *arguments: object, patience: float = 30
) -> list[Done]:
    """Run a function in so many processes of one job, with torchrun's environment.

    Where one fails, the others are killed after ``patience`` seconds, as launchers do;
    so is a job that hangs.
    """
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(processes):
        job = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=processes, MASTER_PORT=port)
        env = {'MASTER_ADDR': '127.0.0.1', **{k: str(v) for k, v in job.items()}}
        started.append(Process(function, *arguments, env=env))
    children = [one.process for one in started]
    end = time.monotonic() + 300
    while alive := [child.sentinel for child in children if child.is_alive()]:
        multiprocessing.connection.wait(alive, end - time.monotonic())
        if any(child.exitcode for child in children) or time.monotonic() > end:
            for child in children:
                child.join(patience)
                child.kill()
                child.join()
    return [one.wait() for one in started]


def _child(
    function: Callable, arguments: Sequence, env: Mapping, cwd: str, folder: str
) -> None:
    for number, name in ((1, 'stdout'), (2, 'stderr')):
        file = os.open(os.path.join(folder, name), os.O_CREAT | os.O_WRONLY)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    gc.freeze()  # as conftest.py does
    function(*arguments)


def script(name: str, arguments: list[str]) -> None:
    """Run a script of ``tools/`` in this process."""
    path = ROOT / 'tools' / name
    sys.argv = [str(path), *arguments]
    sys.path.insert(0, str(ROOT / 'tools'))
    runpy.run_path(str(path), run_name='__main__')
