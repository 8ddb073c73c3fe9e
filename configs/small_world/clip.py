# The frozen tiny CLIP's own patch tokens, projected: no training, no PACL.
_base_ = [
    '../_base_/models/small_world.py',
    '../_base_/datasets/small_world.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=dict(output='projection'), neck=None)
