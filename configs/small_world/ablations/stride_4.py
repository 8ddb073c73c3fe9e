# Tokens every 4 pixels at test, half a patch.
_base_ = ['../pacl.py']
model = dict(backbone=dict(stride=4))
