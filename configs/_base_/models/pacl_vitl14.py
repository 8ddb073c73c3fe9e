# PACL on CLIP ViT-L/14: 16 x 16 tokens of 1024 channels at 224 px, texts of 768. The
# embedder is the same residual block at these sizes, 2,164,992 parameters.
_base_ = ['pacl_vitb16.py']
model = dict(
    encoder=dict(model='ViT-L-14-quickgelu'),
    neck=dict(in_channels=1024, out_channels=768),
)
