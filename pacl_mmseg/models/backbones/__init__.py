from pacl_mmseg.models.backbones.frozen_backbone import FrozenBackbone
from pacl_mmseg.models.backbones.pacl_backbone import PACLBackbone

__all__ = ['FrozenBackbone', 'PACLBackbone']
