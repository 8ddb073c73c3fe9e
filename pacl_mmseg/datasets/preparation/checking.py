"""Whether a benchmark's data is there, complete, and correctly converted."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from mmengine.utils import track_iter_progress
from mmseg.datasets import BaseSegDataset
from PIL import Image

from pacl_mmseg.datasets.preparation.coco import other_source
from pacl_mmseg.datasets.preparation.converters import CONVERTERS
from pacl_mmseg.datasets.preparation.layout import Layout, has_content, open_dataset
from pacl_mmseg.datasets.transforms.loading import IMAGE_FORMATS

_MANY = 50  # masks that cannot all lack what is common


@dataclass(frozen=True)
class Verdict:
    """What there is to say of a benchmark's data.

    Args:
        benchmark: Its name.
        state: ``'ok'``, ``'missing'``, ``'unconverted'``, ``'incomplete'`` or
            ``'wrong'``.
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
        line = f'{self.benchmark:<13}  {self.state:<11}  {self.finding}'
        return f'{line}\n{"":<28}remedy: {self.remedy}' if self.remedy else line


def check_benchmark(
    benchmark: str,
    expected: int | None = None,
    sample: int | None = 100,
    subset: int | None = None,
) -> Verdict:
    """Check the data that the config of a benchmark loads.

    Args:
        benchmark: One of :data:`OFFICIAL`.
        expected: Number of images; default: of the official validation split.
        sample: Read at most so many images and masks, evenly spread; None: all, with a
            progress bar.
        subset: Check the first so many images of the split alone, which are what a test
            with ``--subset`` takes.

    Raises:
        ValueError: There is no such benchmark, or no such subset of it.
    """
    layout = Layout(benchmark)
    whole = layout.official.images if expected is None else expected
    expected = whole if subset is None else subset
    if not 0 < expected <= whole:
        raise ValueError(f'{benchmark} has 1 to {whole} images, not {subset}.')
    try:
        _check_places(layout)
        dataset = open_dataset(layout.dataset)
        listed = _list_records(dataset)
        records = listed[:subset]
        _check_files(records, layout, expected)
        _check_content(dataset, records, layout, sample)
    except _Fault as fault:
        remedy = _remedy(fault.remedy, layout)
        return Verdict(benchmark, fault.state, fault.finding, remedy)
    read = 'all' if sample is None else min(sample, expected)
    first = f'the first {expected} of {len(listed)}' if subset else expected
    return Verdict(benchmark, 'ok', f'{first} images and masks, {read} of them read')


class _Fault(Exception):
    """What is wrong, and what to do: download, convert, overwrite, or remove."""

    def __init__(self, state: str, finding: str, remedy: str) -> None:
        self.state, self.finding, self.remedy = state, finding, remedy


def _remedy(kind: str, layout: Layout) -> str:
    if kind == 'remove':
        return f'remove from {layout.images} what is not of the official split'
    steps = []
    if kind == 'download' or not layout.unpacked:
        download = layout.official.download.format(root=layout.root)
        steps.append(f'{download} (see docs/datasets.md)')
    if layout.benchmark in CONVERTERS:
        prepare = f'python tools/prepare_data.py {layout.benchmark}'
        if root := os.environ.get('PACL_DATA_ROOT'):  # as it may not be set next time
            prepare += f' --data-root {shlex.quote(root)}'
        steps.append(f'{prepare} --overwrite' if kind == 'overwrite' else prepare)
    return ', then '.join(steps)


def _check_places(layout: Layout) -> None:
    for path, converted in (
        (layout.images, layout.official.converts_images),
        (layout.split, True),
    ):
        if path is not None and not path.exists():
            state = 'unconverted' if layout.unpacked and converted else 'missing'
            remedy = 'convert' if converted else 'download'
            raise _Fault(state, f'there is no {path}', remedy)
    if layout.benchmark == 'coco_object' and (note := other_source(layout.masks)):
        finding = f'the masks were not drawn from pixel maps, says {note}'
        raise _Fault('wrong', finding, 'overwrite')


def _list_records(dataset: BaseSegDataset) -> list[dict]:
    try:
        return dataset.load_data_list()
    except ValueError as error:
        finding = f'{dataset.ann_file} is not a list of images ({error})'
        raise _Fault('wrong', finding, 'download') from error


