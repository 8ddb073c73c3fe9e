"""What several converters read official annotations with."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType


def require(name: str) -> ModuleType:
    """Import a module of a package that nothing but data preparation needs.

    Raises:
        ImportError: The package is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition('.')[0]
        raise ImportError(
            f'This conversion needs {package}: `pip install {package}`.'
        ) from error


def read_names(path: Path) -> list[str]:
    """Read a list of images, one name per line.

    Raises:
        ValueError: It is no such list, or empty.
    """
    try:
        names = path.read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f'{path} is not a list of images ({error})') from error
    if not names:
        raise ValueError(f'{path} lists no images')
    return names
