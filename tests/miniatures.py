"""Miniatures of the benchmarks' official downloads, and what they should become."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

SIZE = (24, 32)  # height, width
NAMES = ('000000000139', '000000000285', '000000000632')


def blocks(*values: int, dtype: type = np.uint8) -> np.ndarray:
    """A mask of upright stripes with these labels: ``SIZE``."""
    columns = np.linspace(0, len(values), SIZE[1], endpoint=False).astype(int)
    return np.broadcast_to(np.array(values, dtype)[columns], SIZE).copy()


def save(image: np.ndarray, path: Path, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(image)
    if mode == 'P':
        picture.putpalette([value % 256 for value in range(0, 768 * 7, 7)])
    picture.save(path)


def photo(path: Path, size: tuple[int, int] = SIZE) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    save(noise, path)


def voc(root: Path) -> None:
    """Masks are palette images: background, classes, and 255 on borders."""
    folder = root / 'VOCdevkit' / 'VOC2012'
    for index, name in enumerate(NAMES):
        photo(folder / 'JPEGImages' / f'{name}.jpg')
        mask = blocks(0, 1 + index, 20, 255)
        save(mask, folder / 'SegmentationClass' / f'{name}.png', 'P')
    split = folder / 'ImageSets' / 'Segmentation' / 'val.txt'
    split.parent.mkdir(parents=True)
    split.write_text('\n'.join(NAMES))


def ade20k(root: Path) -> None:
    folder = root / 'ade' / 'ADEChallengeData2016'
    for index, name in enumerate(NAMES):
        photo(folder / 'images' / 'validation' / f'{name}.jpg')
        mask = blocks(0, 1 + index, 150)
        save(mask, folder / 'annotations' / 'validation' / f'{name}.png')


def coco(root: Path) -> None:
    """Pixel maps: things from 0 on, stuff from 91 on, 255 unlabelled."""
    folder = root / 'coco_stuff164k'
    for index, name in enumerate(NAMES):
        photo(folder / 'images' / 'val2017' / f'{name}.jpg')
        pixel_map = blocks(index, 12, 89, 91, 181, 255)
        save(pixel_map, folder / 'annotations' / 'val2017' / f'{name}.png')


COCO_STUFF = {n: blocks(i, 11, 79, 80, 170, 255) for i, n in enumerate(NAMES)}
COCO_OBJECT = {n: blocks(i + 1, 12, 80, 0, 0, 0) for i, n in enumerate(NAMES)}


def context(root: Path) -> None:
    """Needs pycocotools to write run lengths."""
    from pycocotools import mask as run_lengths

    folder = root / 'VOCdevkit' / 'VOC2010'
    height, width = SIZE
    images, segments = [], []

    def segment(image: int, category: int, inside: np.ndarray) -> None:
        encoded = run_lengths.encode(np.asfortranarray(inside.astype(np.uint8)))
        encoded['counts'] = encoded['counts'].decode()
        segments.append(
            dict(
                id=len(segments),
                image_id=image,
                category_id=category,
                segmentation=encoded,
                area=int(inside.sum()),
                parts=[dict(part_id=255, segmentation=encoded)],
            )
        )

    for index, name in enumerate((*NAMES, 'of_the_train_split')):
        photo(folder / 'JPEGImages' / f'{name}.jpg')
        image = dict(image_id=2008000002 + index, file_name=f'{name}.jpg')
        phase = 'val' if name in NAMES else 'train'
        images.append(dict(image, height=height, width=width, phase=phase))
        # Sky (360), an aeroplane (2) over it, and some wood (458).
        segment(image['image_id'], 360, blocks(1, 1, 0, 0) == 1)
        segment(image['image_id'], 2, blocks(0, 1, 0, 0) == 1)
        segment(image['image_id'], 458, blocks(0, 0, 1, 0) == 1)
    annotation = dict(
        info=dict(description='PASCAL in Detail'),
        images=images,
        categories=[dict(category_id=2, name='aeroplane', supercategory='object')],
        parts=[dict(part_id=1, name='body', superpart='none')],
        annos_segmentation=segments,
        annos_occlusion=[dict(image_id=2008000002, ne=0, edges=dict(indices=[]))],
        annos_boundary=[
            dict(image_id=2008000002, boundary_mask=segments[0]['segmentation'])
        ],
    )
    (folder / 'trainval_merged.json').write_text(json.dumps(annotation))


CONTEXT = dict.fromkeys(NAMES, blocks(47, 1, 59, 0))


def context_split(root: Path) -> None:
    folder = root / 'VOCdevkit' / 'VOC2010' / 'ImageSets' / 'SegmentationContext'
    folder.mkdir(parents=True)
    (folder / 'val.txt').write_text('\n'.join(NAMES))


def context459(root: Path) -> None:
    """Label maps count from 1; 0 is not annotated."""
    for index, name in enumerate(NAMES):
        path = root / 'VOCdevkit' / 'VOC2010' / 'trainval' / f'{name}.mat'
        path.parent.mkdir(parents=True, exist_ok=True)
        savemat(path, dict(LabelMap=blocks(0, 1 + index, 256, 459, dtype=np.uint16)))


CONTEXT459 = {
    n: blocks(65535, i, 255, 458, dtype=np.uint16) for i, n in enumerate(NAMES)
}


def ade847(root: Path) -> None:
    """Red and green number the class, blue the instance; the first image is large."""
    folder = root / 'ADE20K_2021_17_01' / 'images' / 'ADE' / 'validation' / 'urban'
    for index in range(len(NAMES)):
        path = folder / 'street' / f'ADE_val_{index + 1:08}.jpg'
        # Nothing, a wall, an adding machine, a car, and one that is not among the 847.
        classes = blocks(0, 2978, 3148, 401, 2, dtype=np.int64)
        if index == 0:
            classes = classes.repeat(25, 0).repeat(25, 1)
        seg = np.stack([classes // 256 * 10, classes % 256, classes * 0 + index], -1)
        photo(path, classes.shape)
        save(seg.astype(np.uint8), path.with_name(f'{path.stem}_seg.png'))


ADE847 = blocks(65535, 0, 846, 14, 65535, dtype=np.uint16)


def cityscapes(root: Path) -> None:
    """Polygons of four upright stripes: road, person, a caravan (ignored), nothing."""
    height, width = SIZE
    for name in NAMES:
        stem = f'frankfurt_000000_{name[-6:]}'
        image = root / 'cityscapes' / 'leftImg8bit' / 'val' / 'frankfurt'
        photo(image / f'{stem}_leftImg8bit.png')
        objects = []
        for index, label in enumerate(('road', 'person', 'caravan')):
            left, right = index * width // 4, (index + 1) * width // 4 - 1
            polygon = [[left, 0], [right, 0], [right, height - 1], [left, height - 1]]
            objects.append(dict(label=label, polygon=polygon))
        annotation = dict(imgHeight=height, imgWidth=width, objects=objects)
        folder = root / 'cityscapes' / 'gtFine' / 'val' / 'frankfurt'
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f'{stem}_gtFine_polygons.json'
        path.write_text(json.dumps(annotation))
        save(blocks(7, 24, 29, 0), folder / f'{stem}_gtFine_labelIds.png')


CITYSCAPES = blocks(0, 11, 255, 255)


def converted(root: Path, benchmark: str) -> list[Path]:
    """A set as its config loads it; returns its masks."""
    if benchmark in ('voc20', 'voc21'):
        voc(root)
        return sorted(root.glob('VOCdevkit/VOC2012/SegmentationClass/*'))
    if benchmark == 'ade20k':
        ade20k(root)
        return sorted(root.glob('ade/ADEChallengeData2016/annotations/*/*'))
    if benchmark in ('coco_stuff171', 'coco_object'):
        coco(root)
        folder = root / 'coco_stuff164k' / 'annotations' / 'val2017'
        stuff = benchmark == 'coco_stuff171'
        suffix = '_labelTrainIds.png' if stuff else '_instanceTrainIds.png'
        masks = COCO_STUFF if stuff else COCO_OBJECT
    elif benchmark == 'cityscapes':
        cityscapes(root)
        folder = root / 'cityscapes' / 'gtFine' / 'val' / 'frankfurt'
        suffix = '_gtFine_labelTrainIds.png'
        masks = {f'frankfurt_000000_{name[-6:]}': CITYSCAPES for name in NAMES}
    elif benchmark == 'ade847':
        base = root / 'ADE20K_2021_17_01'
        folder = base / 'annotations_detectron2' / 'validation'
        suffix, masks = '.tif', dict.fromkeys(NAMES, ADE847)
        for name in NAMES:
            photo(base / 'images_detectron2' / 'validation' / f'{name}.jpg')
    else:  # Pascal Context
        base = root / 'VOCdevkit' / 'VOC2010'
        context_split(root)
        for name in NAMES:
            photo(base / 'JPEGImages' / f'{name}.jpg')
        if benchmark == 'pc459':
            folder = base / 'annotations_detectron2' / 'pc459_val'
            suffix, masks = '.tif', CONTEXT459
        else:
            folder = base / 'SegmentationClassContext'
            suffix, masks = '.png', CONTEXT
    paths = [folder / f'{name}{suffix}' for name in masks]
    for path, mask in zip(paths, masks.values(), strict=True):
        save(mask, path)
    return paths
