from pacl_mmseg.models.backbones import (
    CLIPResNet,
    FrozenBackbone,
    PACLBackbone,
    TimmTower,
)
from pacl_mmseg.models.classifiers import ZeroShotClassifier
from pacl_mmseg.models.data_preprocessor import CLIPDataPreProcessor
from pacl_mmseg.models.decode_heads import CompatibilityFunction, ZeroShotTextHead
from pacl_mmseg.models.losses import InfoNCELoss
from pacl_mmseg.models.necks import PatchEmbedder
from pacl_mmseg.models.segmentors import ZeroShotSegmentor
from pacl_mmseg.models.text_encoders import OpenCLIPTextEncoder

__all__ = [
    'CLIPDataPreProcessor',
    'CLIPResNet',
    'CompatibilityFunction',
    'FrozenBackbone',
    'InfoNCELoss',
    'OpenCLIPTextEncoder',
    'PACLBackbone',
    'PatchEmbedder',
    'TimmTower',
    'ZeroShotClassifier',
    'ZeroShotSegmentor',
    'ZeroShotTextHead',
]
