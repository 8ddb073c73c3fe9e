"""Labels of tokens, which TokenAccuracy measures."""

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from pacl_mmseg.models.segmentors.decoding import Decoding
from pacl_mmseg.registry import MODELS


@pytest.fixture
def build(tiny_model):
    def builder(**test_cfg):
        tiny_model.type = 'ZeroShotSegmentor'
        tiny_model.test_cfg = dict(mode='whole', token_labels=True, **test_cfg)
        torch.manual_seed(1)  # of the embedder
        return MODELS.build(tiny_model).eval()

    return builder


def predict(model, **meta):
    image = torch.randn(1, 3, 36, 48, generator=torch.manual_seed(0))
    sample = SegDataSample(metainfo=dict(ori_shape=(50, 70), **meta))
    sample.gt_sem_seg = PixelData(data=torch.ones(1, 50, 70, dtype=torch.int64))
    return image, model.predict(image, [sample])[0]


@torch.no_grad()
@pytest.mark.parametrize('average', ['scores', 'probabilities'])
def test_they_are_those_of_the_tokens_own_scores(build, average):
    model = build(present_classes=True, average=average)
    image, sample = predict(model)
    logits = model.decode_head.forward(model.extract_feat(image))[0]
    assert sample.pred_tokens.data[0].equal(logits.argmax(0))
    assert sample.pred_tokens.shape == (5, 6)  # of 40 rows: the image is stretched
    assert (sample.pred_tokens_present_classes.data == 1).all()
    assert sample.token_patches == dict(
        grid=(5, 6), patch=(8, 8), stride=(8, 8), size=(36, 48)
    )
    assert sample.pred_sem_seg.shape == (50, 70)


@torch.no_grad()
def test_their_patches_are_those_of_the_backbone(build, tiny_model):
    tiny_model.backbone.stride = 4
    _, sample = predict(build())
    assert sample.token_patches['grid'] == (8, 11)
    assert sample.token_patches['stride'] == (4, 4)
    assert 'pred_tokens_present_classes' not in sample


def test_windows_are_refused():
    slide = dict(mode='slide', crop_size=(32, 32), stride=(16, 16))
    with pytest.raises(ValueError, match="token_labels .* set test_cfg.mode='whole'"):
        Decoding.from_test_cfg(dict(slide, token_labels=True))


def test_mirrored_images_are_refused(build):
    with torch.no_grad(), pytest.raises(ValueError, match='none that is mirrored'):
        predict(build(), flip=True, flip_direction='horizontal')
