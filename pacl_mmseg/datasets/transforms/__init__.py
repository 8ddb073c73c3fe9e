from .captions import NounPrompt, PickCaption, TokenizeCaption
from .formatting import PackImageText, collate_image_text
from .image_tokens import LoadImageTokens
from .loading import CLIPResizeCrop, LoadPILImage
from .masks import LoadSegmentationMask

__all__ = [
    'CLIPResizeCrop',
    'LoadImageTokens',
    'LoadPILImage',
    'LoadSegmentationMask',
    'NounPrompt',
    'PackImageText',
    'PickCaption',
    'TokenizeCaption',
    'collate_image_text',
]
