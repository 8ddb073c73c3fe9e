# The model of github.com/NMS05/Patch-Aligned-Contrastive-Learning as its code has it:
# LAION-2B's ViT-B/16 at 400 px with positions resized bilinearly, trained heads on both
# sides, an image pooled for its own caption alone with weights sigmoid(10 cos),
# temperature 0.1, equal captions being negatives of each other. Its open_clip (2.20)
# gives tokens before the last layer norm, today's gives them after it.
_base_ = ['nms05_vitb16.py']
model = dict(
    encoder=dict(model='ViT-B-16', pretrained='laion2b_s34b_b88k'),
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53],  # ImageNet's
        std=[58.395, 57.12, 57.375],
    ),
    backbone=dict(fit='resize', interpolate_offset=0.0, interpolate_mode='bilinear'),
    decode_head=dict(
        text_projector=dict(
            type='PatchEmbedder',
            in_channels=512,
            out_channels=512,
            depth=0,
            pre_norm=True,
            dropout=0.1,
        ),
        compatibility=dict(pooling='own_caption'),
        loss_decode=dict(mask_duplicates=False),
    ),
    test_cfg=dict(
        crop_size=(400, 400), stride=(200, 200)
    ),  # ours: there are no windows
)
