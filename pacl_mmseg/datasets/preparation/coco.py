"""COCO-Stuff and COCO-Object from COCO-Stuff's pixel maps."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import mmseg
import numpy as np
from PIL import Image

from pacl_mmseg.datasets.preparation.layout import Layout
from pacl_mmseg.datasets.preparation.writing import Job
from pacl_mmseg.datasets.transforms.loading import IMAGE_FORMATS

_NUM_THINGS = 80  # the first of COCO-Stuff's labels
_NO_LABEL = -1


def coco_stuff_jobs(layout: Layout, source: Path | None) -> list[Job]:
    """``_labelTrainIds`` masks of COCO-Stuff from its pixel maps.

    By the table of MMSeg's converter, which insists on the train split.

    Args:
        layout: Where the benchmark lies.
        source: Folder of ``stuffthingmaps_trainval2017``'s ``val2017`` pixel maps;
            default: the folder of the masks, where MMSeg wants them unpacked.

    Raises:
        FileNotFoundError: There are no pixel maps.
        ValueError: They are not of the images that are there.
    """
    return _jobs(_stuff_labels, '_labelTrainIds', layout, source)


def coco_object_jobs(layout: Layout, source: Path | None) -> list[Job]:
    """``_instanceTrainIds`` masks of COCO-Object: background and 80 things.

    The masks that GroupViT, TCL and SCLIP evaluate on: things keep their order, and
    stuff and unlabelled pixels become background.

    Args:
        layout: Where the benchmark lies.
        source: As for :func:`coco_stuff_jobs`.

    Raises:
        FileNotFoundError: There are no pixel maps.
        ValueError: They are not of the images that are there.
    """
    return _jobs(_object_labels, '_instanceTrainIds', layout, source)


def other_source(masks: Path) -> Path | None:
    """The note that COCO-Object's masks in a folder are not of pixel maps, if any.

    An earlier version, which also drew masks of COCO's instances, left it beside them.
    """
    note = masks / '.coco_object_source'
    if note.is_file() and note.read_text(errors='replace').strip() != 'pixel maps':
        return note
    return None


def remove_other_masks(masks: Path, overwrite: bool) -> None:
    """Remove COCO-Object's masks that are not of pixel maps, then their note.

    Args:
        masks: Folder of the masks.
        overwrite: Whether they may be removed.

    Raises:
        ValueError: There is such a note, and they may not.
    """
    if (note := other_source(masks)) is None:
        return
    if not overwrite:
        raise ValueError(
            f'The masks in {masks} were not drawn from pixel maps, says {note.name} '
            'there: --overwrite replaces them all.'
        )
    for path in [*masks.glob('*_instanceTrainIds.png'), note]:
        path.unlink()


def _jobs(
    draw: Callable[[Path], np.ndarray], suffix: str, layout: Layout, source: Path | None
) -> list[Job]:
    folder = source or layout.masks
    maps = sorted(
        path for path in folder.glob('*.png') if not path.stem.endswith('TrainIds')
    )
    if not maps:
        raise FileNotFoundError(
            f'There are no pixel maps (000000000139.png ...) in {folder}: unpack '
            'val2017 of stuffthingmaps_trainval2017.zip there, or name the folder by '
            '--source.'
        )
    jobs = [
        Job(layout.masks / f'{path.stem}{suffix}.png', draw, path)
        for path in maps
        if (layout.images / f'{path.stem}.jpg').is_file()
    ]
    if not jobs:
        raise ValueError(
            f'None of the {len(maps)} annotated images is in {layout.images}: the '
            'annotations are of another split, or val2017.zip is not unpacked.'
        )
    return jobs


@lru_cache
def _label_table() -> np.ndarray:
    """COCO-Stuff's label of each value of a pixel map: ``(256,)``, int16."""
    # A program beside MMSeg's package, which its wheel carries along.
    tools = Path(mmseg.__file__).parent / '.mim' / 'tools'
    converter = tools / 'dataset_converters' / 'coco_stuff164k.py'
    known = runpy.run_path(str(converter))['clsID_to_trID']
    table = np.full(256, _NO_LABEL, dtype=np.int16)
    table[list(known)] = list(known.values())
    return table


def _stuff_labels(pixel_map: Path) -> np.ndarray:
    """Labels 0 to 170, and 255: ``(H, W)``, uint8."""
    values = np.array(Image.open(pixel_map, formats=IMAGE_FORMATS))
    labels = _label_table()[values]
    if (unknown := labels == _NO_LABEL).any():
        raise ValueError(
            f'the values {np.unique(values[unknown]).tolist()} are none of COCO-Stuff'
        )
    return labels.astype(np.uint8)


def _object_labels(pixel_map: Path) -> np.ndarray:
    """Labels 0 to 80: ``(H, W)``, uint8."""
    labels = _stuff_labels(pixel_map)
    return np.where(labels < _NUM_THINGS, labels + 1, 0).astype(np.uint8)
