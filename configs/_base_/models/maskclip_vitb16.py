# MaskCLIP: the last block's values in place of its attention; no training.
_base_ = ['clip_vitb16.py']
model = dict(backbone=dict(dense_attention='maskclip'))
