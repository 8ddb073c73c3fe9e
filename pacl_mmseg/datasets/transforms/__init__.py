from .captions import NounPrompt, PickCaption, TokenizeCaption
from .formatting import PackImageText, collate_image_text
from .loading import CLIPResizeCrop, LoadPILImage
from .masks import LoadSegmentationMask

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
