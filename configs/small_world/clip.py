# Trains the tiny CLIP itself, both towers, from captions: CLS pooling, no PACL.
# Its weights are shipped beside this file; tools/export_clip.py wrote them.
_base_ = [
    '../_base_/models/small_world.py',
    '../_base_/datasets/small_world.py',
    '../_base_/schedules/pacl.py',
    '../_base_/default_runtime.py',
]
encoder = dict(pretrained=None)
model = dict(
    backbone=dict(
        pretrained=None, frozen=False, output='projection', output_cls_token=True
    ),
    neck=None,
    decode_head=dict(
        text_encoder=dict(pretrained=None, frozen=False),
        compatibility=dict(mode='cls', weight_scale=None),
        loss_decode=dict(learnable=True),
    ),
    data_preprocessor=dict(pretrained=None),
)
