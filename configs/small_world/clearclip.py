# ClearCLIP: the last block reduced to query-query attention; no training.
_base_ = ['clip.py']
model = dict(backbone=dict(dense_attention='clearclip'))
