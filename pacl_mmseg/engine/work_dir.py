"""One training at a time in a work directory, and never over another run's files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from filelock import FileLock, Timeout
from mmengine.dist import all_gather_object, broadcast_object_list, is_main_process
from mmengine.runner import Runner

LOCK = '.lock'
JOB = '.job'  # which job may go on here by itself
STOPPED = 'stopped.txt'  # why no job may
# Data workers hold the lock of a process that was killed until they notice.
PATIENCE = 10.0


@contextmanager
def claimed(
    work_dir: str, resume: bool, load_from: str | None
) -> Iterator[tuple[bool, str | None]]:
    """Have a work directory for a training; called on all ranks.

    A process that torchrun or slurm has started again goes on from the newest
    checkpoint, if it was its job that trained here last.

    Args:
        work_dir: The directory.
        resume: Whether to go on from ``load_from``, or else the newest checkpoint.
        load_from: A checkpoint to resume, or to start from.

    Yields:
        Whether to resume, and what to load, in place of the arguments.

    Raises:
        RuntimeError: Another training is at work here; or there are checkpoints of a
            run that is not to be resumed; or it is not to be started again by itself.
    """
    restarted = any(all_gather_object(_is_restarted()))
    lock = FileLock(Path(work_dir, LOCK))
    outcome: list = [None]
    try:
        if is_main_process():
            try:
                lock.acquire(timeout=PATIENCE)
                outcome = [_decide(Path(work_dir), restarted, resume, load_from)]
            except Timeout:
                sentence = (
                    f'Another training is at work in {work_dir}: wait for its end, or '
                    'give another --work-dir.'
                )
                outcome = [RuntimeError(sentence)]
            except (RuntimeError, OSError) as error:
                outcome = [error]
        broadcast_object_list(outcome)
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        yield outcome[0]
    finally:
        lock.release()


def _decide(
    work_dir: Path, restarted: bool, resume: bool, load_from: str | None
) -> tuple[bool, str | None]:
    job, stopped, newest = work_dir / JOB, work_dir / STOPPED, latest(work_dir)
    own = job.exists() and job.read_text() == _job()
    if restarted:
        if stopped.exists():
            raise RuntimeError(f'Not started again: {stopped.read_text().strip()}')
        if not own:
            raise RuntimeError(
                f'Not started again: what is in {work_dir} is not of this job. Go on '
                'with it by --resume, or give another --work-dir.'
            )
        return (True, newest) if newest else (resume, load_from)
    if not resume and (newest or any(work_dir.glob('best_*.pth'))):
        if own:  # as the names of jobs on several nodes are used again
            job.unlink()
        raise RuntimeError(
            f'{work_dir} has checkpoints of an earlier run, which would be lost: go on '
            'with it by --resume, give another --work-dir, or remove them.'
        )
    if load_from and newest and Path(load_from).resolve() != Path(newest).resolve():
        raise RuntimeError(
            f'{newest} is another checkpoint than {load_from}, and would be mixed up '
            'with what comes: give another --work-dir, or remove it.'
        )
    job.write_text(_job())
    stopped.unlink(missing_ok=True)
    if resume and load_from is None:
        return newest is not None, newest
    return resume, load_from


def _is_restarted() -> bool:
    counts = ('TORCHELASTIC_RESTART_COUNT', 'SLURM_RESTART_COUNT')
    return any(int(os.environ.get(name) or 0) > 0 for name in counts)


def _job() -> str:
    """What stays the same when torchrun or slurm starts a job's processes again."""
    environ = os.environ
    return environ.get('SLURM_JOB_ID') or environ.get('TORCHELASTIC_RUN_ID') or ''


def stop_for_good(runner: Runner, what: str, more: str = '') -> NoReturn:
    """End training with an error that starting again does not mend.

    Processes that torchrun or slurm start again find a note, and end with it too; a
    person's ``--resume`` removes it.

    Raises:
        RuntimeError: What is wrong, and the remedy; always.
    """
    sentence = (
        f'{what}: training stops and writes nothing more; the last good checkpoint is '
        f'{last_good(runner)}. Lower the learning rate, or use bfloat16 in place of '
        f'float16, and continue with --resume.{more}'
    )
    if is_main_process():
        Path(runner.work_dir, STOPPED).write_text(f'{sentence}\n')
    raise RuntimeError(sentence)


def last_good(runner: Runner) -> str:
    """The newest checkpoint that this run, or the one it resumes, has written."""
    resumed = runner._load_from if runner._resume else None
    return latest(runner.work_dir) or resumed or 'none yet'


def latest(work_dir: str | os.PathLike) -> str | None:
    """The checkpoint of a work directory that is furthest in training.

    A run that is killed between writing a checkpoint and noting its name in
    ``last_checkpoint`` leaves a stale note, so the files themselves decide.
    """
    if files := regular_checkpoints(work_dir):
        return str(files[-1])
    note = Path(work_dir, 'last_checkpoint')  # where the hook's out_dir is elsewhere
    path = note.read_text().strip() if note.exists() else ''
    return path if Path(path).is_file() else None


def regular_checkpoints(folder: str | os.PathLike) -> list[Path]:
    """Those that training has written, in its order; not the best ones, nor copies."""
    names = (
        (re.fullmatch(r'(iter|epoch)_(\d+)\.pth', file.name), file)
        for file in Path(folder).glob('*.pth')
    )
    return [file for _, file in sorted((int(n[2]), file) for n, file in names if n)]
