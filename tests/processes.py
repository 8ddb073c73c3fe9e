"""Processes of their own for tests, without the seconds that imports take.

A server that has imported everything forks each of them (multiprocessing's
``forkserver``): as cold as any process, but for what importing leaves.
"""

from __future__ import annotations

import multiprocessing
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
    function: Callable, processes: int, *arguments: object, timeout: float = 300
) -> list[Done]:
    """Run a function in so many processes of one job, with torchrun's environment.

    Where one fails the others are ended, as torchrun does.
    """
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    job = dict(
        MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), WORLD_SIZE=str(processes)
    )
    started = [
        Process(
            function,
            *arguments,
            env={**job, 'RANK': str(rank), 'LOCAL_RANK': str(rank)},
        )
        for rank in range(processes)
    ]
    end = time.monotonic() + timeout
    while any(one.process.exitcode is None for one in started):
        if time.monotonic() > end or any(one.process.exitcode for one in started):
            break
        time.sleep(0.05)
    for one in started:  # grace for those that are about to say why
        one.process.join(5 if any(o.process.exitcode for o in started) else 0)
        one.process.terminate()
    return [one.wait(30) for one in started]


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
    function(*arguments)


def script(name: str, arguments: list[str]) -> None:
    """Run a script of ``tools/`` in this process."""
    path = ROOT / 'tools' / name
    sys.argv = [str(path), *arguments]
    sys.path.insert(0, str(ROOT / 'tools'))
    runpy.run_path(str(path), run_name='__main__')
