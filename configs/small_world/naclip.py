# NACLIP: the last block reduced to attention to keys and neighbours; no training.
_base_ = ['clip.py']
model = dict(backbone=dict(dense_attention=dict(type='naclip', std=5.0)))
