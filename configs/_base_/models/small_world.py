# A tiny CLIP, given inline, under PACL; for the small world of the quickstart.
model = dict(
    type='ZeroShotSegmentor',
    encoder=dict(
        model=dict(
            embed_dim=64,
            vision_cfg=dict(
                image_size=64, patch_size=8, width=128, layers=3, head_width=32
            ),
            text_cfg=dict(
                context_length=40, vocab_size=49408, width=64, heads=4, layers=2
            ),
        ),
        pretrained='{{ fileDirname }}/../../small_world/clip.safetensors',
    ),
    data_preprocessor=dict(type='CLIPDataPreProcessor'),
    backbone=dict(type='PACLBackbone', output='block'),
    neck=dict(type='PatchEmbedder', in_channels=128, out_channels=64),
    decode_head=dict(
        type='ZeroShotTextHead',
        text_encoder=dict(type='OpenCLIPTextEncoder'),
        dataset_name='small_world',
        templates='pacl7',
        compatibility=dict(mode='softmax', weight_scale=10.0),
        loss_decode=dict(type='InfoNCELoss', logit_scale=1 / 0.07),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole', present_classes=True, token_labels=True),
)
