"""The methods that can be compared, and benchmarks of whole images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ENCODERS = ('vitb16', 'vitl14', 'rn50', 'dino_vitb16')
# What a method takes of an image encoder, and those that have it.
LAST_BLOCK = 'the attention of the last block of a CLIP ViT'
TEXT_SPACE = 'image tokens in the space of the texts'
ANY_TOKENS = 'any image tokens'
HAVE = {
    LAST_BLOCK: ENCODERS[:2],
    TEXT_SPACE: ENCODERS[:3],
    ANY_TOKENS: ENCODERS,  # a trained embedder brings them to the texts
}


@dataclass(frozen=True)
class Method:
    """A way to turn CLIP into a segmentor, or into a classifier.

    Args:
        title: Its name in tables.
        takes: Of an image encoder, a key of :data:`HAVE`.
        trained: Whether it has parts of its own, which come from a checkpoint.
        options: Of a classifier, what it changes in PACL's configs.
    """

    title: str
    takes: str = ANY_TOKENS
    trained: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


METHODS = dict(
    clip=Method('CLIP', TEXT_SPACE),
    maskclip=Method('MaskCLIP', LAST_BLOCK),
    sclip=Method('SCLIP', LAST_BLOCK),
    clearclip=Method('ClearCLIP', LAST_BLOCK),
    naclip=Method('NACLIP', LAST_BLOCK),
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
        TEXT_SPACE,
        options={
            **_CLIP,
            'model.backbone.output_cls_token': True,
            'model.decode_head.compatibility.mode': 'cls',
        },
    ),
    clip_mean=Method(
        'CLIP (mean patch)',
        TEXT_SPACE,
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
