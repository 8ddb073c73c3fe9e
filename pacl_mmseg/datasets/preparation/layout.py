"""Where the benchmarks' configs expect their files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from mmseg.datasets import BaseSegDataset

from pacl_mmseg.datasets.preparation.official import OFFICIAL
from pacl_mmseg.paths import CONFIGS
from pacl_mmseg.registry import DATASETS
from pacl_mmseg.utils.names import check_name


class Layout:
    """The files of one benchmark, as its config and :data:`OFFICIAL` state them.

    Args:
        benchmark: One of :data:`OFFICIAL`.

    Attributes:
        benchmark: The same.
        official: The split as published.
        dataset: Config of the dataset that testing loads.
        root: What is unpacked lies in here.
        images: Folder of the images.
        masks: Folder of the masks.
        split: File that lists the images by name; none if all in the folder count.
        unpacked: Whether what the conversion reads is there.

    Raises:
        ValueError: There is no such benchmark.
    """

    def __init__(self, benchmark: str) -> None:
        check_name('benchmark', benchmark, OFFICIAL)
        path = CONFIGS / '_base_' / 'datasets' / f'{benchmark}.py'
        self.benchmark = benchmark
        self.official = OFFICIAL[benchmark]
        self.dataset: ConfigDict = Config.fromfile(path).test_dataloader.dataset
        self.root = Path(self.dataset.data_root)
        self.images = self.root / self.dataset.data_prefix.img_path
        self.masks = self.root / self.dataset.data_prefix.seg_map_path
        names = self.dataset.get('ann_file')
        self.split = self.root / names if names else None
        pattern = self.official.unpacked
        self.unpacked = bool(pattern) and any(self.root.glob(pattern))


def open_dataset(config: ConfigDict) -> BaseSegDataset:
    """Build a dataset whose files need not be there.

    ``load_data_list`` says which they are.

    Args:
        config: The dataset's.
    """
    with DefaultScope.overwrite_default_scope('mmseg'):
        return DATASETS.build(dict(config, lazy_init=True))


def chosen(records: list[dict], indices: int | Sequence[int] | None) -> list[dict]:
    """What a dataset's ``indices`` leave of its records, as MMEngine takes them.

    Args:
        records: All of them.
        indices: So many first ones (last ones, if negative), or these; None: all.

    Raises:
        ValueError: There are not so many.
    """
    if indices is None:
        return records
    part = indices
    if isinstance(indices, int):
        part = range(indices) if indices > 0 else range(indices, 0)
    if not part or not all(-len(records) <= index < len(records) for index in part):
        raise ValueError(f'{len(records)} images do not have indices={indices}.')
    return [records[index] for index in part]


def has_content(path: str | Path) -> bool:
    """Whether a file is there and not empty, as interrupted downloads leave it."""
    path = Path(path)
    return path.is_file() and path.stat().st_size > 0
