"""Masks of every kind that benchmarks come with, and what is said of broken ones."""

import numpy as np
import pytest
from mmseg.datasets.transforms import LoadAnnotations
from PIL import Image

from pacl_mmseg.datasets import LoadSegmentationMask

SHAPE = (6, 9)


def sample(path, shape=SHAPE, reduce_zero_label=False, label_map=None):
    """What a dataset and the loading of the image hand to the transform."""
    return dict(
        img_path='photo.jpg',
        seg_map_path=str(path),
        ori_shape=shape,
        reduce_zero_label=reduce_zero_label,
        label_map=label_map,
        seg_fields=[],
    )


def labels_below(number, *extra):
    """A mask of random labels, among them all of ``extra``: int64, ``SHAPE``."""
    labels = np.random.default_rng(0).integers(0, number, SHAPE)
    labels.flat[: len(extra)] = extra
    return labels


def palette_image(labels):
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette([255 - channel for channel in range(256) for _ in range(3)])
    assert image.mode == 'P'
    return image


@pytest.mark.parametrize(
    'name, number, image',
    [
        ('grey.png', 20, lambda labels: Image.fromarray(labels.astype(np.uint8))),
        ('palette.png', 20, palette_image),
        ('bilevel.png', 2, lambda labels: Image.fromarray(labels.astype(bool))),
        ('16bit.png', 847, lambda labels: Image.fromarray(labels.astype(np.uint16))),
        ('16bit.tif', 847, lambda labels: Image.fromarray(labels.astype(np.uint16))),
        ('32bit.tif', 847, lambda labels: Image.fromarray(labels.astype(np.int32))),
    ],
)
def test_formats(tmp_path, name, number, image):
    labels = labels_below(number, number - 1)
    image(labels).save(tmp_path / name)
    ignored = 255 if number <= 255 else 65535
    load = LoadSegmentationMask(num_classes=number, ignore_index=ignored)
    results = load(sample(tmp_path / name))
    assert np.array_equal(results['gt_seg_map'], labels)
    assert results['gt_seg_map'].dtype == (np.uint8 if number <= 255 else np.uint16)
    assert results['seg_fields'] == ['gt_seg_map']


@pytest.mark.parametrize('reduced', [False, True])
@pytest.mark.parametrize('label_map', [None, {0: 1, 1: 255, 2: 0, 3: 2, 4: 255}])
def test_labels_change_as_in_mmseg(tmp_path, reduced, label_map):
    labels = labels_below(5 + reduced, 0, 255, 4 + reduced)
    Image.fromarray(labels.astype(np.uint8)).save(tmp_path / 'mask.png')
    results = [
        load(sample(tmp_path / 'mask.png', SHAPE, reduced, label_map))
        for load in (LoadSegmentationMask(num_classes=5), LoadAnnotations())
    ]
    assert np.array_equal(results[0]['gt_seg_map'], results[1]['gt_seg_map'])


def test_labels_change_beyond_8_bits(tmp_path):
    labels = np.array([[0, 1, 256, 300, 65535]], dtype=np.uint16)
    Image.fromarray(labels).save(tmp_path / 'mask.png')
    load = LoadSegmentationMask(num_classes=300, ignore_index=65535)
    # MMSeg writes 255 for a class that is left out; here that would be a class.
    label_map = {index: index - 1 if index else 255 for index in range(300)}
    results = load(sample(tmp_path / 'mask.png', labels.shape, True, label_map))
    assert results['gt_seg_map'].tolist() == [[65535, 65535, 254, 298, 65535]]


def test_a_bare_image_passes():
    """As MMSeg's inference helpers run the test pipeline on it."""
    results = dict(img_path='photo.jpg', ori_shape=SHAPE)
    assert LoadSegmentationMask(num_classes=3)(dict(results)) == results


def grey(tmp_path, labels, file_format='PNG'):
    Image.fromarray(labels).save(tmp_path / 'mask.png', file_format)


def unknown_label(tmp_path):
    grey(tmp_path, labels_below(19, 33).astype(np.uint8))


def many_unknown_labels(tmp_path):
    grey(tmp_path, np.arange(54, dtype=np.uint8).reshape(SHAPE))


def wide_unknown_labels(tmp_path):
    grey(tmp_path, labels_below(19, 70000, -1).astype(np.int32), 'TIFF')


def rgb(tmp_path):
    grey(tmp_path, np.zeros((*SHAPE, 3), dtype=np.uint8))


def grey_with_alpha(tmp_path):
    Image.new('LA', SHAPE[::-1]).save(tmp_path / 'mask.png')


def fractions(tmp_path):
    grey(tmp_path, np.zeros(SHAPE, dtype=np.float32), 'TIFF')


def other_size(tmp_path):
    grey(tmp_path, np.zeros((9, 6), dtype=np.uint8))


def half_downloaded(tmp_path):
    grey(tmp_path, labels_below(19).astype(np.uint8))
    content = (tmp_path / 'mask.png').read_bytes()
    (tmp_path / 'mask.png').write_bytes(content[: len(content) // 2])


def empty(tmp_path):
    (tmp_path / 'mask.png').touch()


def web_page(tmp_path):
    (tmp_path / 'mask.png').write_text('<html>404</html>')


def missing(tmp_path):
    pass


@pytest.mark.parametrize(
    'make, message',
    [
        (unknown_label, 'holds the label 33, but only 0 to 18 are classes and 255 is'),
        (many_unknown_labels, 'the labels 19, 20, 21, 22, 23 and 30 more'),
        (wide_unknown_labels, 'the labels -1, 70000'),
        (rgb, 'has 3 channels: it is a picture of the labels'),
        (grey_with_alpha, 'has 2 channels'),
        (fractions, 'holds float32 values, not whole numbers'),
        (other_size, 'is 6 x 9 pixels large, its image photo.jpg 9 x 6'),
        (half_downloaded, 'is damaged or half-downloaded; fetch or convert it again'),
        (empty, 'is damaged or half-downloaded'),
        (web_page, 'is damaged or half-downloaded'),
        (missing, 'There is no mask'),
    ],
)
def test_faults_name_the_file_and_the_remedy(tmp_path, make, message):
    make(tmp_path)
    kind = FileNotFoundError if make is missing else ValueError
    with pytest.raises(kind) as error:
        LoadSegmentationMask(num_classes=19)(sample(tmp_path / 'mask.png'))
    text = str(error.value)
    assert message in text
    assert str(tmp_path / 'mask.png') in text
    assert 'convert' in text.rpartition('; ')[2]
    assert '\n' not in text


def test_reduced_labels_are_named_as_in_the_file(tmp_path):
    grey(tmp_path, labels_below(151, 151).astype(np.uint8))
    load = LoadSegmentationMask(num_classes=150)
    with pytest.raises(ValueError, match='label 151, but only 1 to 150 are classes'):
        load(sample(tmp_path / 'mask.png', reduce_zero_label=True))


@pytest.mark.parametrize('ignored', [18, 65536])
def test_the_ignored_label_is_no_class(ignored):
    with pytest.raises(ValueError, match=f'from 19.* to 65535, not {ignored}'):
        LoadSegmentationMask(num_classes=19, ignore_index=ignored)
