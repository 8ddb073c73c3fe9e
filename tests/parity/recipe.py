"""What the golden files were made with: the same in any code base, nothing to download.

Numbers come from ``numpy.random.RandomState``, whose stream is fixed for good.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

# With 64 channels per head, as the authors' code has it.
ARCHITECTURE = dict(
    embed_dim=64,
    quick_gelu=True,
    vision_cfg=dict(image_size=32, patch_size=8, width=128, layers=3, head_width=64),
    text_cfg=dict(context_length=77, vocab_size=49408, width=64, heads=1, layers=1),
)
# What NMS05's heads fit on: the widths and the grid of ViT-B/16, all else tiny.
NMS05_ARCHITECTURE = dict(
    embed_dim=512,
    vision_cfg=dict(image_size=224, patch_size=16, width=768, layers=1, head_width=64),
    text_cfg=dict(context_length=77, vocab_size=49408, width=64, heads=1, layers=1),
)
NMS05_SIZE = 400  # pixels
# Classes with synonyms, as in the authors' files; class 0 is the background.
NAMES = ('sky, wall, tree', 'cat', 'dog, puppy', 'bus', 'chair, armchair')
FIRST_NAMES = [entry.split(', ')[0] for entry in NAMES]
# Of the tokens' images; the last one is no multiple of the patch size.
SIZES = dict(native=(32, 32), large=(48, 72), rest=(51, 75))
# Of the segmented image, before and after its short side was resized.
ORIGINAL_SIZE, INPUT_SIZE = (40, 56), (48, 67)
WINDOW, WINDOW_STRIDE = 32, 16
# Random texts are much alike: a large scale makes probabilities differ.
LOGIT_SCALE = 200
THRESHOLD, AREA_THRESHOLD = 0.2, 0.1


def draw(seed: int, *shape: int) -> Tensor:
    """Standard normal numbers, float32."""
    numbers = np.random.RandomState(seed).standard_normal(shape)
    return torch.from_numpy(numbers.astype(np.float32))


def weights(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Weights of a CLIP, each from its name (OpenAI's) and shape alone.

    Scaled so that no attention is flat or one-hot, and positions matter.
    """
    made = {}
    for name, shape in shapes.items():
        numbers = draw(crc32(name.encode()), *shape)
        if 'embedding' in name:
            numbers *= 0.5
        elif len(shape) > 1:
            numbers *= 0.7 / float(np.prod(shape[1:])) ** 0.5
        else:  # biases around 0, factors of layer norms around 1
            numbers = 0.1 * numbers + float(name.endswith('weight'))
        made[name] = numbers
    return made


def images(height: int, width: int, count: int = 1) -> Tensor:
    """Normalised images ``(count, 3, height, width)``: large shapes and noise."""
    shapes = F.interpolate(draw(2, count, 3, 3, 4), (height, width), mode='bicubic')
    return shapes + 0.3 * draw(3, count, 3, height, width)


def dense_images(*sizes: str) -> dict[str, Tensor]:
    """Two images of each of the sizes, by default of all."""
    return {size: images(*SIZES[size], count=2) for size in sizes or SIZES}


def name_vectors() -> Tensor:
    """Random unit vectors in place of text embeddings, ``(5, 64)``."""
    return F.normalize(draw(1, 5, 64), dim=-1)


def pamr_inputs() -> tuple[Tensor, Tensor]:
    """An image ``(1, 3, 20, 28)`` and scores ``(1, 5, 20, 28)``."""
    return draw(4, 1, 3, 20, 28), draw(5, 1, 5, 20, 28)


def clippy_image() -> tuple[Image.Image, Image.Image]:
    """A photograph's stand-in, 61 x 90 px, and a palette mask of VOC21."""
    shape = (61, 90)
    pixels = np.random.RandomState(8).randint(0, 256, (8, 12, 3)).astype(np.uint8)
    image = Image.fromarray(pixels).resize(shape[::-1], Image.Resampling.BILINEAR)
    labels = np.random.RandomState(9).choice([*range(21), 255], (6, 9)).astype(np.uint8)
    mask = Image.fromarray(labels).resize(shape[::-1], Image.Resampling.NEAREST)
    mask.putpalette([value % 256 for value in range(0, 768 * 7, 7)])
    return image, mask


def clippy_targets() -> Tensor:
    """VOC21 labels of two images, with ignored ones: ``(2, 32, 32)``."""
    labels = np.random.RandomState(10).choice([*range(21), 255], (2, 32, 32))
    return torch.from_numpy(labels)


def clippy_pairs() -> tuple[Tensor, Tensor]:
    """All tokens of five images, class token first, ``(5, 17, 64)``; their texts."""
    return draw(6, 5, 17, 64), draw(7, 5, 64)


def pairs() -> tuple[Tensor, Tensor]:
    """Three images of NMS05's size and the token ids ``(3, 77)`` of three texts."""
    tokens = torch.zeros(3, 77, dtype=torch.int64)
    for row, length in enumerate((3, 6, 9)):
        words = np.random.RandomState(row).randint(1, 49406, length)
        tokens[row, : length + 2] = torch.tensor([49406, *words, 49407])
    return images(NMS05_SIZE, NMS05_SIZE, count=3), tokens


def thinned(scores: Tensor) -> Tensor:
    """Every third pixel of ``(C, H, W)``, which keeps the files small."""
    return scores[:, ::3, ::3]


def golden(name: str, key: str) -> Tensor:
    """A stored output of the authors' code."""
    with np.load(Path(__file__).parent / f'{name}.npz') as stored:
        return torch.from_numpy(stored[key])
