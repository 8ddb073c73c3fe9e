"""Losses of PACL."""

from .info_nce import (
    InfoNCELoss,
    communication,
    distinct,
    gather_texts,
    repeat,
    text_ids,
)

__all__ = [
    'InfoNCELoss',
    'communication',
    'distinct',
    'gather_texts',
    'repeat',
    'text_ids',
]
