"""Tokens that a segmentor keeps, which GroupingJaccard groups."""

import pytest
import torch
from mmseg.structures import SegDataSample

from pacl_mmseg.models.segmentors.decoding import Decoding
from pacl_mmseg.registry import MODELS


@pytest.fixture
def model(tiny_model):
    tiny_model.type = 'ZeroShotSegmentor'
    tiny_model.test_cfg = dict(mode='whole', keep_tokens=True, window_batch=2)
    return MODELS.build(tiny_model).eval()


@torch.no_grad()
@pytest.mark.parametrize('sizes', [[(36, 48)] * 3, [(32, 32), (48, 40), (32, 32)]])
def test_they_are_those_of_the_head(model, sizes):
    generator = torch.manual_seed(0)
    images = [torch.randn(3, *size, generator=generator) for size in sizes]
    for image, sample in zip(images, model.predict(images), strict=True):
        (maps,) = model.extract_feat(image[None])
        torch.testing.assert_close(sample.tokens.data, maps[0])


def test_windows_are_refused():
    slide = dict(mode='slide', crop_size=(32, 32), stride=(16, 16))
    with pytest.raises(ValueError, match="keep_tokens .* set test_cfg.mode='whole'"):
        Decoding.from_test_cfg(dict(slide, keep_tokens=True))


@pytest.mark.parametrize(
    'meta',
    [
        dict(flip=True, flip_direction='horizontal'),
        dict(img_padding_size=(0, 8, 0, 0)),
    ],
)
def test_images_are_taken_as_they_are(model, meta):
    sample = SegDataSample(metainfo=dict(ori_shape=(32, 40), **meta))
    with torch.no_grad(), pytest.raises(ValueError, match='mirrored or padded'):
        model.predict(torch.rand(1, 3, 32, 40), [sample])
