from .captions import NounPrompt, PickCaption
from .loading import CLIPResizeCrop, LoadPILImage

__all__ = ['CLIPResizeCrop', 'LoadPILImage', 'NounPrompt', 'PickCaption']
