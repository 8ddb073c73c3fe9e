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

__all__ = [
    'MODES',
    'compatibility',
    'compatibility_reference',
    'compiled',
    'own_caption_compatibility',
    'pamr',
    'weight_entropy',
]
