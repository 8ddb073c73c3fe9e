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
model = dict(
    encoder=dict(pretrained=None),  # random weights
    backbone=dict(frozen=False, output='projection', output_cls_token=True),
    neck=None,
    decode_head=dict(
        text_encoder=dict(frozen=False),
        compatibility=dict(mode='cls', weight_scale=None),
        loss_decode=dict(learnable=True),
    ),
)
train_dataloader = dict(
    dataset=dict(dataset=dict(pipeline=[dict(type='PackImageText')]))
)
train_cfg = dict(max_iters=400, val_interval=400)
optim_wrapper = dict(optimizer=dict(lr=1e-3, weight_decay=0.1))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.02, begin=0, end=50, by_epoch=False),
    dict(type='CosineAnnealingLR', eta_min=0.0, begin=50, by_epoch=False),
]
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=100))
