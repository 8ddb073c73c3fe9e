"""Whether a benchmark's data is there, complete, and correctly converted."""

from __future__ import annotations

import glob
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mmengine.registry import DefaultScope
from mmengine.utils import track_iter_progress
from mmseg.datasets import BaseSegDataset
from mmseg.datasets.transforms import LoadAnnotations
from PIL import Image

from pacl_mmseg.datasets.preparation.converters import CONVERTERS
from pacl_mmseg.datasets.preparation.layout import Layout, dataset_config
from pacl_mmseg.datasets.preparation.official import OFFICIAL
from pacl_mmseg.registry import DATASETS


@dataclass(frozen=True)
class Verdict:
    """What there is to say of a benchmark's data.

    Args:
        benchmark: Its name.
        state: ``'ok'``, ``'missing'``, ``'incomplete'`` or ``'wrong'``.
        finding: What was found.
        remedy: What to do about it.
    """

    benchmark: str
    state: str
    finding: str
    remedy: str = ''

    @property
    def usable(self) -> bool:
        """Whether the benchmark can be run."""
        return self.state == 'ok'

    def __str__(self) -> str:
        line = f'{self.benchmark:<13}  {self.state:<10}  {self.finding}'
        return f'{line}\n{"":<27}remedy: {self.remedy}' if self.remedy else line


def check_benchmark(
    benchmark: str, expected: int | None = None, sample: int | None = 100
) -> Verdict:
    """Check the data that the config of a benchmark loads.

    Args:
        benchmark: One of :data:`OFFICIAL`.
        expected: Number of images; default: of the official validation split.
        sample: Read at most so many images and masks, evenly spread; None: all, with a
            progress bar.
    """
    official = OFFICIAL[benchmark]
    expected = official.images if expected is None else expected
    config = dataset_config(benchmark)
    layout = Layout.of(config)
    download = f'{official.download.format(root=layout.root)} (see docs/datasets.md)'
    convert = f'python tools/prepare_data.py {benchmark}'
    if benchmark in CONVERTERS:
        remedies = dict(
            download=f'{download}, then {convert}',
            convert=convert,
            overwrite=f'{convert} --overwrite',
        )
    else:  # loaded as downloaded
        remedies = dict.fromkeys(('download', 'convert', 'overwrite'), download)

    fault = _missing_folder(layout)
    if fault is None:
        with DefaultScope.overwrite_default_scope('mmseg'):
            dataset = DATASETS.build(dict(config, lazy_init=True))
        records = dataset.load_data_list()
        fault = _missing_file(dataset, records, expected)
    if fault is None:
        chosen = _chosen(records, sample)
        fault = _fault_inside(dataset, chosen, official.ignored)
    if fault is None:
        read = 'all' if sample is None else len(chosen)
        return Verdict(
            benchmark, 'ok', f'{expected} images and masks, {read} of them read'
        )
    state, finding, remedy = fault
    return Verdict(benchmark, state, finding, remedies[remedy])


# These return a state, a finding, and which remedy there is; None if all is well.


def _missing_folder(layout: Layout) -> tuple[str, str, str] | None:
    if not layout.images.is_dir():
        return 'missing', f'there is no {layout.images}', 'download'
    for path in (layout.split, layout.masks):
        if path is not None and not path.exists():
            return 'incomplete', f'there is no {path}', 'convert'
    return None


def _missing_file(
    dataset: BaseSegDataset, records: list[dict], expected: int
) -> tuple[str, str, str] | None:
    masks = [record['seg_map_path'] for record in records]
    images = [record['img_path'] for record in records]
    if len(records) > expected:
        finding = f'{len(records)} images, but the official split has {expected}'
        return 'wrong', finding, 'download'
    if records and not any(Path(mask).is_file() for mask in masks):
        stem = masks[0].removesuffix(dataset.seg_map_suffix)
        others = glob.glob(f'{glob.escape(stem)}*')
        if others:
            suffixes = ', '.join(sorted(path.removeprefix(stem) for path in others))
            finding = f'masks end in {suffixes}, not in {dataset.seg_map_suffix}'
            return 'wrong', finding, 'convert'
    for what, paths, remedy in (
        ('images', images, 'download'),
        ('masks', masks, 'convert'),
    ):
        lacking = [path for path in paths if not _has_content(Path(path))]
        if (there := len(paths) - len(lacking)) < expected:
            first = f'; the first that lacks is {lacking[0]}' if lacking else ''
            state = 'incomplete' if there else 'missing'
            return state, f'{there} of {expected} {what}{first}', remedy
    return None


def _has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _chosen(records: list[dict], sample: int | None) -> Iterable[dict]:
    if sample is None:
        return track_iter_progress(records, file=sys.stderr)
    indices = np.linspace(0, len(records) - 1, min(sample, len(records)))
    return [records[index] for index in indices.astype(int)]


def _fault_inside(
    dataset: BaseSegDataset, records: Iterable[dict], ignored: bool
) -> tuple[str, str, str] | None:
    """Read images and masks as evaluation does, only more strictly.

    Args:
        dataset: Whose pipeline loads the masks.
        records: What to read.
        ignored: Whether the official masks hold the ignored label.
    """
    steps = dataset.pipeline.transforms
    loader = next(step for step in steps if isinstance(step, LoadAnnotations))
    images, masks, extremes = [], [], {}
    for record in records:
        try:
            with Image.open(record['img_path']) as image:
                image.load()  # where OpenCV would make up what is cut off
        except Exception as error:  # decoders raise nearly anything on bad input
            images.append(f'The image {record["img_path"]} is damaged: {error}')
            continue
        try:
            loader.transform(dict(record, ori_shape=(image.height, image.width)))
        except ValueError as error:
            sentence, _, _ = str(error).rpartition(';')  # ours is the better remedy
            masks.append(sentence)
        else:
            with Image.open(record['seg_map_path']) as mask:
                extremes[record['seg_map_path']] = mask.getextrema()
    masks += _zeros_lost(dataset, extremes, ignored)
    for faults, state, remedy in (
        (images, 'incomplete', 'download'),
        (masks, 'wrong', 'overwrite'),
    ):
        if faults:
            more = f' (and {len(faults) - 1} more)' if faults[1:] else ''
            return state, f'{faults[0]}{more}', remedy
    return None


def _zeros_lost(
    dataset: BaseSegDataset, extremes: dict[str, tuple[int, int]], ignored: bool
) -> list[str]:
    """Masks whose label 0 was made the ignored label in conversion.

    Datasets with ``reduce_zero_label`` do that on loading. Done twice, each class is
    scored as the one before it, and hardly any label is out of range.

    Args:
        dataset: Whose masks they are.
        extremes: The smallest and the largest value of each mask.
        ignored: Whether the official masks hold the ignored label.

    Returns:
        list[str]: A sentence on each.
    """
    if not ignored:
        return [
            f'The mask {path} holds the ignored label {largest}, which official ones '
            'do not: label 0 was made that in conversion'
            for path, (_, largest) in extremes.items()
            if largest == dataset.ignore_index
        ]
    first = dataset.metainfo['classes'][0]
    if dataset.reduce_zero_label or first == 'background':
        lost = [path for path, (smallest, _) in extremes.items() if smallest > 0]
        if len(lost) > len(extremes) / 2:  # there is background in nearly every image
            return [
                f'The mask {path} has no background, label 0, like most: it was made '
                'the ignored label in conversion'
                for path in lost
            ]
    return []
