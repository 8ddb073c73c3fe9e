from pacl_mmseg.datasets.draws import DrawSampler, ShuffledDraws
from pacl_mmseg.datasets.image_text import CaptionListDataset, CocoCaptionsDataset
from pacl_mmseg.datasets.shards import ImageTextShards
from pacl_mmseg.datasets.small_world import SmallWorldCaptions, SmallWorldSegmentation
from pacl_mmseg.datasets.transforms import (
    CLIPResizeCrop,
    LoadPILImage,
    NounPrompt,
    PickCaption,
)
from pacl_mmseg.datasets.voc20 import PascalVOC20Dataset

__all__ = [
    'CLIPResizeCrop',
    'CaptionListDataset',
    'CocoCaptionsDataset',
    'DrawSampler',
    'ImageTextShards',
    'LoadPILImage',
    'NounPrompt',
    'PascalVOC20Dataset',
    'PickCaption',
    'ShuffledDraws',
    'SmallWorldCaptions',
    'SmallWorldSegmentation',
]
