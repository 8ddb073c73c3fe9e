"""Squares of images and masks; CLIPpy's own are in test_models/test_clippy.py."""

import numpy as np
import pytest
from mmseg.datasets.transforms import PackSegInputs
from PIL import Image

from pacl_mmseg.datasets import SquareImageAndMask


def test_squashed_image_and_mask_agree():
    mask = np.kron(np.arange(12, dtype=np.uint16).reshape(3, 4), np.ones((20, 30), int))
    image = np.repeat(mask[..., None].astype(np.uint8) * 20, 3, axis=2)
    results = dict(img=image, gt_seg_map=mask, seg_fields=['gt_seg_map'])
    results = SquareImageAndMask(48, 'squash')(results)
    inside = np.s_[4:12, 4:8]  # of the first cell, away from what the filter blurs
    assert (results['img'][inside] == 0).all() and (
        results['gt_seg_map'][inside] == 0
    ).all()
    assert (results['img'][-8:-4, -6:-4] == 220).all()
    expected = Image.fromarray(mask.astype(np.uint8)).resize((48, 48), Image.NEAREST)
    assert np.array_equal(results['gt_seg_map'], expected)
    sample = PackSegInputs()(dict(results, img_path='a.png'))
    assert sample['inputs'].shape == (3, 48, 48)
    assert sample['data_samples'].ori_shape == (48, 48)


def test_the_centre_is_cropped():
    image = np.zeros((40, 90, 3), np.uint8)
    image[:, 25:65] = 255
    results = SquareImageAndMask(40, 'crop')(dict(img=image))
    assert results['img'].shape == (40, 40, 3) and results['img'].min() == 255


@pytest.mark.parametrize('options', [dict(image='centre'), dict(size=0)])
def test_bad_options(options):
    with pytest.raises(ValueError, match="image must be one of|must be '|size must be"):
        SquareImageAndMask(**options)
