"""Tensor operations of PACL that depend on nothing but PyTorch."""

from .compatibility import MODES, compatibility, compatibility_reference

__all__ = ['MODES', 'compatibility', 'compatibility_reference']
