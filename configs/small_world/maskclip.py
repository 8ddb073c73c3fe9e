# MaskCLIP: the last block's values in place of its attention; no training.
_base_ = ['clip.py']
model = dict(backbone=dict(dense_attention='maskclip'))
