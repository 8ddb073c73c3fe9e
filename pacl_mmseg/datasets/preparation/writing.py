"""Writing converted files: many, whole or not at all, and only what is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.utils import track_iter_progress, track_progress
from PIL import Image

from pacl_mmseg.datasets.preparation.layout import has_content
from pacl_mmseg.utils import whole_file


class Job(NamedTuple):
    """An image to write: where, what draws it, and of what.

    Args:
        target: The file.
        draw: Makes an image, ``(H, W)`` or ``(H, W, 3)``, of the source. It may run in
            another process, so both must pickle.
        source: Its argument.
    """

    target: Path
    draw: Callable[[Any], np.ndarray]
    source: Any


@dataclass(frozen=True)
class Summary:
    """What became of the jobs.

    Args:
        written: Files written now.
        kept: Files that were there already.
        broken: For each input that could not be read, its target and the reason.
    """

    written: int
    kept: int
    broken: tuple[str, ...]

    def __str__(self) -> str:
        counts = (
            f'{self.written} files written, {self.kept} were there already, '
            f'{len(self.broken)} have broken sources'
        )
        return '\n'.join([counts, *(f'  {line}' for line in self.broken)])


def write_images(
    jobs: Sequence[Job], nproc: int = 1, overwrite: bool = False
) -> Summary:
    """Draw and save images one by one, with a progress bar.

    A file is there whole or not at all, whenever the program ends; started again, it
    goes on with what is missing. An input that cannot be read is reported and does not
    stop the others.

    Args:
        jobs: What to write.
        nproc: Number of processes.
        overwrite: Also write what is there already.

    Raises:
        ImportError: Drawing needs a package that is not installed.
        RuntimeError: One of the processes was killed.
    """
    pending = [job for job in jobs if overwrite or not has_content(job.target)]
    for folder in {job.target.parent for job in pending}:
        folder.mkdir(parents=True, exist_ok=True)
    if not pending:
        reasons = []
    elif nproc > 1:
        reasons = _in_processes(pending, nproc)
    else:
        reasons = track_progress(_write, pending)
    broken = tuple(reason for reason in reasons if reason)
    return Summary(
        written=len(pending) - len(broken),
        kept=len(jobs) - len(pending),
        broken=broken,
    )


def _in_processes(jobs: Sequence[Job], nproc: int) -> list[str | None]:
    try:
        with ProcessPoolExecutor(nproc) as pool:
            return list(track_iter_progress((pool.map(_write, jobs), len(jobs))))
    except BrokenProcessPool as error:
        raise RuntimeError(
            'A worker was killed, probably because memory ran out: what was written is '
            'kept; run this again with a smaller --nproc.'
        ) from error


def _write(job: Job) -> str | None:
    """Do a job; returns the reason if its source is broken."""
    try:
        image = Image.fromarray(job.draw(job.source))
    except ImportError:  # not the source's fault, and the same for all
        raise
    except (Exception, SystemExit) as error:  # readers raise, or exit, as they please
        return f'{job.target.name}: {type(error).__name__}: {error}'
    with whole_file(job.target) as part:
        image.save(part)
    return None
