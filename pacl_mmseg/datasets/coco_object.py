"""COCO-Object: the things of COCO, everything else being background."""

from __future__ import annotations

from mmseg.datasets import BaseSegDataset, COCOStuffDataset

from pacl_mmseg.registry import DATASETS

_NUM_THINGS = 80  # the first classes of COCO-Stuff


@DATASETS.register_module()
class COCOObjectDataset(BaseSegDataset):
    """COCO 2017 with 81 classes: background and the 80 things.

    The benchmark of GroupViT (NVlabs/GroupViT), which TCL, SCLIP and later work share.
    Masks lie beside those of COCO-Stuff, as ``<image>_instanceTrainIds.png``: 0 on the
    background, 1 to 80 on things.

    Args:
        img_suffix: Suffix of images.
        seg_map_suffix: Suffix of masks.
        **kwargs: As for ``BaseSegDataset``.
    """

    METAINFO = dict(
        classes=('background', *COCOStuffDataset.METAINFO['classes'][:_NUM_THINGS]),
        palette=[[0, 0, 0], *COCOStuffDataset.METAINFO['palette'][:_NUM_THINGS]],
    )

    def __init__(
        self,
        img_suffix: str = '.jpg',
        seg_map_suffix: str = '_instanceTrainIds.png',
        **kwargs,
    ) -> None:
        super().__init__(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, **kwargs)
