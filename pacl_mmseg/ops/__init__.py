"""Tensor operations of PACL that depend on nothing but PyTorch."""

from .compatibility import (
    MODES,
    compatibility,
    compatibility_reference,
    own_caption_compatibility,
    weight_entropy,
)
from .compiled import compiled
from .pamr import pamr
from .temporal import agreement, exponential_average, flicker, warp

__all__ = [
    'MODES',
    'agreement',
    'compatibility',
    'compatibility_reference',
    'compiled',
    'exponential_average',
    'flicker',
    'own_caption_compatibility',
    'pamr',
    'warp',
    'weight_entropy',
]
