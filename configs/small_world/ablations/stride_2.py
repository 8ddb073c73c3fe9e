# Tokens every 2 pixels at test, a quarter of a patch.
_base_ = ['../pacl.py']
model = dict(backbone=dict(stride=2))
