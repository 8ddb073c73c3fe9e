"""Small World in motion: short clips with exact masks and exact optical flow.

A clip shows two to four objects of :mod:`~pacl_mmseg.datasets.small_world` that cross a
fixed background, each with a velocity of its own, the later ones in front. The camera
adds noise to every frame. A clip is a pure function of ``(seed, split, index, size,
frames)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from mmseg.datasets import BaseSegDataset

from pacl_mmseg.datasets.small_world import (
    CLASSES,
    IGNORE_INDEX,
    MAX_OBJECTS,
    MIN_OBJECTS,
    PALETTE,
    SPLITS,
    background,
    check_split,
    class_names,
    draw_shape,
    object_pixels,
)
from pacl_mmseg.registry import DATASETS

# Pixels per frame along either axis. Textures repeat every 4 pixels, and the tiny CLIP
# knows them in one phase alone: other speeds would show it pictures unlike any scene.
SPEEDS = (-4, 0, 4)
# Standard deviations of an object's or the background's own grain, which moves with it,
# and of the camera's noise: together as much as that of the scenes, 6.
GRAIN, NOISE = 5.0, 3.3


@dataclass(frozen=True)
class Clip:
    """One rendered clip of F frames.

    Attributes:
        images: RGB, uint8, (F, H, W, 3).
        masks: class index of each pixel, 255 on the background, uint8, (F, H, W).
        flows: how far left and up what a pixel shows was one frame before, as optical
            flow to the frame before: (dx, dy) in pixels, float32, (F, H, W, 2); that of
            the first frame too, where things came from.
    """

    images: np.ndarray
    masks: np.ndarray
    flows: np.ndarray


def render_clip(
    index: int,
    *,
    split: str = 'test',
    seed: int = 0,
    size: int = 64,
    frames: int = 8,
) -> Clip:
    """Render the clip ``index`` of a split.

    Objects are where they were drawn in the middle frame, and move by a multiple of 4
    pixels along each axis from one frame to the next; at least one moves. Their classes
    are chosen as in scenes.

    Raises:
        ValueError: Unknown split.
    """
    check_split(split)
    rng = np.random.default_rng([seed, SPLITS[split], index, frames])
    names = class_names(split)
    count = int(rng.integers(MIN_OBJECTS, MAX_OBJECTS + 1))
    classes = rng.choice(len(names), count, replace=False)
    margin = max(SPEEDS) * (frames // 2 + 1)
    backdrop = background(rng, size)
    backdrop += GRAIN * rng.standard_normal(backdrop.shape, dtype=np.float32)
    images = np.repeat(backdrop[None], frames, axis=0)
    masks = np.full((frames, size, size), IGNORE_INDEX, dtype=np.uint8)
    flows = np.zeros((frames, size, size, 2), dtype=np.float32)
    velocities = rng.choice(SPEEDS, (count, 2))
    if not velocities.any():
        velocities[0, rng.integers(2)] = SPEEDS[-1]
    for chosen, velocity in zip(classes, velocities, strict=True):
        class_id = CLASSES.index(names[chosen])
        shape = draw_shape(rng, size, margin)
        look = np.zeros((*shape.shape, 3), dtype=np.float32)
        look[shape] = object_pixels(rng, class_id, shape)
        look += GRAIN * rng.standard_normal(look.shape, dtype=np.float32)
        for frame in range(frames):
            # The part of the larger picture of the object that the camera sees.
            left, top = margin - velocity * (frame - frames // 2)
            seen = np.s_[top : top + size, left : left + size]
            here = shape[seen]
            images[frame][here] = look[seen][here]
            masks[frame][here] = class_id
            flows[frame][here] = -velocity
    images += NOISE * rng.standard_normal(images.shape, dtype=np.float32)
    return Clip(images.clip(0, 255).astype(np.uint8), masks, flows)


@DATASETS.register_module()
class SmallWorldClips(BaseSegDataset):
    """Frames of Small World clips as a segmentation dataset, in order, clip by clip.

    A pipeline starts after the loading: it gets what that of
    :class:`~pacl_mmseg.datasets.SmallWorldSegmentation` gets, and ``clip`` (the number
    of the clip), ``frame`` (from 0) and ``flow`` (float32, (H, W, 2), the exact optical
    flow to the frame before): name these in the ``meta_keys`` of ``PackSegInputs``.

    Args:
        num_scenes: the number of clips.
        frames: of each.
        split: 'train', 'val' or 'test'.
        seed: of the world, not of the run.
        size: the side of the frames in pixels.
        **kwargs: of :class:`mmseg.datasets.BaseSegDataset`.

    Raises:
        ValueError: Unknown split, or fewer than two frames.
    """

    METAINFO = dict(classes=CLASSES, palette=PALETTE)

    def __init__(
        self,
        num_scenes: int,
        frames: int = 8,
        split: str = 'test',
        seed: int = 0,
        size: int = 64,
        **kwargs,
    ) -> None:
        check_split(split)
        if frames < 2:
            raise ValueError(f'A clip has 2 frames or more, not {frames}.')
        self.num_scenes = num_scenes
        self.frames = frames
        self.split = split
        self.seed = seed
        self.size = size
        # Frames are asked for one after another, and a clip is rendered at once.
        self._render = lru_cache(maxsize=2)(self._clip)
        super().__init__(**kwargs)

    def _clip(self, index: int) -> Clip:
        return render_clip(
            index,
            split=self.split,
            seed=self.seed,
            size=self.size,
            frames=self.frames,
        )

    def load_data_list(self) -> list[dict]:
        return [
            dict(clip=clip, frame=frame)
            for clip in range(self.num_scenes)
            for frame in range(self.frames)
        ]

    def get_data_info(self, idx: int) -> dict:
        info = super().get_data_info(idx)
        clip, frame = self._render(info['clip']), info['frame']
        info['key'] = f'small_world_clips/{self.split}/{info["clip"]:06d}/{frame:04d}'
        info['img_path'] = info['key']
        info['img'] = np.ascontiguousarray(clip.images[frame, ..., ::-1])  # BGR
        info['gt_seg_map'] = clip.masks[frame].copy()
        info['img_shape'] = info['ori_shape'] = clip.masks[frame].shape
        info['seg_fields'] = ['gt_seg_map']
        info['reduce_zero_label'] = False
        info['flow'] = clip.flows[frame]
        return info
