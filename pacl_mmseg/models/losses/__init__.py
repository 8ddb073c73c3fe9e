"""Losses of PACL."""

from .info_nce import InfoNCELoss, gather_texts, text_ids

__all__ = ['InfoNCELoss', 'gather_texts', 'text_ids']
