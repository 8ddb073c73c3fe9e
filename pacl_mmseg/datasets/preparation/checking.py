"""Whether a benchmark's data is there, complete, and correctly converted."""

from __future__ import annotations

import glob
import os
import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine.utils import track_iter_progress
from mmseg.datasets import BaseSegDataset
from mmseg.datasets.transforms import LoadAnnotations
from PIL import Image

from pacl_mmseg.datasets.preparation.converters import CONVERTERS
from pacl_mmseg.datasets.preparation.layout import (
    Layout,
    dataset_config,
    has_content,
    open_dataset,
)
from pacl_mmseg.datasets.preparation.official import OFFICIAL, Official
from pacl_mmseg.datasets.preparation.sources import read_names
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
    config = dataset_config(benchmark)
    official, layout = OFFICIAL[benchmark], Layout.of(config)
    whole = official.images if expected is None else expected
    expected = whole if subset is None else subset
    if not 0 < expected <= whole:
        raise ValueError(f'{benchmark} has 1 to {whole} images, not {subset}.')
    unpacked = bool(official.unpacked) and any(layout.root.glob(official.unpacked))
    fault = _missing_place(layout, official, unpacked)
    if fault is None:
        dataset = open_dataset(config)
        records = dataset.load_data_list()[:subset]
        fault = _missing_file(
            dataset, records, layout, official, unpacked, expected
        ) or _fault_inside(dataset, records, official, sample)
    if fault is not None:
        state, finding, remedy = fault
        remedies = _remedies(benchmark, layout, unpacked)
        return Verdict(benchmark, state, finding, remedies[remedy])
    read = 'all' if sample is None else min(sample, expected)
    first = f'the first {expected} of {whole}' if subset else expected
    return Verdict(benchmark, 'ok', f'{first} images and masks, {read} of them read')


def _remedies(benchmark: str, layout: Layout, unpacked: bool) -> dict[str, str]:
    """What to do, by a word for it."""
    official = OFFICIAL[benchmark]
    download = f'{official.download.format(root=layout.root)} (see docs/datasets.md)'
    remove = f'remove from {layout.images} what is not of the official split'
    if benchmark not in CONVERTERS:
        remedies = dict.fromkeys(('download', 'convert', 'overwrite'), download)
        return dict(remedies, remove=remove)
    prepare = f'python tools/prepare_data.py {benchmark}'
    if root := os.environ.get('PACL_DATA_ROOT'):  # as it may not be set next time
        prepare += f' --data-root {shlex.quote(root)}'
    convert = prepare if unpacked else f'{download}, then {prepare}'
    return dict(
        download=f'{download}, then {prepare}',
        convert=convert,
        overwrite=f'{convert} --overwrite',
        remove=remove,
    )


# These return a state, a finding, and which remedy there is; None if all is well.


def _missing_place(
    layout: Layout, official: Official, unpacked: bool
) -> tuple[str, str, str] | None:
    if not layout.images.is_dir():
        finding = f'there is no {layout.images}'
        if official.converts_images:
            return 'unconverted' if unpacked else 'missing', finding, 'convert'
        return 'missing', finding, 'download'
    state = 'unconverted' if unpacked and not layout.masks.exists() else 'incomplete'
    for path in (layout.split, layout.masks):
        if path is not None and not path.exists():
            return state, f'there is no {path}', 'convert'
    if layout.split is not None:
        try:
            read_names(layout.split)
        except ValueError as error:
            return 'wrong', str(error), 'download'
    return None


def _missing_file(
    dataset: BaseSegDataset,
    records: list[dict],
    layout: Layout,
    official: Official,
    unpacked: bool,
    expected: int,
) -> tuple[str, str, str] | None:
    masks = [record['seg_map_path'] for record in records]
    images = [record['img_path'] for record in records]
    if len(records) > expected:
        finding = f'{len(records)} images, but the official split has {expected}'
        return 'wrong', finding, 'download' if layout.split else 'remove'
    if records and not any(map(os.path.isfile, masks)):
        stem = masks[0].removesuffix(dataset.seg_map_suffix)
        endings = [
            path.removeprefix(stem) for path in glob.glob(f'{glob.escape(stem)}*')
        ]
        if unpacked or endings:
            but = f', but in {", ".join(sorted(endings))}' if endings else ''
            finding = f'no mask in {layout.masks} ends in {dataset.seg_map_suffix}{but}'
            return 'unconverted' if unpacked else 'wrong', finding, 'convert'
    for what, paths, remedy in (
        ('images', images, 'convert' if official.converts_images else 'download'),
        ('masks', masks, 'convert'),
    ):
        lacking = [path for path in paths if not has_content(path)]
        if (there := len(paths) - len(lacking)) < expected:
            first = f'; the first that lacks is {lacking[0]}' if lacking else ''
            state = 'incomplete' if there else 'missing'
            return state, f'{there} of {expected} {what}{first}', remedy
    return None


def _fault_inside(
    dataset: BaseSegDataset,
    records: list[dict],
    official: Official,
    sample: int | None,
) -> tuple[str, str, str] | None:
    """Read images and masks as evaluation does, only more strictly."""
    load_image = _step(dataset, LoadImageFromFile)
    load_mask = _step(dataset, LoadAnnotations)
    images, masks, labels = [], [], {}
    for record in _spread(records, sample):
        try:
            with Image.open(record['img_path'], formats=IMAGE_FORMATS) as image:
                image.load()  # where OpenCV would make up what is cut off
            results = load_image.transform(dict(record))
        except Exception as error:  # decoders raise nearly anything on bad input
            images.append(f'The image {record["img_path"]} is damaged: {error}')
            continue
        try:
            load_mask.transform(results)
        except (ValueError, OSError) as error:
            sentence, _, _ = str(error).rpartition(';')  # ours is the better remedy
            masks.append(sentence or str(error))
        else:
            with Image.open(record['seg_map_path'], formats=IMAGE_FORMATS) as mask:
                counts = np.bincount(np.array(mask).ravel())
            labels[record['seg_map_path']] = set(np.flatnonzero(counts).tolist())
    masks += _zeros_lost(dataset, labels, official.ignored)
    masks += _of_another_conversion(dataset, labels, official.ignored)
    for faults, state, remedy in (
        (images, 'incomplete', 'overwrite' if official.converts_images else 'download'),
        (masks, 'wrong', 'overwrite'),
    ):
        if faults:
            more = f' (and {len(faults) - 1} more)' if faults[1:] else ''
            return state, f'{faults[0]}{more}', remedy
    return None


def _step(dataset: BaseSegDataset, kind: type) -> LoadImageFromFile | LoadAnnotations:
    """The first step of that kind in a dataset's pipeline."""
    return next(s for s in dataset.pipeline.transforms if isinstance(s, kind))


def _spread(records: list[dict], sample: int | None) -> Iterable[dict]:
    if sample is None:
        return track_iter_progress(records, file=sys.stderr)
    indices = np.linspace(0, len(records) - 1, min(sample, len(records)))
    return [records[index] for index in indices.astype(int)]


# What known labels say of the conversion: a sentence on each fault. ``labels`` are
# those in each mask file, ``ignored`` is as in Official.


def _zeros_lost(
    dataset: BaseSegDataset, labels: Mapping[str, set[int]], ignored: bool | None
) -> list[str]:
    """Masks whose label 0 was made the ignored label in conversion.

    Datasets with ``reduce_zero_label`` do that on loading. Done twice, each class is
    scored as the one before it, and hardly any label is out of range.
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
