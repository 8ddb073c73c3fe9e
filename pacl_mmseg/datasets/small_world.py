"""Small World: procedural image-text scenes with exact segmentation masks.

A scene shows two to four overlapping objects on a noisy grey background. Each
object is one of 36 classes, a texture x a colour ("striped red"), in one of
five shapes; shape and place are neither part of the class nor of the caption.
Six classes are held out of the ``train`` split, images and captions alike, so
that ``val`` and ``test`` also measure names that were never read. Nothing has to
be downloaded: a scene is a pure function of ``(seed, split, index, size)``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from mmengine.dataset import BaseDataset
from mmseg.datasets import BaseSegDataset

from pacl_mmseg.registry import DATASETS
from pacl_mmseg.utils import whole_file

COLOURS = {
    'red': (215, 35, 40),
    'green': (45, 175, 50),
    'blue': (45, 75, 230),
    'yellow': (235, 215, 40),
    'purple': (175, 50, 205),
    'cyan': (45, 210, 215),
}
TEXTURES = ('plain', 'striped', 'checked', 'dotted', 'gridded', 'speckled')

CLASSES = tuple(f'{texture} {colour}' for texture in TEXTURES for colour in COLOURS)
# The diagonal of the table: each texture and each colour is held out once, so
# all of the words of a held-out name are seen in training, but never together.
HELD_OUT = tuple(
    f'{texture} {colour}' for texture, colour in zip(TEXTURES, COLOURS, strict=True)
)
SEEN = tuple(name for name in CLASSES if name not in HELD_OUT)
# For display only: the colour itself, darker from one texture to the next.
PALETTE = [
    [round(channel * (1 - 0.12 * step)) for channel in rgb]
    for step in range(len(TEXTURES))
    for rgb in COLOURS.values()
]

IGNORE_INDEX = 255
SPLITS = {'train': 0, 'val': 1, 'test': 2}

MIN_OBJECTS, MAX_OBJECTS = 2, 4
# Diameter of the circle of the same area, as a fraction of the image's side.
MIN_DIAMETER, MAX_DIAMETER = 0.36, 0.58
# Smallest area that must stay visible, as a fraction of the image.
MIN_VISIBLE = 0.06
MAX_TRIES = 20

PREFIXES = ('', '', 'a photo of ', 'a picture of ', 'an image showing ', 'there is ')
THINGS = ('thing', 'object', 'shape', 'item', 'figure')


@dataclass(frozen=True)
class Scene:
    """One rendered scene.

    Attributes:
        image: RGB, uint8, (H, W, 3).
        mask: class index of each pixel, 255 on the background, uint8, (H, W).
        caption: a sentence that mentions every visible object.
        nouns: the class names in the caption, in the order they are mentioned.
    """

    image: np.ndarray
    mask: np.ndarray
    caption: str
    nouns: tuple[str, ...]


def render_scene(
    index: int,
    *,
    split: str = 'train',
    seed: int = 0,
    size: int = 64,
    objects: tuple[int, int] = (MIN_OBJECTS, MAX_OBJECTS),
) -> Scene:
    """Render the scene ``index`` of a split, ``size`` x ``size`` pixels.

    It has from ``objects[0]`` to ``objects[1]`` objects, fewer where there is no room.
    The classes of one scene are distinct and equally likely: out of ``SEEN`` in
    the ``train`` split, out of all ``CLASSES`` in the others.
    """
    check_split(split)
    rng = np.random.default_rng([seed, SPLITS[split], index])
    names = class_names(split)

    owner = _place_objects(rng, rng.integers(objects[0], objects[1] + 1), size)
    num_objects = owner.max()
    chosen = rng.choice(len(names), num_objects, replace=False)
    class_ids = [CLASSES.index(names[i]) for i in chosen]

    image = _paint(rng, owner, class_ids)
    mask = np.array([IGNORE_INDEX, *class_ids], dtype=np.uint8)[owner]
    nouns = tuple(CLASSES[class_ids[i]] for i in rng.permutation(num_objects))
    return Scene(image, mask, _describe(rng, nouns), nouns)


def check_split(split: str) -> None:
    """Raise ValueError for a split that there is not."""
    if split not in SPLITS:
        raise ValueError(f'split must be one of {tuple(SPLITS)}, not {split!r}')


def class_names(split: str) -> tuple[str, ...]:
    """The classes that occur in a split."""
    return SEEN if split == 'train' else CLASSES


# --------------------------------------------------------------------- shapes


def _place_objects(rng: np.random.Generator, wanted: int, size: int) -> np.ndarray:
    """Place up to ``wanted`` objects, later ones in front of earlier ones.

    An object that is too small, or hides too much of another, is drawn anew; it
    is dropped when ``MAX_TRIES`` did not suffice.

    Returns:
        0 on the background and i on the visible part of the i-th object,
        uint8, (size, size).
    """
    owner = np.zeros((size, size), dtype=np.uint8)
    placed = 0
    for _ in range(wanted):
        for _ in range(MAX_TRIES):
            trial = owner.copy()
            trial[draw_shape(rng, size)] = placed + 1
            visible = np.bincount(trial.ravel(), minlength=placed + 2)[1:]
            if visible.min() >= MIN_VISIBLE * size * size:
                owner = trial
                placed += 1
                break
    return owner


def draw_shape(rng: np.random.Generator, size: int, margin: int = 0) -> np.ndarray:
    """Draw one random shape: bool, (size, size).

    With a ``margin`` also what lies up to so many pixels outside of the image:
    (size + 2 * margin, size + 2 * margin).
    """
    radius = 0.5 * rng.uniform(MIN_DIAMETER, MAX_DIAMETER) * size
    centre_x, centre_y = rng.uniform(0.7 * radius, size - 0.7 * radius, 2)
    angle = rng.uniform(0, 2 * np.pi)
    cos, sin = np.float32(np.cos(angle) / radius), np.float32(np.sin(angle) / radius)
    axis = np.arange(-margin, size + margin, dtype=np.float32) + np.float32(0.5)
    x = (axis - np.float32(centre_x))[None, :]
    y = (axis - np.float32(centre_y))[:, None]
    # Coordinates in the shape's own frame, where its area is that of the unit
    # circle, pi.
    u, v = cos * x + sin * y, cos * y - sin * x
    return SHAPES[rng.integers(len(SHAPES))](rng, u, v)


def _circle(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return u * u + v * v < 1


def _ellipse(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    aspect = np.float32(rng.uniform(1.3, 1.8))
    return u * u / aspect + v * v * aspect < 1


def _rectangle(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    stretch = np.float32(rng.uniform(1, 1.6) ** 0.5)
    half_side = np.float32(np.sqrt(np.pi) / 2)
    return np.maximum(abs(u) / stretch, abs(v) * stretch) < half_side


def _triangle(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    inner_radius = np.float32(np.sqrt(np.pi / np.sqrt(27)))
    # The two slanted sides are mirror images of one another, hence the abs.
    slant = np.float32(np.sqrt(0.75)) * abs(u) - v / 2
    return np.maximum(v, slant) < inner_radius


def _blob(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    lobes, depth = rng.integers(3, 6), np.float32(rng.uniform(0.15, 0.3))
    edge = 1 + depth * np.cos(lobes * np.arctan2(v, u))
    return u * u + v * v < edge * edge


SHAPES: tuple[Callable[..., np.ndarray], ...] = (
    _circle,
    _ellipse,
    _rectangle,
    _triangle,
    _blob,
)


# ----------------------------------------------------------- colour and texture


def _paint(
    rng: np.random.Generator, owner: np.ndarray, class_ids: Sequence[int]
) -> np.ndarray:
    """Paint the objects of ``owner`` (H, W): RGB, uint8, (H, W, 3)."""
    image = background(rng, len(owner))
    for number, class_id in enumerate(class_ids, 1):
        image[owner == number] = object_pixels(rng, class_id, owner == number)
    image += 6 * rng.standard_normal(image.shape, dtype=np.float32)
    return image.clip(0, 255).astype(np.uint8)


def object_pixels(
    rng: np.random.Generator, class_id: int, where: np.ndarray
) -> np.ndarray:
    """Colours of an object's pixels: float64, (pixels, 3).

    Args:
        rng: Of its light, and of speckles.
        class_id: Index of its class.
        where: Its pixels, bool, (H, W).
    """
    texture, colour = divmod(class_id, len(COLOURS))
    light = np.array(tuple(COLOURS.values())[colour]) * rng.uniform(0.88, 1.05)
    light += rng.uniform(-12, 12, 3)
    dark = light * rng.uniform(0.25, 0.4)
    y, x = where.nonzero()
    is_dark = _is_dark(rng, TEXTURES[texture], x, y)
    return np.stack([light, dark])[is_dark.astype(np.intp)]


def _is_dark(
    rng: np.random.Generator, texture: str, x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    """Whether the texture is dark at the pixels (x, y): bool, of x's shape.

    Patterns repeat every 4 pixels, whatever the size of the image, and are fixed to
    the image as if objects were cut from printed paper. With shifted and turned
    patterns a tiny encoder needs far longer to tell textures apart than colours.
    """
    column, row = x % 4, y % 4
    if texture == 'plain':
        return np.zeros(x.shape, dtype=bool)
    if texture == 'striped':
        return column < 2
    if texture == 'checked':
        return (column < 2) ^ (row < 2)
    if texture == 'dotted':
        return (column < 2) & (row < 2)
    if texture == 'gridded':
        return (column == 0) | (row == 0)
    return rng.random(x.shape, dtype=np.float32) < 0.35  # speckled


def background(rng: np.random.Generator, size: int) -> np.ndarray:
    """Smooth noise of a greyish colour: float32, (size, size, 3)."""
    spread = _spread_matrix(size)
    coarse = rng.uniform(-25, 25, (spread.shape[1],) * 2).astype(np.float32)
    grey = rng.uniform(80, 180) + rng.uniform(-6, 6, 3)
    return (spread @ coarse @ spread.T)[..., None] + grey.astype(np.float32)


@lru_cache(maxsize=8)
def _spread_matrix(size: int, knots: int = 6) -> np.ndarray:
    """Linear interpolation from ``knots`` points to ``size``: (size, knots)."""
    place = np.linspace(0, knots - 1, size, dtype=np.float32)[:, None]
    return np.maximum(0, 1 - abs(place - np.arange(knots, dtype=np.float32)))


# -------------------------------------------------------------------- captions


def _describe(rng: np.random.Generator, nouns: Sequence[str]) -> str:
    """Write a sentence that mentions all ``nouns`` in the given order."""
    prefix = PREFIXES[rng.integers(len(PREFIXES))]
    thing = THINGS[rng.integers(len(THINGS))]
    items = [f'a {noun} {thing}' for noun in nouns]
    if len(items) == 1:
        return prefix + items[0]
    if len(items) == 2 and rng.random() < 0.3:
        return f'{prefix}{items[0]} next to {items[1]}'
    if rng.random() < 0.3:
        return prefix + ' and '.join(items)
    return f'{prefix}{", ".join(items[:-1])} and {items[-1]}'


# -------------------------------------------------------------------- datasets


class _SmallWorld:
    """What the datasets share; comes before the dataset class as a base.

    Scenes are rendered when they are asked for and never kept. With ``cache_dir``
    the picture of each one asked for is also written there as PNG, for whatever reads
    ``img_path`` again (``SegVisualizationHook`` does); otherwise ``img_path`` is
    but a name.
    """

    objects = (MIN_OBJECTS, MAX_OBJECTS)

    def __init__(
        self,
        num_scenes: int,
        split: str = 'train',
        seed: int = 0,
        size: int = 64,
        cache_dir: str | None = None,
        **kwargs,
    ) -> None:
        check_split(split)
        self.num_scenes = num_scenes
        self.split = split
        self.seed = seed
        self.size = size
        self.cache_dir = cache_dir
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict]:
        return [dict(scene_index=index) for index in range(self.num_scenes)]

    def _load_scene(self, info: dict) -> Scene:
        """Render the scene of ``info`` and add to it what both datasets give."""
        index = info['scene_index']
        scene = render_scene(
            index,
            split=self.split,
            seed=self.seed,
            size=self.size,
            objects=self.objects,
        )
        info['key'] = f'small_world/{self.split}/{index:06d}'
        info['img_path'] = info['key']
        info['img'] = np.ascontiguousarray(scene.image[..., ::-1])  # BGR, as MMCV's
        info['img_shape'] = info['ori_shape'] = scene.mask.shape
        if self.cache_dir is not None:
            path = Path(self.cache_dir, self.split, f'{index:06d}.png')
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as part:
                cv2.imwrite(str(part), info['img'])
            info['img_path'] = str(path)
        return scene


@DATASETS.register_module()
class SmallWorldCaptions(_SmallWorld, BaseDataset):
    """Small World as image-text pairs.

    A pipeline starts after the loading: it gets ``img`` (BGR, uint8, (H, W, 3)),
    ``img_shape``, ``ori_shape``, ``img_path``, ``key``, ``caption``, ``captions``
    (a list of that one) and ``nouns`` (the class names in the caption).

    Args:
        num_scenes: the number of scenes.
        split: 'train', 'val' or 'test'.
        seed: of the world, not of the run.
        size: the side of the images in pixels.
        cache_dir: where to write the images asked for as PNG. Default: nowhere.
        **kwargs: of :class:`mmengine.dataset.BaseDataset`.
    """

    @property
    def img_size(self) -> int:
        """Number of images, as MMPretrain's retrieval loop asks for it."""
        return len(self)

    text_size = img_size

    def get_data_info(self, idx: int) -> dict:
        info = super().get_data_info(idx)
        scene = self._load_scene(info)
        info['caption'] = scene.caption
        info['captions'] = [scene.caption]
        info['nouns'] = list(scene.nouns)
        return info


