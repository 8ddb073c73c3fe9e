"""Birds on backgrounds of their own or not: WaterBirds, and a small world of it."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from mmengine.dataset import BaseDataset

from pacl_mmseg.datasets.small_world import (
    IGNORE_INDEX,
    SPLITS,
    TEXTURES,
    check_split,
    render_scene,
)
from pacl_mmseg.registry import DATASETS
from pacl_mmseg.utils.names import check_choice

BIRDS = ('landbird', 'waterbird')
PLACES = ('land', 'water')
# What the columns of metadata.csv may hold.
_COLUMNS = dict(
    img_filename=None, y=BIRDS, split=('train', 'val', 'test'), place=PLACES
)


@DATASETS.register_module()
class WaterBirds(BaseDataset):
    """WaterBirds (arXiv 1911.08731): birds of CUB pasted on photographs of Places.

    Read as published (``waterbird_complete95_forest2water2``): ``metadata.csv`` in
    ``data_root`` has a line for each image, with its file ``img_filename``, and as
    numbers ``y`` (0 landbird, 1 waterbird), ``split`` (0 train, 1 val, 2 test) and
    ``place`` (0 land, 1 water). Of the training birds 95 % are on their own place; of
    the others, half.

    A pipeline gets ``img_path``, ``gt_label`` and ``place``, to be named in the
    ``meta_keys`` of ``mmpretrain.PackInputs`` for :class:`GroupAccuracy`.

    Args:
        data_root: The folder.
        split: ``'train'``, ``'val'`` or ``'test'``.
        **kwargs: Of :class:`mmengine.dataset.BaseDataset`.

    Raises:
        FileNotFoundError: There is no ``metadata.csv``.
        ValueError: Unknown split; a line of the file that is not as above, or none of
            the split.
    """

    METAINFO = dict(classes=BIRDS, places=PLACES)

    def __init__(self, data_root: str, split: str = 'test', **kwargs) -> None:
        check_choice('split', split, _COLUMNS['split'])
        self.split = split
        super().__init__(data_root=data_root, **kwargs)

    def load_data_list(self) -> list[dict]:
        path = Path(self.data_root, 'metadata.csv')
        try:
            with path.open(newline='', encoding='utf-8') as file:
                lines = list(csv.DictReader(file))
        except FileNotFoundError:
            raise FileNotFoundError(
                f'{path} does not exist: unpack waterbird_complete95_forest2water2 '
                'there, or set data_root to the folder that has its metadata.csv.'
            ) from None
        records = []
        for number, line in enumerate(lines, 2):  # the first has the names
            for column, known in _COLUMNS.items():
                values = [str(index) for index in range(len(known or ()))]
                if not line.get(column) or (known and line[column] not in values):
                    what = f'one of {", ".join(values)}' if known else 'a file name'
                    raise ValueError(
                        f'Line {number} of {path} has {line.get(column)!r} as '
                        f'{column}, which should be {what}: fetch the file again.'
                    )
            if _COLUMNS['split'][int(line['split'])] == self.split:
                records.append(
                    dict(
                        img_path=str(Path(self.data_root, line['img_filename'])),
                        gt_label=int(line['y']),
                        place=int(line['place']),
                    )
                )
        if not records:
            raise ValueError(f'{path} has no images of the split {self.split}.')
        return records


@DATASETS.register_module()
class SmallWorldBirds(BaseDataset):
    """Scenes of one object on a brown or a blue background, as WaterBirds in small.

    An object of one of the first three textures is a landbird, else a waterbird,
    whatever its colour and shape; brown is land, blue is water. All else is a scene of
    the small world. Pure functions of ``(seed, split, index, size)``.

    A pipeline starts after the loading: it gets ``img`` (BGR, uint8, (H, W, 3)),
    ``img_shape``, ``ori_shape``, ``img_path``, ``key``, ``caption``, ``captions``,
    ``gt_label`` and ``place``.

    Args:
        num_scenes: The number of scenes.
        split: 'train', 'val' or 'test'. Training scenes have no held-out names.
        bias: Share of the scenes whose background is the bird's own: 0.5 tells nothing.
        seed: Of the world, not of the run.
        size: Side of the images in pixels.
        **kwargs: Of :class:`mmengine.dataset.BaseDataset`.

    Raises:
        ValueError: Unknown split, or a bias that is no share.
    """

    METAINFO = dict(classes=BIRDS, places=PLACES)
    # Added to the grey background, RGB.
    TINTS = ((45, 10, -45), (-45, 5, 45))

    def __init__(
        self,
        num_scenes: int,
        split: str = 'train',
        bias: float = 0.5,
        seed: int = 0,
        size: int = 64,
        **kwargs,
    ) -> None:
        check_split(split)
        if not 0 <= bias <= 1:
            raise ValueError(f'bias is a share, from 0 to 1, not {bias}.')
        self.num_scenes = num_scenes
        self.split = split
        self.bias = bias
        self.seed = seed
        self.size = size
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict]:
        return [dict(scene_index=index) for index in range(self.num_scenes)]

    def get_data_info(self, idx: int) -> dict:
        info = super().get_data_info(idx)
        index = info['scene_index']
        scene = render_scene(
            index, split=self.split, seed=self.seed, size=self.size, objects=(1, 1)
        )
        texture = TEXTURES.index(scene.nouns[0].split()[0])
        label = int(texture >= len(TEXTURES) // 2)
        # Of another stream than the scene's own draws.
        random = np.random.default_rng([self.seed, SPLITS[self.split], index, 1])
        place = label if random.random() < self.bias else 1 - label
        tint = (scene.mask == IGNORE_INDEX)[..., None] * np.array(self.TINTS[place])
        image = (scene.image + tint).clip(0, 255).astype(np.uint8)
        info['img'] = np.ascontiguousarray(image[..., ::-1])  # BGR, as MMCV's
        info['img_shape'] = info['ori_shape'] = scene.mask.shape
        info['img_path'] = info['key'] = f'birds/{self.split}/{index:06d}'
        info['caption'] = f'a photo of a {BIRDS[label]}.'
        info['captions'] = [info['caption']]
        info['gt_label'], info['place'] = label, place
        return info
