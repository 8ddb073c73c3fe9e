# ClearCLIP: the last block reduced to query-query attention; no training.
_base_ = ['clip_vitb16.py']
model = dict(backbone=dict(dense_attention='clearclip'))
