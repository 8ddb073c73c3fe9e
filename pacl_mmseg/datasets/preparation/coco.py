"""COCO-Stuff and COCO-Object from COCO's and COCO-Stuff's official annotations."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pacl_mmseg.datasets.preparation.layout import Layout
from pacl_mmseg.datasets.preparation.sources import (
    decode_segmentation,
    mmseg_converter,
    read_json,
    require,
)
from pacl_mmseg.datasets.preparation.writing import Job, Summary, write_images

_FIRST_STUFF = 91  # COCO-Stuff numbers things below this, stuff from it on
_UNKNOWN = 255


def convert_coco_stuff(
    layout: Layout, source: Path | None = None, **options: Any
) -> Summary:
    """``_labelTrainIds`` masks of COCO-Stuff from its pixel maps, by MMSeg's converter.

    MMSeg's program insists on the train split; this calls what it does to each mask.

    Args:
        layout: Where the benchmark lies.
        source: Folder of ``stuffthingmaps_trainval2017``'s ``val2017`` pixel maps;
            default: the folder of the masks, where MMSeg wants them unpacked.
        **options: For :func:`write_images`.

    Raises:
        FileNotFoundError: There are no pixel maps.
    """
    jobs = _pixel_map_jobs(layout, source, '_labelTrainIds')
    return write_images(_stuff_labels, jobs, **options)


def convert_coco_object(
    layout: Layout, source: Path | None = None, **options: Any
) -> Summary:
    """``_instanceTrainIds`` masks of COCO-Object: background and 80 things.

    Args:
        layout: Where the benchmark lies.
        source: Where the masks come from. A folder of COCO-Stuff's pixel maps (default,
            as for :func:`convert_coco_stuff`) gives the masks that GroupViT, TCL and
            SCLIP evaluate on: things keep their order, and stuff and unlabelled pixels
            become background. A file, COCO's ``instances_val2017.json``, gives masks
            drawn from its instances, the smaller over the larger and all over crowd
            regions. The two differ where instances overlap.
        **options: For :func:`write_images`.

    Raises:
        FileNotFoundError: There are no pixel maps, or no such file.
        ImportError: Instances need pycocotools, which is not installed.
    """
    if source is None or not source.is_file():
        jobs = _pixel_map_jobs(layout, source, '_instanceTrainIds')
        return write_images(_object_labels, jobs, **options)
    require('pycocotools')
    return write_images(_instance_labels, _instance_jobs(layout, source), **options)


def _pixel_map_jobs(layout: Layout, source: Path | None, suffix: str) -> list[Job]:
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
    return [Job(layout.masks / f'{path.stem}{suffix}.png', path) for path in maps]


def _stuff_labels(pixel_map: Path) -> np.ndarray:
    """Labels 0 to 170, and 255: ``(H, W)``, uint8."""
    convert = mmseg_converter('coco_stuff164k').convert_to_trainID
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, 'val2017').mkdir()
        convert(str(pixel_map), folder, is_train=False)
        (result,) = Path(folder).glob('val2017/*.png')
        return np.array(Image.open(result))


@lru_cache
def _thing_labels() -> np.ndarray:
    """COCO-Object's label of each value of a pixel map: ``(256,)``, uint8."""
    table = np.full(256, _UNKNOWN, dtype=np.uint8)
    for value, label in mmseg_converter('coco_stuff164k').clsID_to_trID.items():
        table[value] = label + 1 if value < _FIRST_STUFF else 0
    return table


def _object_labels(pixel_map: Path) -> np.ndarray:
    """Labels 0 to 80: ``(H, W)``, uint8."""
    values = np.array(Image.open(pixel_map))
    labels = _thing_labels()[values]
    if (unknown := labels == _UNKNOWN).any():
        raise ValueError(
            f'the values {np.unique(values[unknown]).tolist()} are none of COCO-Stuff'
        )
    return labels


def _instance_jobs(layout: Layout, path: Path) -> list[Job]:
    content = read_json(path)
    annotations = defaultdict(list)
    for annotation in content['annotations']:
        annotations[annotation['image_id']].append(annotation)
    return [
        Job(
            layout.masks / f'{Path(image["file_name"]).stem}_instanceTrainIds.png',
            (image['height'], image['width'], annotations[image['id']]),
        )
        for image in content['images']
    ]


def _instance_labels(source: tuple[int, int, list[dict]]) -> np.ndarray:
    """Labels 0 to 80: ``(H, W)``, uint8."""
    height, width, annotations = source
    labels = np.zeros((height, width), dtype=np.uint8)
    for annotation in sorted(annotations, key=lambda x: (-x['iscrowd'], -x['area'])):
        inside = decode_segmentation(annotation['segmentation'], height, width)
        # COCO counts its categories from 1, the pixel maps from 0.
        labels[inside] = _thing_labels()[annotation['category_id'] - 1]
    return labels
