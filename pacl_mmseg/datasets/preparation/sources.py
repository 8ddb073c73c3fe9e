"""Reading official annotations."""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import mmseg
import numpy as np


@lru_cache
def mmseg_converter(name: str) -> ModuleType:
    """One of MMSegmentation's dataset converters, as a module.

    They are programs beside the package, ``tools/dataset_converters``, which its wheel
    carries along.

    Args:
        name: File name without ``.py``.

    """
    folder = Path(mmseg.__file__).parent / '.mim' / 'tools' / 'dataset_converters'
    spec = importlib.util.spec_from_file_location(name, folder / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def read_annotation(
    path: Path,
    shape: Mapping[str, Sequence[str]],
    keep: Callable[[dict], Any] | None = None,
) -> dict[str, list[dict]]:
    """Read an annotation file: JSON with lists of entries.

    Args:
        path: The file.
        shape: The lists it must have, and the keys of each one's entries.
        keep: Called with each object as soon as it is read; its result replaces the
            object. What it leaves out of a large file takes no memory, once the text,
            which is read at once, is gone.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It is not JSON, or not all of it, or is of another kind.
    """
    if not path.is_file():
        raise FileNotFoundError(f'There is no {path}; docs/datasets.md has the link.')
    try:
        with path.open() as file:
            content = json.load(file, object_hook=keep)
    except ValueError as error:
        raise ValueError(
            f'{path} is damaged or half-downloaded ({error}): download it again; '
            'docs/datasets.md has the link.'
        ) from error
    for name, keys in shape.items():
        entries = content.get(name) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(
            isinstance(entry, dict) and entry.keys() >= set(keys) for entry in entries
        ):
            raise ValueError(
                f'{path} is another kind of annotation: it has no {name!r} that each '
                f'have {", ".join(keys)}; docs/datasets.md has the link.'
            )
    return content


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


def decode_segmentation(segmentation: Any, height: int, width: int) -> np.ndarray:
    """Pixels inside a COCO segmentation: polygons, or run lengths of either kind.

    Returns:
        ``(height, width)``, bool.

    Raises:
        ImportError: pycocotools is not installed.
    """
    mask = require('pycocotools.mask')
    if isinstance(segmentation, list):
        segmentation = mask.merge(mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation['counts'], list):
        segmentation = mask.frPyObjects(segmentation, height, width)
    return mask.decode(segmentation).astype(bool)
