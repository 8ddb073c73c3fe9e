"""Benchmarks that MMSeg has no dataset for, of the files of one that it has."""

from __future__ import annotations

from mmseg.datasets import BaseSegDataset, COCOStuffDataset, PascalVOCDataset

from pacl_mmseg.registry import DATASETS

_NUM_THINGS = 80  # the first classes of COCO-Stuff


@DATASETS.register_module()
class COCOObjectDataset(BaseSegDataset):
    """COCO 2017 with 81 classes: background and the 80 things.

    The benchmark of GroupViT (NVlabs/GroupViT), which TCL, SCLIP and later work share.
    Masks lie beside those of COCO-Stuff, as ``<image>_instanceTrainIds.png``: 0 on the
    background, 1 to 80 on things.
    """

    METAINFO = dict(
        classes=('background', *COCOStuffDataset.METAINFO['classes'][:_NUM_THINGS]),
        palette=[[0, 0, 0], *COCOStuffDataset.METAINFO['palette'][:_NUM_THINGS]],
    )

    def __init__(self, seg_map_suffix: str = '_instanceTrainIds.png', **kwargs) -> None:
        super().__init__(seg_map_suffix=seg_map_suffix, **kwargs)


@DATASETS.register_module()
class PascalVOC20Dataset(PascalVOCDataset):
    """Pascal VOC 2012 with 20 classes: background pixels are ignored.

    The files are those of ``PascalVOCDataset``; label 0 becomes the ignored label and
    the others move down by one (MMSeg's ``reduce_zero_label``).
    """

    METAINFO = {key: value[1:] for key, value in PascalVOCDataset.METAINFO.items()}

    def __init__(self, reduce_zero_label: bool = True, **kwargs) -> None:
        super().__init__(reduce_zero_label=reduce_zero_label, **kwargs)
