"""Datasets of more classes than 8 bits can number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmseg.datasets import BaseSegDataset

from pacl_mmseg.prompts import Vocabulary
from pacl_mmseg.registry import DATASETS

ADE20K_847_IDS = tuple(
    map(int, Path(__file__).with_name('ade20k_847_ids.txt').read_text().split())
)
"""The object number in ADE20K's own annotation (2021_17_01) of each of the 847 classes,
as chosen by MaskFormer (facebookresearch/MaskFormer)."""

IGNORE_INDEX = 65535
"""The ignored label of these datasets: 255 is one of their classes."""


class _LargeVocabularyDataset(BaseSegDataset):
    """Masks are 16-bit TIFF files, as the detectron2-based projects write them."""

    def __init__(
        self,
        seg_map_suffix: str = '.tif',
        ignore_index: int = IGNORE_INDEX,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            seg_map_suffix=seg_map_suffix, ignore_index=ignore_index, **kwargs
        )


@DATASETS.register_module()
class ADE20K847Dataset(_LargeVocabularyDataset):
    """ADE20K (2021_17_01) with its 847 classes of MaskFormer.

    Labels are 0 to 846 and 65535 on everything else. Classes are called by the first of
    their names in ADE20K, which a few of them share.

    Arguments are those of ``BaseSegDataset``; masks are ``.tif`` files.
    """

    METAINFO = dict(classes=Vocabulary.from_dataset('ade847').classes)


@DATASETS.register_module()
class PascalContext459Dataset(_LargeVocabularyDataset):
    """Pascal Context with all of its 459 classes.

    Labels are 0 to 458, those of the official annotation less one, and 65535 where
    nothing was annotated. The classes are those of its ``labels.txt``, in words.

    Arguments are those of ``BaseSegDataset``; masks are ``.tif`` files.
    """

    METAINFO = dict(classes=Vocabulary.from_dataset('pc459').classes)
