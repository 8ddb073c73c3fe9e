"""Small World: what a scene promises, and the two datasets made of scenes."""

import re
from collections import Counter

import cv2
import numpy as np
import pytest
from mmengine.registry import init_default_scope
from mmseg.structures import SegDataSample

from pacl_mmseg.datasets.small_world import (
    CLASSES,
    COLOURS,
    HELD_OUT,
    IGNORE_INDEX,
    MIN_VISIBLE,
    PALETTE,
    SEEN,
    TEXTURES,
    SmallWorldCaptions,
    SmallWorldObjects,
    SmallWorldSegmentation,
    render_scene,
)
from pacl_mmseg.registry import DATASETS

SPLITS = ('train', 'val', 'test')


@pytest.fixture(scope='module', autouse=True)
def mmseg_scope():
    init_default_scope('mmseg')


@pytest.fixture(scope='module')
def train_scenes():
    return [render_scene(index, split='train') for index in range(3000)]


@pytest.fixture(scope='module')
def val_scenes():
    return [render_scene(index, split='val') for index in range(1500)]


def classes_in(mask):
    return {CLASSES[i] for i in np.unique(mask) if i != IGNORE_INDEX}


def names_in(caption):
    return {name for name in CLASSES if name in caption}


def assert_same(scene, other):
    np.testing.assert_array_equal(scene.image, other.image)
    np.testing.assert_array_equal(scene.mask, other.mask)
    assert (scene.caption, scene.nouns) == (other.caption, other.nouns)


# --------------------------------------------------------------------- classes


def test_the_classes():
    assert len(set(CLASSES)) == len(PALETTE) == 36
    assert len({tuple(rgb) for rgb in PALETTE}) == 36
    assert len(HELD_OUT) == 6
    assert {name.split()[0] for name in HELD_OUT} == set(TEXTURES)
    assert {name.split()[1] for name in HELD_OUT} == set(COLOURS)
    assert len(SEEN) == 30
    assert set(SEEN) | set(HELD_OUT) == set(CLASSES)


def test_every_class_in_val_and_as_often(val_scenes):
    counts = Counter(name for scene in val_scenes for name in scene.nouns)
    assert set(counts) == set(CLASSES)
    mean = sum(counts.values()) / len(CLASSES)
    assert min(counts.values()) > 0.7 * mean
    assert max(counts.values()) < 1.3 * mean


def test_train_never_shows_nor_names_what_is_held_out(train_scenes):
    shown = set().union(*(classes_in(scene.mask) for scene in train_scenes))
    assert shown == set(SEEN)
    assert not any(name in scene.caption for scene in train_scenes for name in HELD_OUT)


# ---------------------------------------------------------------------- scenes


def test_a_scene_depends_on_its_index_alone():
    forward = [render_scene(index) for index in range(6)]
    backward = [render_scene(index) for index in reversed(range(6))][::-1]
    for scene, again in zip(forward, backward, strict=True):
        assert_same(scene, again)
    assert len({scene.image.tobytes() for scene in forward}) == 6


def test_splits_and_seeds_differ():
    images = {
        render_scene(index, split=split, seed=seed).image.tobytes()
        for split in SPLITS
        for seed in (0, 1)
        for index in range(20)
    }
    assert len(images) == len(SPLITS) * 2 * 20


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match='split'):
        render_scene(0, split='trian')
    with pytest.raises(ValueError, match='split'):
        SmallWorldCaptions(1, split='trian')


def test_image_mask_and_caption_agree(train_scenes, val_scenes):
    for scene in train_scenes + val_scenes:
        assert scene.image.shape == (64, 64, 3)
        assert scene.mask.shape == (64, 64)
        assert scene.image.dtype == scene.mask.dtype == np.uint8
        assert classes_in(scene.mask) == set(scene.nouns) == names_in(scene.caption)
        assert 2 <= len(scene.nouns) == len(set(scene.nouns)) <= 4
        places = [scene.caption.index(noun) for noun in scene.nouns]
        assert places == sorted(places)


def test_mask_values_and_visible_area(train_scenes, val_scenes):
    for scene in train_scenes + val_scenes:
        values, areas = np.unique(scene.mask, return_counts=True)
        objects = values != IGNORE_INDEX
        assert (values[objects] < len(CLASSES)).all()
        assert areas[objects].min() >= MIN_VISIBLE * scene.mask.size
        assert not objects.all(), 'no background'


def test_captions_vary(train_scenes):
    assert len({scene.caption for scene in train_scenes}) > 2500


def test_pixels_have_the_colour_of_their_class(val_scenes):
    def chroma(rgb):
        centred = rgb - rgb.mean(-1, keepdims=True)
        return centred / np.linalg.norm(centred, axis=-1, keepdims=True)

    names = list(COLOURS)
    reference = chroma(np.array(list(COLOURS.values()), dtype=float))
    for scene in val_scenes[:300]:
        for class_id in set(np.unique(scene.mask)) - {IGNORE_INDEX}:
            mean = scene.image[scene.mask == class_id].mean(0)
            nearest = names[(reference @ chroma(mean)).argmax()]
            assert nearest == CLASSES[class_id].split()[1]


