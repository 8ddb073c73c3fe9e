"""Where the benchmarks' configs expect their files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config, ConfigDict

from pacl_mmseg.paths import CONFIGS


@dataclass(frozen=True)
class Layout:
    """The places of one benchmark, as its config states them.

    Args:
        root: What is unpacked lies in here.
        images: Folder of the images.
        masks: Folder of the masks.
        split: File that lists the images by name; none if all in the folder count.
    """

    root: Path
    images: Path
    masks: Path
    split: Path | None

    @classmethod
    def of(cls, dataset: ConfigDict) -> Layout:
        """Read it from the config of a dataset."""
        root = Path(dataset.data_root)
        return cls(
            root=root,
            images=root / dataset.data_prefix.img_path,
            masks=root / dataset.data_prefix.seg_map_path,
            split=root / dataset.ann_file if dataset.get('ann_file') else None,
        )


def dataset_config(benchmark: str) -> ConfigDict:
    """The dataset that testing on a benchmark loads.

    Args:
        benchmark: Name of a file in ``configs/_base_/datasets``.
    """
    path = CONFIGS / '_base_' / 'datasets' / f'{benchmark}.py'
    return Config.fromfile(path).test_dataloader.dataset
