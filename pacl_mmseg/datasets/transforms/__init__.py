from .captions import NounPrompt, PickCaption, TokenizeCaption
from .formatting import PackImageText, collate_image_text
from .image_tokens import LoadImageTokens
from .loading import CLIPResizeCrop, LoadPILImage
from .masks import LoadSegmentationMask
from .square import SquareImageAndMask

__all__ = [
    'CLIPResizeCrop',
    'LoadImageTokens',
    'LoadPILImage',
    'LoadSegmentationMask',
    'NounPrompt',
    'PackImageText',
    'PickCaption',
    'SquareImageAndMask',
    'TokenizeCaption',
    'collate_image_text',
]
