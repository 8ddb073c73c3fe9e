from pacl_mmseg.models.backbones.clip_resnet import CLIPResNet
from pacl_mmseg.models.backbones.frozen_backbone import FrozenBackbone
from pacl_mmseg.models.backbones.pacl_backbone import PACLBackbone
from pacl_mmseg.models.backbones.timm_tower import TimmTower
from pacl_mmseg.models.backbones.token_patches import token_patches

__all__ = [
    'CLIPResNet',
    'FrozenBackbone',
    'PACLBackbone',
    'TimmTower',
    'token_patches',
]
