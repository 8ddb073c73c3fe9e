# PACL on CLIP ResNet-50: 7 x 7 positions of 2048 channels at 224 px, before the
# attention pool, texts of 1024. The embedder is the same residual block at these sizes,
# 5,245,952 parameters.
_base_ = ['pacl_vitb16.py']
model = dict(
    encoder=dict(model='RN50-quickgelu'),
    backbone=dict(_delete_=True, type='CLIPResNet', output='block'),
    neck=dict(in_channels=2048, out_channels=1024),
)
