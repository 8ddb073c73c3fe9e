"""Cityscapes' training labels, by the program of its authors."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pacl_mmseg.datasets.preparation.layout import Layout
from pacl_mmseg.datasets.preparation.sources import require
from pacl_mmseg.datasets.preparation.writing import Job

_PROGRAM = 'cityscapesscripts.preparation.json2labelImg'


def cityscapes_jobs(layout: Layout, source: Path | None) -> list[Job]:
    """``_labelTrainIds`` masks of Cityscapes from its polygons.

    As MMSeg's program makes them, which insists on all three splits.

    Args:
        layout: Where the benchmark lies.
        source: Folder of the polygons by city; default: the folder of the masks, where
            the download has them.

    Raises:
        FileNotFoundError: There are no polygons.
        ImportError: cityscapesscripts is not installed.
    """
    folder = source or layout.masks
    polygons = sorted(folder.glob('*/*_gtFine_polygons.json'))
    if not polygons:
        raise FileNotFoundError(
            f'There are no */*_gtFine_polygons.json in {folder}: unpack '
            f'gtFine_trainvaltest.zip in {layout.root}, or name the folder that '
            'has the cities by --source.'
        )
    jobs = []
    for path in polygons:
        name = path.name.replace('_polygons.json', '_labelTrainIds.png')
        jobs.append(Job(layout.masks / path.parent.name / name, _labels, path))
    require(_PROGRAM)
    return jobs


def _labels(polygons: Path) -> np.ndarray:
    """Labels 0 to 18, and 255: ``(H, W)``, uint8."""
    program = require(_PROGRAM)
    annotation = program.Annotation()
    annotation.fromJsonFile(str(polygons))
    return np.array(program.createLabelImage(annotation, 'trainIds'))
