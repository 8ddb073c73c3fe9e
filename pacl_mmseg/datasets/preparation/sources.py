"""What several converters read official annotations with."""

from __future__ import annotations

import importlib
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
