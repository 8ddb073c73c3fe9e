"""Tensor operations of PACL that depend on nothing but PyTorch and torchvision."""

from .activation import activation_map
from .compatibility import (
    MODES,
    compatibility,
    compatibility_reference,
    own_caption_compatibility,
    weight_entropy,
)
from .compiled import compiled
from .pamr import pamr
from .patches import patch_labels
from .principal_colours import principal_colours
from .roc import auroc, roc_curve
from .temporal import agreement, exponential_average, flicker, warp

__all__ = [
    'MODES',
    'activation_map',
    'agreement',
    'auroc',
    'compatibility',
    'compatibility_reference',
    'compiled',
    'exponential_average',
    'flicker',
    'own_caption_compatibility',
    'pamr',
    'patch_labels',
    'principal_colours',
    'roc_curve',
    'warp',
    'weight_entropy',
]
