"""Pictures of segmentations, and their colours."""

from pacl_mmseg.visualization.drawing import blend, heat, with_legend
from pacl_mmseg.visualization.palette import colour_of, palette

__all__ = ['blend', 'colour_of', 'heat', 'palette', 'with_legend']
