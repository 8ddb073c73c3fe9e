from pacl_mmseg.models.backbones.clip_resnet import CLIPResNet
from pacl_mmseg.models.backbones.frozen_backbone import FrozenBackbone
from pacl_mmseg.models.backbones.pacl_backbone import PACLBackbone
from pacl_mmseg.models.backbones.timm_tower import TimmTower

__all__ = ['CLIPResNet', 'FrozenBackbone', 'PACLBackbone', 'TimmTower']
