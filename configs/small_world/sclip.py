# SCLIP: query-query and key-key attention in the last block; no training.
_base_ = ['clip.py']
model = dict(backbone=dict(dense_attention='sclip'))
