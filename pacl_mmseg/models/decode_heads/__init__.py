from pacl_mmseg.models.decode_heads.compatibility_function import (
    CompatibilityFunction,
)
from pacl_mmseg.models.decode_heads.cross_attention import (
    CrossAttentionCompatibility,
)
from pacl_mmseg.models.decode_heads.neighbour_contrast_head import (
    NeighbourContrastHead,
)
from pacl_mmseg.models.decode_heads.zero_shot_text_head import ZeroShotTextHead

__all__ = [
    'CompatibilityFunction',
    'CrossAttentionCompatibility',
    'NeighbourContrastHead',
    'ZeroShotTextHead',
]
