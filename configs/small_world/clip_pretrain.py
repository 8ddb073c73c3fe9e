# Trains the tiny CLIP itself, both towers, from captions: CLS pooling, no PACL.
# Its weights are shipped as clip.safetensors beside this file. To make them anew:
#   python tools/train.py configs/small_world/clip_pretrain.py
#   python tools/export_open_clip.py configs/small_world/clip_pretrain.py \
#       work_dirs/clip_pretrain/iter_NNNN.pth configs/small_world/clip.safetensors
_base_ = [
    '../_base_/models/small_world.py',
    '../_base_/datasets/small_world.py',
    '../_base_/schedules/pacl.py',
    '../_base_/default_runtime.py',
]
random_weights = dict(pretrained=None)
model = dict(
    data_preprocessor=random_weights,
    backbone=dict(
        frozen=False, output='projection', output_cls_token=True, **random_weights
    ),
    neck=None,
    decode_head=dict(
        text_encoder=dict(frozen=False, **random_weights),
        compatibility=dict(mode='cls', weight_scale=None),
        loss_decode=dict(learnable=True),
    ),
)
