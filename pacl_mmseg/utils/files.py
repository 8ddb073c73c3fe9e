"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """Write a file such that nobody ever finds a part of it under its name.

    The block writes the path that it is given, a hidden one beside ``path`` with the
    same ending, of this process alone. If the block ends well, its content is brought
    to the disk and takes the place of ``path`` at once; else it is removed.

    Args:
        path: The file; its folder exists.

    Raises:
        OSError: As writing does; what was at ``path`` is still there.
    """
    path = Path(path)
    part = path.with_name(f'.{os.getpid()}.{path.name}')
    try:
        yield part
        with part.open('rb+') as file:  # else the name may outlive the content
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
