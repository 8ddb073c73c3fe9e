"""Losses of PACL."""

from .info_nce import (
    InfoNCELoss,
    distinct,
    gather_texts,
    repeat,
    text_ids,
)

__all__ = [
    'InfoNCELoss',
    'distinct',
    'gather_texts',
    'repeat',
    'text_ids',
]
