"""The methods that can be compared."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """A way to turn CLIP into a segmentor.

    Args:
        title: Its name in tables.
        trained: Whether it has parts of its own, which come from a checkpoint.
    """

    title: str
    trained: bool = False


METHODS = dict(
    clip=Method('CLIP'),
    maskclip=Method('MaskCLIP'),
    sclip=Method('SCLIP'),
    clearclip=Method('ClearCLIP'),
    naclip=Method('NACLIP'),
    pacl=Method('PACL', trained=True),
    clippy=Method('CLIPpy pooling', trained=True),
    nms05=Method('NMS05 pooling', trained=True),
)