def test_textures_differ_in_how_much_is_dark(val_scenes):
    """Plain objects are even, all others have two clearly different tones."""
    for scene in val_scenes[:300]:
        for class_id in set(np.unique(scene.mask)) - {IGNORE_INDEX}:
            tone = scene.image[scene.mask == class_id].max(1).astype(float)
            if CLASSES[class_id].startswith('plain'):
                assert tone.std() < 10
            else:
                assert tone.std() > 30


@pytest.mark.parametrize('size', [48, 128])
def test_other_sizes(size):
    scene = render_scene(3, split='test', size=size)
    assert scene.image.shape == (size, size, 3)
    assert classes_in(scene.mask) == set(scene.nouns)
    areas = np.unique(scene.mask, return_counts=True)[1]
    assert areas.min() >= MIN_VISIBLE * size * size


# -------------------------------------------------------------------- datasets


def test_captions_dataset():
    dataset = DATASETS.build(dict(type='SmallWorldCaptions', num_scenes=20, seed=3))
    assert len(dataset) == 20
    item, scene = dataset[12], render_scene(12, seed=3)
    np.testing.assert_array_equal(item['img'], scene.image[..., ::-1])
    assert item['img_shape'] == item['ori_shape'] == (64, 64)
    assert item['caption'] == scene.caption
    assert item['captions'] == [scene.caption]
    assert item['nouns'] == list(scene.nouns)
    assert item['key'] == item['img_path'] == 'small_world/train/000012'
    assert 'gt_seg_map' not in item and 'seg_map_path' not in item


def test_segmentation_dataset_through_stock_transforms():
    dataset = DATASETS.build(
        dict(
            type='SmallWorldSegmentation',
            num_scenes=5,
            split='test',
            test_mode=True,
            pipeline=[
                dict(type='Resize', scale=(96, 96)),
                dict(type='PackSegInputs'),
            ],
        )
    )
    assert dataset.metainfo['classes'] == CLASSES
    assert dataset.metainfo['palette'] == PALETTE
    packed = dataset[0]
    assert packed['inputs'].shape == (3, 96, 96)
    assert packed['data_samples'].ori_shape == (64, 64)
    assert packed['data_samples'].reduce_zero_label is False


def test_segmentation_dataset_packs_the_mask():
    dataset = SmallWorldSegmentation(
        4, split='val', size=128, pipeline=[dict(type='PackSegInputs')]
    )
    packed, scene = dataset[2], render_scene(2, split='val', size=128)
    sample = packed['data_samples']
    assert isinstance(sample, SegDataSample)
    np.testing.assert_array_equal(sample.gt_sem_seg.data[0], scene.mask)
    bgr = packed['inputs'].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(bgr, scene.image[..., ::-1])


def test_indices_choose_scenes():
    dataset = SmallWorldSegmentation(10, split='val', indices=[7, 2])
    assert len(dataset) == 2
    assert dataset[0]['img_path'] == 'small_world/val/000007'
    mask = render_scene(2, split='val').mask
    np.testing.assert_array_equal(dataset[1]['gt_seg_map'], mask)


def test_metainfo_chooses_classes():
    dataset = SmallWorldSegmentation(30, split='val', metainfo=dict(classes=HELD_OUT))
    assert len(dataset.metainfo['palette']) == len(HELD_OUT)
    for index in range(30):
        mask = render_scene(index, split='val').mask
        chosen = dataset[index]['gt_seg_map']
        for new, name in enumerate(HELD_OUT):
            np.testing.assert_array_equal(chosen == new, mask == CLASSES.index(name))
        assert set(np.unique(chosen)) <= {*range(len(HELD_OUT)), IGNORE_INDEX}


def test_written_files_are_the_scenes(tmp_path):
    dataset = SmallWorldSegmentation(3, split='val', cache_dir=str(tmp_path))
    assert not list(tmp_path.iterdir()), 'written before anyone asked'
    item = dataset[1]
    np.testing.assert_array_equal(cv2.imread(item['img_path']), item['img'])
    captions = SmallWorldCaptions(3, split='val', cache_dir=str(tmp_path))
    assert captions[1]['img_path'] == item['img_path']
    assert [str(path) for path in tmp_path.rglob('*.*')] == [item['img_path']]


# ------------------------------------------------------------- whole images


@pytest.mark.parametrize('split', ['train', 'test'])
def test_scenes_of_one_object_are_labelled_with_it(split):
    dataset = SmallWorldObjects(200, split=split)
    assert dataset.metainfo['classes'] == CLASSES
    labels = Counter()
    for index, info in enumerate(dataset):
        scene = render_scene(index, split=split, objects=(1, 1))
        np.testing.assert_array_equal(info['img'], scene.image[..., ::-1])
        (name,) = classes_in(scene.mask)
        assert (name,) == scene.nouns == (CLASSES[info['gt_label']],)
        assert names_in(scene.caption) == {name}
        assert not re.search(r' and |, |next to', scene.caption)
        labels[name] += 1
    assert len(labels) > 25
    assert bool({*labels} & {*HELD_OUT}) == (split == 'test')


def test_a_retrieval_loop_learns_how_many_there_are():
    dataset = SmallWorldCaptions(7, split='test')
    assert (dataset.img_size, dataset.text_size) == (7, 7)
    assert all(info['captions'] == [info['caption']] for info in dataset)
