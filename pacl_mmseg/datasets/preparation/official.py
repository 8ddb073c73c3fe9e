"""What the official validation splits are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Official:
    """A validation split as published.

    Args:
        images: Number of images, and of masks.
        download: What to unpack where; ``{root}`` is the dataset's ``data_root``.
        ignored: Whether masks hold the ignored label: nearly all do, or none does. None
            if neither is known.
        unpacked: What the conversion reads, as a pattern below ``{root}``; none if the
            download is loaded as it is.
        converts_images: Whether the images are converted too.
    """

    images: int
    download: str
    ignored: bool | None = True
    unpacked: str | None = None
    converts_images: bool = False


# VOC: the development kit's documentation, "segmentation val". COCO and COCO-Stuff: the
# 5,000 of val2017. Cityscapes: 500 fine annotations (cityscapes-dataset.com). ADE20K:
# 2,000, in the scene parsing challenge as in the full set (CSAILVision/ADE20K).
# Pascal Context: 5,104, phase "val" of trainval_merged.json, as its maintainers count
# (ccvl/detail-api#1); the first release had 5,105, which papers still quote.
_VOC = Official(1449, 'unpack VOCtrainval_11-May-2012.tar into {root.parents[1]}')
_VOC2010 = 'unpack VOCtrainval_03-May-2010.tar into {root.parents[1]}'
_CONTEXT = Official(
    5104,
    f'{_VOC2010} and put trainval_merged.json into {{root}}',
    ignored=False,
    unpacked='trainval_merged.json',
)
_COCO = (
    'unpack val2017.zip into {root}/images and val2017 of '
    'stuffthingmaps_trainval2017.zip into {root}/annotations'
)
_PIXEL_MAPS = 'annotations/val2017/*[0-9].png'
OFFICIAL = dict(
    voc20=_VOC,
    voc21=_VOC,
    context59=_CONTEXT,
    context60=_CONTEXT,
    coco_object=Official(5000, _COCO, ignored=False, unpacked=_PIXEL_MAPS),
    coco_stuff171=Official(5000, _COCO, unpacked=_PIXEL_MAPS),
    ade20k=Official(
        2000, 'unpack ADEChallengeData2016.zip into {root.parent}', ignored=False
    ),
    cityscapes=Official(
        500,
        'unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip into {root}',
        unpacked='gtFine/val/*/*_gtFine_polygons.json',
    ),
    ade847=Official(
        2000,
        'unpack ADE20K_2021_17_01.zip into {root.parent}',
        ignored=None,
        unpacked='images/ADE/validation/**/ADE_val_*_seg.png',
        converts_images=True,
    ),
    pc459=Official(
        5104,
        f'{_VOC2010}, unpack trainval.tar.gz into {{root}}, and put '
        'trainval_merged.json there',
        ignored=None,
        unpacked='trainval/*.mat',
    ),
)
"""The validation split of each benchmark."""
