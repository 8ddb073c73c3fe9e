# Classifies whole images with what small_world.py trains and segments with.
_base_ = ['small_world.py']
model = dict(
    type='ZeroShotClassifier',
    decode_head=dict(logit_scale='pretrained'),
    train_cfg=None,
    test_cfg=None,
)
