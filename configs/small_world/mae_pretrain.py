# Trains a tiny ViT on the small world's images alone, no texts and no masks, by
# MMPretrain's MAE: a quarter of the patches is seen, the pixels of the others are
# predicted. Its weights are shipped as mae.safetensors beside this file. To make them
# anew, some 3 minutes of one core:
#   python tools/train.py configs/small_world/mae_pretrain.py
#   python -c "
#   import torch, safetensors.torch
#   weights = torch.load('work_dirs/mae_pretrain/iter_400.pth')['state_dict']
#   safetensors.torch.save_file(
#       {k: v.half() for k, v in weights.items() if k.startswith('backbone.')},
#       'configs/small_world/mae.safetensors')"
_base_ = [
    '../_base_/datasets/small_world.py',
    '../_base_/schedules/pacl.py',
    '../_base_/default_runtime.py',
]
model = dict(
    type='mmpretrain.MAE',
    data_preprocessor=dict(
        type='mmpretrain.SelfSupDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True,
    ),
    backbone=dict(
        type='mmpretrain.MAEViT',
        # As large as the tiny CLIP's vision tower.
        arch=dict(embed_dims=128, num_layers=3, num_heads=4, feedforward_channels=512),
        img_size=64,
        patch_size=8,
        mask_ratio=0.75,
    ),
    neck=dict(
        type='mmpretrain.MAEPretrainDecoder',
        num_patches=64,
        patch_size=8,
        embed_dim=128,
        decoder_embed_dim=64,
        decoder_depth=1,
        decoder_num_heads=4,
    ),
    # Colours are half of a class: patches are not normalised one by one.
    head=dict(
        type='mmpretrain.MAEPretrainHead',
        patch_size=8,
        norm_pix=False,
        loss=dict(type='mmpretrain.PixelReconstructionLoss', criterion='L2'),
    ),
    init_cfg=[
        dict(type='Xavier', layer='Linear', distribution='uniform'),
        dict(type='Constant', layer='LayerNorm', val=1.0, bias=0.0),
    ],
)
train_dataloader = dict(
    batch_size=128,
    collate_fn=dict(type='default_collate'),
    dataset=dict(dataset=dict(pipeline=[dict(type='mmpretrain.PackInputs')])),
)
val_dataloader = None
val_cfg = None
val_evaluator = None
max_iters = 400  # of 800 on the schedule: it suffices
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
optim_wrapper = dict(optimizer=dict(lr=1.5e-3, betas=(0.9, 0.95), weight_decay=0.05))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.02, begin=0, end=50, by_epoch=False),
    dict(type='CosineAnnealingLR', eta_min=0.0, begin=50, end=800, by_epoch=False),
]
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=200))
