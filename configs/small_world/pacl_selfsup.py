# PACL between towers that never met: a tiny ViT trained on images alone
# (mae_pretrain.py) and the texts of the tiny CLIP. Otherwise it is
# ablations/batch_64_short.py, where CLIP's own vision tower stands.
_base_ = ['pacl.py']
train_dataloader = dict(batch_size=64)
model = dict(
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    backbone=dict(
        _delete_=True,
        type='FrozenBackbone',
        pretrained='{{ fileDirname }}/mae.safetensors',
        backbone=dict(
            type='mmpretrain.VisionTransformer',
            arch=dict(
                embed_dims=128, num_layers=3, num_heads=4, feedforward_channels=512
            ),
            img_size=64,
            patch_size=8,
            out_type='featmap',
        ),
    ),
)
