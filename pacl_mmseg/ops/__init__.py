"""Tensor operations of PACL that depend on nothing but PyTorch."""

from .compatibility import MODES, compatibility, compatibility_reference
from .pamr import pamr

__all__ = ['MODES', 'compatibility', 'compatibility_reference', 'pamr']
