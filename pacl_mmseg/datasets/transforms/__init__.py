from .captions import NounPrompt, PickCaption
from .loading import CLIPResizeCrop, LoadPILImage
from .masks import LoadSegmentationMask

__all__ = [
    'CLIPResizeCrop',
    'LoadPILImage',
    'LoadSegmentationMask',
    'NounPrompt',
    'PickCaption',
]