def _check_files(records: list[dict], layout: Layout, expected: int) -> None:
    """All are there and have content, and there are no others."""
    if len(records) > expected:
        finding = f'{len(records)} images, but the official split has {expected}'
        raise _Fault('wrong', finding, 'download' if layout.split else 'remove')
    for what, key, converted in (
        ('images', 'img_path', layout.official.converts_images),
        ('masks', 'seg_map_path', True),
    ):
        lacking = [record[key] for record in records if not has_content(record[key])]
        if (there := len(records) - len(lacking)) < expected:
            first = f'; the first that lacks is {lacking[0]}' if lacking else ''
            state = 'unconverted' if layout.unpacked and converted else 'missing'
            raise _Fault(
                'incomplete' if there else state,
                f'{there} of {expected} {what}{first}',
                'convert' if converted else 'download',
            )


def _check_content(
    dataset: BaseSegDataset, records: list[dict], layout: Layout, sample: int | None
) -> None:
    """Read images and masks as evaluation does, only more strictly."""
    images, masks, labels = [], [], {}
    for record in _spread(records, sample):
        try:
            with Image.open(record['img_path'], formats=IMAGE_FORMATS) as image:
                image.load()  # where OpenCV would make up what is cut off
        except Exception as error:  # decoders raise nearly anything on bad input
            images.append(f'The image {record["img_path"]} is damaged: {error}')
            continue
        try:
            dataset.pipeline(dict(record))
        except (ValueError, OSError) as error:
            sentence, _, _ = str(error).rpartition(';')  # ours is the better remedy
            masks.append(sentence or str(error))
        else:
            with Image.open(record['seg_map_path'], formats=IMAGE_FORMATS) as mask:
                labels[record['seg_map_path']] = set(np.unique(mask).tolist())
    masks += _zeros_lost(dataset, labels, layout.official.ignored)
    masks += _of_another_conversion(dataset, labels, layout.official.ignored)
    converted = layout.official.converts_images
    for faults, state, remedy in (
        (images, 'incomplete', 'overwrite' if converted else 'download'),
        (masks, 'wrong', 'overwrite'),
    ):
        if faults:
            more = f' (and {len(faults) - 1} more)' if faults[1:] else ''
            raise _Fault(state, f'{faults[0]}{more}', remedy)


def _spread(records: list[dict], sample: int | None) -> Iterable[dict]:
    if sample is None:
        return track_iter_progress(records, file=sys.stderr)
    indices = np.linspace(0, len(records) - 1, min(sample, len(records)))
    return [records[index] for index in indices.astype(int)]


def _zeros_lost(
    dataset: BaseSegDataset, labels: Mapping[str, set[int]], ignored: bool | None
) -> list[str]:
    """Masks whose label 0 was made the ignored label in conversion, a sentence on each.

    Datasets with ``reduce_zero_label`` do that on loading. Done twice, each class is
    scored as the one before it, and hardly any label is out of range.

    Args:
        dataset: The benchmark.
        labels: Those in each mask file.
        ignored: As in :class:`Official`.
    """
    if ignored is False:
        return [
            f'The mask {path} holds the ignored label {dataset.ignore_index}, which '
            'official ones do not: label 0 was made that in conversion'
            for path, found in labels.items()
            if dataset.ignore_index in found
        ]
    first = dataset.metainfo['classes'][0]
    if dataset.reduce_zero_label or first == 'background':
        lost = [path for path, found in labels.items() if 0 not in found]
        if len(lost) > len(labels) / 2:  # there is background in nearly every image
            return [
                f'The mask {path} has no background, label 0, like most: it was made '
                'the ignored label in conversion'
                for path in lost
            ]
    return []


def _of_another_conversion(
    dataset: BaseSegDataset, labels: Mapping[str, set[int]], ignored: bool | None
) -> list[str]:
    """Many masks that together lack labels which are common in this benchmark."""
    if len(labels) < _MANY:
        return []
    found = set.union(*labels.values())
    num_classes = len(dataset.metainfo['classes'])
    lacking = []
    if max(found - {dataset.ignore_index}, default=0) < num_classes / 2:
        lacking.append(f'any label of the upper half of the {num_classes} classes')
    if ignored and dataset.ignore_index not in found:
        lacking.append(f'the ignored label {dataset.ignore_index}')
    return [
        f'None of the {len(labels)} masks read holds {what}: they are of another '
        'conversion'
        for what in lacking
    ]
