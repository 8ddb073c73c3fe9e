"""Batches of pairs, normalised at once, against MMSeg's own way."""

from __future__ import annotations

import pytest
import torch
from mmseg.models import SegDataPreProcessor
from mmseg.structures import SegDataSample

from pacl_mmseg.models import CLIPDataPreProcessor


@pytest.fixture
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (5, 3, 32, 32), generator=generator).byte()


def stock(preprocessor, images, bgr_to_rgb=True):
    """What ``SegDataPreProcessor`` makes of the images."""
    own = SegDataPreProcessor(
        mean=preprocessor.mean.flatten().tolist(),
        std=preprocessor.std.flatten().tolist(),
        bgr_to_rgb=bgr_to_rgb,
        size_divisor=1,
    )
    samples = [SegDataSample() for _ in images]
    return own(dict(inputs=list(images), data_samples=samples), True)['inputs']


@pytest.mark.parametrize('bgr_to_rgb', [True, False])
@pytest.mark.parametrize('training', [True, False])
def test_a_batch_of_pairs_equals_mmsegs_way(
    tiny_clip, images, training, bgr_to_rgb, monkeypatch
):
    monkeypatch.setattr('pacl_mmseg.models.data_preprocessor._PART', 2)
    preprocessor = CLIPDataPreProcessor(tiny_clip, bgr_to_rgb=bgr_to_rgb)
    captions = list('abcde')
    batch = dict(inputs=images, data_samples=dict(captions=captions))
    result = preprocessor(batch, training)
    assert torch.equal(result['inputs'], stock(preprocessor, images, bgr_to_rgb))
    assert result['inputs'].is_contiguous(memory_format=torch.channels_last)
    assert result['data_samples'] == dict(captions=captions)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_low_precision_is_rounded_once(tiny_clip, images, dtype):
    preprocessor = CLIPDataPreProcessor(tiny_clip, dtype=dtype)
    result = preprocessor(dict(inputs=images, data_samples={}), True)['inputs']
    expected = stock(preprocessor, images)
    assert torch.equal(result, expected.to(getattr(torch, dtype)))
    # Tests do not depend on it.
    tested = preprocessor(dict(inputs=list(images)))['inputs']
    assert torch.equal(tested, expected)


def test_image_tokens_pass_through(tiny_clip):
    tokens = torch.randn(2, 16, 32).bfloat16()
    batch = dict(inputs=tokens, data_samples=dict(captions=['a', 'b']))
    result = CLIPDataPreProcessor(tiny_clip)(batch, True)
    assert torch.equal(result['inputs'], tokens)
    assert result['inputs'].dtype == torch.bfloat16
    assert result['data_samples'] == batch['data_samples']


def test_what_is_moved_and_what_stays(tiny_clip, images):
    """To a device without data: which tensors go there can be seen anywhere."""
    preprocessor = CLIPDataPreProcessor(tiny_clip).to('meta')
    samples = dict(
        captions=['a'] * 5,
        text_tokens=torch.ones(5, 24, dtype=torch.int64),
    )
    result = preprocessor(dict(inputs=images, data_samples=samples), True)
    assert result['inputs'].device.type == 'meta'
    # The text encoder looks at their lengths on the host.
    assert result['data_samples']['text_tokens'] is samples['text_tokens']
    there = dict(inputs=torch.zeros(5, 16, 32, device='meta'), data_samples={})
    assert preprocessor(there, True)['inputs'] is there['inputs']


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_on_a_gpu_as_on_the_cpu(tiny_clip, images):
    preprocessor = CLIPDataPreProcessor(tiny_clip)
    expected = preprocessor(dict(inputs=images, data_samples={}), True)['inputs']
    batch = dict(inputs=images.pin_memory(), data_samples={})
    result = preprocessor.cuda()(batch, True)['inputs']
    torch.testing.assert_close(result.cpu(), expected)


def test_unknown_precision(tiny_clip):
    with pytest.raises(ValueError, match="not 'bfloat61'. Did you mean 'bfloat16'"):
        CLIPDataPreProcessor(tiny_clip, dtype='bfloat61')
