# Classifies whole images with what pacl_vitb16.py trains and segments with. How an
# image is pooled for each class, decode_head.compatibility says.
_base_ = ['pacl_vitb16.py']
model = dict(
    type='ZeroShotClassifier',
    data_preprocessor=dict(mixed_sizes=False),
    decode_head=dict(logit_scale='pretrained'),
    train_cfg=None,
    test_cfg=None,
)