@DATASETS.register_module()
class SmallWorldSegmentation(_SmallWorld, BaseSegDataset):
    """Small World as a segmentation dataset, the background being ignored.

    A pipeline starts after the loading: it gets ``img`` (BGR, uint8, (H, W, 3)),
    ``gt_seg_map`` (uint8, (H, W)), ``seg_fields``, ``img_shape``, ``ori_shape``,
    ``img_path``, ``key`` and ``reduce_zero_label``. With
    ``metainfo=dict(classes=...)`` pixels of all other classes are ignored.

    Args:
        num_scenes: the number of scenes.
        split: 'train', 'val' or 'test'.
        seed: of the world, not of the run.
        size: the side of the images in pixels.
        cache_dir: where to write the images asked for as PNG. Default: nowhere.
        **kwargs: of :class:`mmseg.datasets.BaseSegDataset`.
    """

    METAINFO = dict(classes=CLASSES, palette=PALETTE)

    def get_data_info(self, idx: int) -> dict:
        info = super().get_data_info(idx)
        mask = self._load_scene(info).mask
        if self.label_map is not None:
            table = np.full(256, IGNORE_INDEX, dtype=np.uint8)
            table[list(self.label_map)] = list(self.label_map.values())
            mask = table[mask]
        info['gt_seg_map'] = mask
        info['seg_fields'] = ['gt_seg_map']
        info['reduce_zero_label'] = False
        return info


@DATASETS.register_module()
class SmallWorldObjects(_SmallWorld, BaseDataset):
    """Small World scenes of a single object each, as a classification dataset.

    A pipeline starts after the loading: it gets ``img`` (BGR, uint8, (H, W, 3)),
    ``img_shape``, ``ori_shape``, ``img_path``, ``key`` and ``gt_label``, the index of
    the object's class.

    Args:
        num_scenes, split, seed, size, cache_dir: As of :class:`SmallWorldCaptions`,
            and so are further arguments.
    """

    METAINFO = dict(classes=CLASSES)
    objects = (1, 1)

    def get_data_info(self, idx: int) -> dict:
        info = super().get_data_info(idx)
        (noun,) = self._load_scene(info).nouns
        info['gt_label'] = CLASSES.index(noun)
        return info
