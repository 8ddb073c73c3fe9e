"""Losses of PACL."""

from .info_nce import InfoNCELoss, communication, gather_texts, text_ids

__all__ = ['InfoNCELoss', 'communication', 'gather_texts', 'text_ids']
