"""The methods that can be compared, and benchmarks of whole images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Method:
    """A way to turn CLIP into a segmentor, or into a classifier.

    Args:
        title: Its name in tables.
        trained: Whether it has parts of its own, which come from a checkpoint.
        options: Of a classifier, what it changes in PACL's configs.
    """

    title: str
    trained: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


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

_CLIP = {
    'model.backbone.output': 'projection',
    'model.neck': None,
    'model.decode_head.compatibility.weight_scale': None,
}
CLASSIFIERS = dict(
    clip=Method(
        'CLIP (class token)',
        options={
            **_CLIP,
            'model.backbone.output_cls_token': True,
            'model.decode_head.compatibility.mode': 'cls',
        },
    ),
    clip_mean=Method(
        'CLIP (mean patch)',
        options={**_CLIP, 'model.decode_head.compatibility.mode': 'mean'},
    ),
    pacl=Method('PACL φ', trained=True),
)
"""Ways to pool an image for a text."""

CLASSIFICATION = (
    *('imagenet', 'cifar10', 'cifar100', 'caltech101', 'dtd', 'fgvcaircraft'),
    *('flowers102', 'food101', 'oxfordiiitpet', 'stanfordcars', 'sun397', 'eurosat'),
)
IMAGE_LEVEL = {
    **{name: f'classification/pacl_{name}.py' for name in CLASSIFICATION},
    'small_world_objects': 'classification/pacl_small_world.py',
    'coco_retrieval': 'retrieval/pacl_coco.py',
    'small_world_retrieval': 'retrieval/pacl_small_world.py',
}
"""Benchmarks of whole images, and their configs."""
