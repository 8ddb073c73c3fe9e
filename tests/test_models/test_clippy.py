"""CLIPpy's evaluation, pooling and loss equal those of its public code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmseg.evaluation import IoUMetric
from parity import recipe
from torch.nn import functional as F

from pacl_mmseg.benchmark import compose
from pacl_mmseg.datasets import SquareImageAndMask
from pacl_mmseg.models import CLIPDataPreProcessor
from pacl_mmseg.models.decode_heads import CompatibilityFunction
from pacl_mmseg.models.losses import InfoNCELoss
from pacl_mmseg.models.text_encoders import TextBank
from pacl_mmseg.registry import MODELS

# Where each of our names, those of class 0 first, is among its names.
ORDER = [0, *range(21, 60), *range(1, 21)]


def golden(key):
    return recipe.golden('clippy', key)


@pytest.fixture(scope='module')
def model(parity_weights):
    options = {
        'model.encoder.model': dict(recipe.ARCHITECTURE, _delete_=True),
        'model.encoder.pretrained': parity_weights,
        'model.test_cfg.keep_scores': True,
    }
    config = compose('clip', 'voc21', 'clippy', options)
    return MODELS.build(config.model).eval()


@pytest.fixture(scope='module')
def samples(model):
    with torch.no_grad():
        return model.predict(recipe.dense_images('native')['native'])


def test_names_and_prompts(model):
    # Its vectors, each of unit length, are then divided by the length of all.
    expected = 60**0.5 * golden('vectors')[ORDER]
    torch.testing.assert_close(model.decode_head.text_bank.embeddings, expected)


def test_similarity_of_upsampled_features(model, samples):
    bank = model.decode_head.text_bank
    cosines = 60**0.5 * golden('similarity')[:, ORDER]
    expected = TextBank.merge(bank, cosines.log_softmax(1))[0]
    result = recipe.thinned(samples[0].seg_logits.data)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)


def test_prediction_and_iou(samples):
    prediction = torch.cat([sample.pred_sem_seg.data for sample in samples])
    assert torch.equal(prediction, golden('prediction').long())
    areas = IoUMetric.intersect_and_union(prediction, recipe.clippy_targets(), 21, 255)
    torch.testing.assert_close(
        (areas[0] / areas[1]).double(), golden('iou'), rtol=0, atol=1e-5
    )


def test_image_and_mask():
    image, mask = recipe.clippy_image()
    results = SquareImageAndMask(224)(
        dict(img=np.asarray(image)[..., ::-1], gt_seg_map=np.asarray(mask))
    )
    assert np.array_equal(results['gt_seg_map'], golden('mask'))
    assert results['ori_shape'] == results['img_shape'] == (224, 224)
    inputs = torch.from_numpy(results['img'].transpose(2, 0, 1).copy())
    normalise = CLIPDataPreProcessor('ViT-B-16')
    inputs = normalise(dict(inputs=[inputs]))['inputs'][0, :, ::7, ::7]
    torch.testing.assert_close(inputs, golden('image'), rtol=0, atol=1e-5)


def test_pooling_and_loss():
    tokens, texts = recipe.clippy_pairs()
    tokens.requires_grad_()
    phi = CompatibilityFunction('max', include_cls=True)(
        tokens[:, 1:], F.normalize(texts, dim=1), cls_tokens=tokens[:, 0]
    )
    loss = InfoNCELoss(learnable=True)(phi)['loss_infonce']
    loss.backward()
    torch.testing.assert_close(loss.detach(), golden('loss'), rtol=0, atol=1e-5)
    torch.testing.assert_close(tokens.grad, golden('gradient'), rtol=0, atol=1e-5)
    assert tokens.grad[:, 0].any()  # the class token is one of the 17
