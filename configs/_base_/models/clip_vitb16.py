# CLIP's own patch tokens, projected to the space of its texts: no training.
_base_ = ['pacl_vitb16.py']
model = dict(backbone=dict(output='projection'), neck=None)
