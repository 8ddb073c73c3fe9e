"""ADE20K with 847 classes, from the full ADE20K (2021_17_01)."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import mmcv
import numpy as np
from PIL import Image

from pacl_mmseg.datasets.large_vocabulary import ADE20K_847_IDS, IGNORE_INDEX
from pacl_mmseg.datasets.preparation.layout import Layout
from pacl_mmseg.datasets.preparation.writing import Job
from pacl_mmseg.datasets.transforms.loading import IMAGE_FORMATS

_SHORT_SIDE = 512


def ade847_jobs(layout: Layout, source: Path | None) -> list[Job]:
    """Images and 16-bit masks as MaskFormer prepares them.

    Both are scaled to a short side of at most 512; the masks hold 0 to 846, and 65535
    where there is none of the 847 classes. Same as
    ``datasets/prepare_ade20k_full_sem_seg.py`` of facebookresearch/MaskFormer, but the
    images are found by their names: the pickled index of the download, which could run
    any code, is left alone.

    Args:
        layout: Where the benchmark lies.
        source: Folder of the validation images and annotations, with any folders
            inside; default: ``images/ADE/validation`` in the root.

    Raises:
        FileNotFoundError: There are no such images.
    """
    folder = source or layout.root / 'images' / 'ADE' / 'validation'
    images = sorted(folder.rglob('ADE_val_*.jpg'))
    if not images:
        raise FileNotFoundError(
            f'There are no images ADE_val_*.jpg in {folder}: unpack ADE20K_2021_17_01 '
            f'so that this folder is there, or name it by --source.'
        )
    jobs = [Job(layout.images / image.name, _image, image) for image in images]
    for image in images:
        annotation = image.with_name(f'{image.stem}_seg.png')
        jobs.append(Job(layout.masks / f'{image.stem}.tif', _mask, annotation))
    return jobs


def _image(path: Path) -> np.ndarray:
    """``(H, W, 3)``, or ``(H, W)`` if it is grey."""
    return _scaled(np.array(Image.open(path, formats=IMAGE_FORMATS)), 'bilinear')


def _mask(path: Path) -> np.ndarray:
    """Labels 0 to 846, and 65535: ``(H, W)``, uint16."""
    # Red and green number the object's class, blue its instance.
    picture = np.array(Image.open(path, formats=IMAGE_FORMATS), dtype=np.int64)
    red, green, _ = np.moveaxis(picture, -1, 0)
    return _scaled(_labels()[red // 10 * 256 + green], 'nearest')


def _scaled(picture: np.ndarray, interpolation: str) -> np.ndarray:
    height, width = picture.shape[:2]
    if (short := min(height, width)) > _SHORT_SIDE:
        size = round(width / short * _SHORT_SIDE), round(height / short * _SHORT_SIDE)
        picture = mmcv.imresize(picture, size, interpolation=interpolation)
    return picture


@lru_cache
def _labels() -> np.ndarray:
    """The label of each class number of an annotation: ``(6656,)``, uint16."""
    table = np.full(26 * 256, IGNORE_INDEX, dtype=np.uint16)
    table[list(ADE20K_847_IDS)] = np.arange(len(ADE20K_847_IDS))
    return table
