"""COCO-Stuff and COCO-Object from COCO's and COCO-Stuff's official annotations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pacl_mmseg.datasets.preparation.layout import Layout
from pacl_mmseg.datasets.preparation.sources import (
    decode_segmentation,
    mmseg_converter,
    read_annotation,
    require,
)
from pacl_mmseg.datasets.preparation.writing import (
    Job,
    Summary,
    write_images,
    write_lines,
)
from pacl_mmseg.datasets.transforms.loading import IMAGE_FORMATS

_NUM_THINGS = 80  # the first of COCO-Stuff's labels
_NO_LABEL = -1
_PIXEL_MAPS, _INSTANCES = 'pixel maps', 'instances'  # what COCO-Object is drawn from
_INSTANCES_SHAPE = dict(
    images=('id', 'file_name', 'height', 'width'),
    annotations=('image_id', 'category_id', 'segmentation', 'area', 'iscrowd'),
)


def convert_coco_stuff(
    layout: Layout, source: Path | None = None, **options: Any
) -> Summary:
    """``_labelTrainIds`` masks of COCO-Stuff from its pixel maps.

    By the table of MMSeg's converter, which insists on the train split.

    Args:
        layout: Where the benchmark lies.
        source: Folder of ``stuffthingmaps_trainval2017``'s ``val2017`` pixel maps;
            default: the folder of the masks, where MMSeg wants them unpacked.
        **options: For :func:`write_images`.

    Raises:
        FileNotFoundError: There are no pixel maps.
        ValueError: They are not of the images that are there.
    """
    sources = _pixel_maps(layout, source)
    jobs = _jobs(layout, '_labelTrainIds', sources)
    summary = write_images(_stuff_labels, jobs, **options)
    return replace(summary, skipped=len(sources) - len(jobs))


def convert_coco_object(
    layout: Layout, source: Path | None = None, overwrite: bool = False, **options: Any
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
        overwrite: Also write what is there already, whatever it was drawn from.
        **options: For :func:`write_images`.

    Raises:
        FileNotFoundError: There are no pixel maps, or no such file.
        ImportError: Instances need pycocotools, which is not installed.
        ValueError: The annotations are not of the images that are there, or the file is
            of another kind, or masks that are there were drawn from the other.
    """
    if source is not None and source.is_file():
        require('pycocotools')
        kind, draw, sources = _INSTANCES, _instance_labels, _instances(source)
    else:
        kind, draw, sources = _PIXEL_MAPS, _object_labels, _pixel_maps(layout, source)
    jobs = _jobs(layout, '_instanceTrainIds', sources)
    _keep_to_one_kind(layout.masks, kind, overwrite)
    summary = write_images(draw, jobs, overwrite=overwrite, **options)
    return replace(summary, skipped=len(sources) - len(jobs))


def noted_source(masks: Path) -> str | None:
    """What COCO-Object's masks in a folder were drawn from, if that is known.

    Raises:
        ValueError: The note that says so is damaged.
    """
    note = _note(masks)
    if not note.is_file():
        return None
    kind = note.read_text(errors='replace').strip()
    if kind not in (_PIXEL_MAPS, _INSTANCES):
        raise ValueError(
            f'{note}, which says what the masks beside it were drawn from, is damaged: '
            f'write {_PIXEL_MAPS!r} or {_INSTANCES!r} into it, or remove it and '
            'convert with --overwrite.'
        )
    return kind


def _note(masks: Path) -> Path:
    return masks / '.coco_object_source'


def _keep_to_one_kind(folder: Path, kind: str, overwrite: bool) -> None:
    """Note what the masks are drawn from; those of the other kind must go first."""
    masks = list(folder.glob('*_instanceTrainIds.png'))
    found = noted_source(folder) or _PIXEL_MAPS  # as other programs draw them
    if masks and found != kind:
        if not overwrite:
            raise ValueError(
                f'The masks in {folder} were drawn from {found}, these would be from '
                f'{kind}: --source names what to draw from, --overwrite replaces them '
                'all.'
            )
        for mask in masks:
            mask.unlink()
    if overwrite or not masks:
        write_lines([kind], _note(folder))


def _jobs(layout: Layout, suffix: str, sources: Mapping[str, Any]) -> list[Job]:
    """Jobs for those images of the annotation that are there, by name."""
    jobs = [
        Job(layout.masks / f'{name}{suffix}.png', source)
        for name, source in sources.items()
        if (layout.images / f'{name}.jpg').is_file()
    ]
    if not jobs:
        raise ValueError(
            f'None of the {len(sources)} annotated images is in {layout.images}: the '
            'annotations are of another split, or val2017.zip is not unpacked.'
        )
    return jobs


def _pixel_maps(layout: Layout, source: Path | None) -> dict[str, Path]:
    """Pixel maps by the name of their image."""
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
    return {path.stem: path for path in maps}


def _instances(path: Path) -> dict[str, tuple[int, int, list[dict]]]:
    """Height, width and instances of each image, by its name."""
    content = read_annotation(path, _INSTANCES_SHAPE)
    annotations = defaultdict(list)
    for annotation in content['annotations']:
        annotations[annotation['image_id']].append(annotation)
    return {
        Path(image['file_name']).stem: (
            image['height'],
            image['width'],
            annotations[image['id']],
        )
        for image in content['images']
    }


@lru_cache
def _label_table() -> np.ndarray:
    """COCO-Stuff's label of each value of a pixel map: ``(256,)``, int16."""
    known = mmseg_converter('coco_stuff164k').clsID_to_trID
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


def _instance_labels(source: tuple[int, int, list[dict]]) -> np.ndarray:
    """Labels 0 to 80: ``(H, W)``, uint8."""
    height, width, annotations = source
    labels = np.zeros((height, width), dtype=np.uint8)
    for annotation in sorted(annotations, key=lambda x: (-x['iscrowd'], -x['area'])):
        category = annotation['category_id']
        label = _label_table()[category - 1]  # which COCO counts from 1
        if not 0 <= label < _NUM_THINGS:
            raise ValueError(f'category {category} is none of the {_NUM_THINGS} things')
        inside = decode_segmentation(annotation['segmentation'], height, width)
        labels[inside] = label + 1
    return labels
