from .captions import NounPrompt, PickCaption, TokenizeCaption
from .loading import CLIPResizeCrop, LoadPILImage
from .masks import LoadSegmentationMask
from .packing import PackImageText, collate_image_text

__all__ = [
    'CLIPResizeCrop',
    'LoadPILImage',
    'LoadSegmentationMask',
    'NounPrompt',
    'PackImageText',
    'PickCaption',
    'TokenizeCaption',
    'collate_image_text',
]
