# PACL on CLIP ViT-B/16. The encoder is said once, and reaches every part: also
# `model.encoder.pretrained=/path/to/weights`, `model.encoder.dtype=bfloat16`, the
# precision of the frozen towers and of the images in training, and
# `model.encoder.compile=True`. How many images and texts a tower encodes at once,
# model.backbone.batch_size and model.decode_head.text_encoder.batch_size, bounds memory
# and changes results by rounding alone.
model = dict(
    type='ZeroShotSegmentor',
    encoder=dict(model='ViT-B-16-quickgelu', pretrained='openai'),
    data_preprocessor=dict(type='CLIPDataPreProcessor', mixed_sizes=True),
    # Of windows that are smaller, since the image is (say 2010 x 140 pixels), SCLIP's
    # code leaves out what is no whole patch. At 224 pixels these two change nothing.
    backbone=dict(
        type='PACLBackbone', output='block', fit='crop', interpolate_offset=0.1
    ),
    neck=dict(type='PatchEmbedder', in_channels=768, out_channels=512),
    decode_head=dict(
        type='ZeroShotTextHead',
        text_encoder=dict(type='OpenCLIPTextEncoder'),
        dataset_name='voc20',
        templates='imagenet80',  # when testing, as most published figures
        # The paper's temperatures are not known for certain: 1 inside the softmax
        # over patches and 0.07 in the loss are what accounts of it say.
        compatibility=dict(mode='softmax', weight_scale=1.0, normalize_first=False),
        loss_decode=dict(type='InfoNCELoss', logit_scale=1 / 0.07, learnable=False),
        logit_scale=40.0,
    ),
    train_cfg=dict(),
    test_cfg=dict(
        mode='slide', crop_size=(224, 224), stride=(112, 112), present_classes=True
    ),
)
