from pacl_mmseg.datasets.draws import DrawSampler, ShuffledDraws
from pacl_mmseg.datasets.image_text import CaptionListDataset, CocoCaptionsDataset
from pacl_mmseg.datasets.large_vocabulary import (
    ADE20K847Dataset,
    PascalContext459Dataset,
)
from pacl_mmseg.datasets.segmentation import COCOObjectDataset, PascalVOC20Dataset
from pacl_mmseg.datasets.shards import ImageTextShards
from pacl_mmseg.datasets.small_world import (
    SmallWorldCaptions,
    SmallWorldObjects,
    SmallWorldSegmentation,
)
from pacl_mmseg.datasets.small_world_clips import SmallWorldClips
from pacl_mmseg.datasets.transforms import (
    CLIPResizeCrop,
    LoadImageTokens,
    LoadPILImage,
    LoadSegmentationMask,
    NounPrompt,
    PackImageText,
    PickCaption,
    SquareImageAndMask,
    TokenizeCaption,
    collate_image_text,
)
from pacl_mmseg.datasets.water_birds import SmallWorldBirds, WaterBirds

__all__ = [
    'ADE20K847Dataset',
    'CLIPResizeCrop',
    'COCOObjectDataset',
    'CaptionListDataset',
    'CocoCaptionsDataset',
    'DrawSampler',
    'ImageTextShards',
    'LoadImageTokens',
    'LoadPILImage',
    'LoadSegmentationMask',
    'NounPrompt',
    'PackImageText',
    'PascalContext459Dataset',
    'PascalVOC20Dataset',
    'PickCaption',
    'ShuffledDraws',
    'SmallWorldBirds',
    'SmallWorldCaptions',
    'SmallWorldClips',
    'SmallWorldObjects',
    'SmallWorldSegmentation',
    'SquareImageAndMask',
    'TokenizeCaption',
    'WaterBirds',
    'collate_image_text',
]
