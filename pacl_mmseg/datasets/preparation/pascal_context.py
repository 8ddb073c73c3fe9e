"""Pascal Context with 59, 60, and 459 classes, without the ``detail`` package."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from pacl_mmseg.datasets.large_vocabulary import IGNORE_INDEX
from pacl_mmseg.datasets.preparation.layout import Layout
from pacl_mmseg.datasets.preparation.sources import require
from pacl_mmseg.datasets.preparation.writing import Job
from pacl_mmseg.utils import whole_file

# fmt: off
CATEGORIES = (
    2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104,
    105, 113, 115, 144, 158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295,
    296, 308, 324, 326, 347, 349, 354, 355, 360, 366, 368, 397, 415, 416, 420, 424, 427,
    440, 445, 454, 458,
)
# fmt: on
"""Which of the 459 categories the 59 classes are, in their order; from MMSegmentation's
``tools/dataset_converters/pascal_context.py``."""

_NUM_CATEGORIES = 459
_ANNOTATION = 'trainval_merged.json'
_SEGMENT = ('image_id', 'category_id', 'segmentation')


def context_jobs(layout: Layout, source: Path | None) -> list[Job]:
    """Masks of Pascal Context, 0 to 59, from the annotation of PASCAL in Detail.

    Also writes the list of the validation images. The masks are those of MMSeg's
    converter, which wants ``detail`` for this: segments lie over one another in the
    order of the file (``Detail.getMask`` of zhanghang1989/detail-api), label 0 is the
    background.

    Args:
        layout: Where the benchmark lies.
        source: ``trainval_merged.json``; default: in the root.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: pycocotools is not installed.
        ValueError: The file is damaged, or another.
    """
    require('pycocotools')
    images = _read_annotation(source or layout.root / _ANNOTATION)
    _write_split(images, layout.split)
    return [
        Job(layout.masks / f'{name}.png', _context_labels, content)
        for name, content in images.items()
    ]


def context459_jobs(layout: Layout, source: Path | None) -> list[Job]:
    """16-bit masks of all 459 classes, 0 to 458, from the official label maps.

    Label maps count from 1; their 0, not annotated, becomes the ignored label. The
    validation images are those of the 59 classes, so this needs
    ``trainval_merged.json`` in the root, or the list that :func:`context_jobs` makes
    of it.

    Args:
        layout: Where the benchmark lies.
        source: Folder of label maps, ``trainval`` of the official ``trainval.tar.gz``;
            default: in the root.

    Raises:
        FileNotFoundError: There are no label maps, or nothing says which images are
            the validation split.
        ValueError: What should say that does not.
    """
    folder = source or layout.root / 'trainval'
    if not folder.is_dir():
        raise FileNotFoundError(
            f'There is no folder {folder}: unpack trainval.tar.gz of Pascal Context '
            f'in {layout.root}, or name the folder by --source.'
        )
    annotation = layout.root / _ANNOTATION
    if annotation.is_file() or not layout.split.exists():  # a wrong list is mended
        _write_split(_read_annotation(annotation), layout.split)
    names = layout.split.read_text().split()
    return [
        Job(layout.masks / f'{name}.tif', _context459_labels, folder / f'{name}.mat')
        for name in names
    ]


def _read_annotation(path: Path) -> dict[str, tuple[dict, list[dict]]]:
    """By name, the validation images and the segments of each."""
    if not path.is_file():
        raise FileNotFoundError(f'There is no {path}; docs/datasets.md has the link.')
    try:
        with path.open() as file:
            content = json.load(file, object_hook=_without_other_tasks)
    except ValueError as error:
        raise ValueError(
            f'{path} is damaged or half-downloaded ({error}): download it again; '
            'docs/datasets.md has the link.'
        ) from error
    segments = defaultdict(list)
    try:
        for segment in content['annos_segmentation']:
            segments[segment['image_id']].append(segment)
        return {
            Path(image['file_name']).stem: (image, segments[image['image_id']])
            for image in sorted(content['images'], key=lambda x: x['file_name'])
            if image['phase'] == 'val'
        }
    except (KeyError, TypeError) as error:
        raise ValueError(
            f'{path} is another kind of annotation, without the images and segments '
            'of PASCAL in Detail; docs/datasets.md has the link.'
        ) from error


def _write_split(names: Iterable[str], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        part.write_text(''.join(f'{name}\n' for name in names))


def _without_other_tasks(entry: dict) -> dict | None:
    """Keep what class masks need; most of the file is on parts and boundaries."""
    if 'annos_segmentation' in entry:  # the file as a whole
        return {key: entry.get(key) for key in ('images', 'annos_segmentation')}
    if 'phase' in entry:  # an image
        return entry
    if entry.keys() >= set(_SEGMENT):
        return {key: entry[key] for key in _SEGMENT}
    return entry if 'counts' in entry else None  # run lengths


def _context_labels(source: tuple[dict, list[dict]]) -> np.ndarray:
    """Labels 0 to 59: ``(H, W)``, uint8."""
    image, segments = source
    coco = require('pycocotools.coco').COCO()
    coco.imgs[image['image_id']] = image
    labels = np.zeros((image['height'], image['width']), dtype=np.uint8)
    for segment in segments:
        category = segment['category_id']
        if category not in CATEGORIES:
            raise ValueError(f'category {category} is none of the 59')
        labels[coco.annToMask(segment) > 0] = CATEGORIES.index(category) + 1
    return labels


def _context459_labels(path: Path) -> np.ndarray:
    """Labels 0 to 458, and 65535: ``(H, W)``, uint16."""
    with path.open('rb') as file:
        label_map = loadmat(file)['LabelMap'].astype(np.int64)
    if label_map.min() < 0 or label_map.max() > _NUM_CATEGORIES:
        raise ValueError(f'labels must be 0 to {_NUM_CATEGORIES}')
    return np.where(label_map == 0, IGNORE_INDEX, label_map - 1).astype(np.uint16)
