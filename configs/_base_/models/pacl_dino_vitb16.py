# PACL between towers that never met: DINO's ViT-B/16, trained on images alone, and the
# texts of CLIP ViT-B/16. Any other vision tower of timm is one line here, and its
# channels those of the neck; of a local file of weights,
# `model.encoder.vision.pretrained=/path/to/dino_vitbase16_pretrain.pth`.
_base_ = ['pacl_vitb16.py']
model = dict(
    encoder=dict(
        vision=dict(model='timm/vit_base_patch16_224.dino', pretrained='dino')
    ),
    # After DINO's last layer norm, as its own evaluation takes tokens.
    backbone=dict(_delete_=True, type='TimmTower', output='norm', fit='crop'),
)
