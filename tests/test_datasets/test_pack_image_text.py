import numpy as np
import pytest
import torch
from mmengine.registry import FUNCTIONS
from mmengine.structures import BaseDataElement
from torch.utils.data import DataLoader

from pacl_mmseg.datasets import PackImageText, collate_image_text
from pacl_mmseg.registry import TRANSFORMS


def pair(number: int = 0, **more) -> dict:
    rng = np.random.default_rng(number)
    image = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return dict(img=image, caption=f'caption {number}', key='not packed', **more)


def full_pair(number: int) -> dict:
    return pair(
        number,
        img_path=f'{number}.jpg',
        shard_position=(0, 1, number),
        text_tokens=torch.full((5,), number),
    )


@pytest.mark.parametrize('contiguous', [True, False])
def test_image_is_bgr_channels_first_and_contiguous(contiguous):
    results = pair()
    bgr = results['img'].copy()
    if not contiguous:  # a view of RGB memory, as CLIPResizeCrop gives it
        results['img'] = np.ascontiguousarray(bgr[..., ::-1])[..., ::-1]
    packed = PackImageText()(results)
    assert packed['inputs'].is_contiguous()
    assert packed['inputs'].dtype == torch.uint8
    assert (packed['inputs'].numpy() == bgr.transpose(2, 0, 1)).all()
    assert packed['data_samples'] == dict(caption='caption 0')


@pytest.mark.parametrize('missing', ['img', 'caption'])
def test_sample_without_image_or_caption_is_refused(missing):
    results = pair()
    del results[missing]
    with pytest.raises(ValueError, match=f"needs '{missing}'"):
        PackImageText()(results)


def test_batch_has_tensors_and_lists():
    batch = collate_image_text([PackImageText()(full_pair(n)) for n in range(3)])
    assert batch['inputs'].shape == (3, 3, 6, 8)
    samples = batch['data_samples']
    assert samples['captions'] == ['caption 0', 'caption 1', 'caption 2']
    assert samples['img_path'] == ['0.jpg', '1.jpg', '2.jpg']
    assert samples['shard_position'] == [(0, 1, 0), (0, 1, 1), (0, 1, 2)]
    assert samples['text_tokens'].tolist() == [[0] * 5, [1] * 5, [2] * 5]
    assert 'caption' not in samples


def test_tokens_take_the_place_of_an_image():
    results = dict(caption='x', image_tokens=torch.ones(6, 4, dtype=torch.bfloat16))
    packed = PackImageText()(results)
    batch = collate_image_text([packed, packed])
    assert torch.equal(batch['inputs'], torch.ones(2, 6, 4, dtype=torch.bfloat16))
    assert batch['data_samples'] == dict(captions=['x', 'x'])


def test_batches_that_do_not_fit_say_why():
    plain, tokens = pair(0, img_path='a.jpg'), full_pair(1)
    with pytest.raises(ValueError, match='a.jpg.*text_tokens.*1.jpg.*same keys'):
        collate_image_text([PackImageText()(plain), PackImageText()(tokens)])
    large = pair(1, img_path='b.jpg')
    large['img'] = np.zeros((9, 9, 3), np.uint8)
    with pytest.raises(ValueError, match=r'\(3, 6, 8\).*a.jpg.*\(3, 9, 9\).*b.jpg'):
        collate_image_text([PackImageText()(plain), PackImageText()(large)])
    seg = dict(inputs=torch.zeros(3, 6, 8), data_samples=BaseDataElement())
    with pytest.raises(TypeError, match='pseudo_collate'):
        collate_image_text([seg])


def test_both_are_found_by_name():
    assert TRANSFORMS.get('PackImageText') is PackImageText
    assert FUNCTIONS.get('collate_image_text') is collate_image_text


class Pairs(torch.utils.data.Dataset):
    def __len__(self):
        return 5

    def __getitem__(self, index):
        return PackImageText()(full_pair(index))


@pytest.mark.parametrize('workers', [0, 2])
def test_batches_come_through_a_loader(workers):
    options = dict(collate_fn=collate_image_text, num_workers=workers)
    batches = list(DataLoader(Pairs(), 2, **options))
    names = [name for batch in batches for name in batch['data_samples']['img_path']]
    assert names == [f'{number}.jpg' for number in range(5)]
    for batch in batches:
        assert batch['inputs'].is_shared() == (workers > 0)
    expected = torch.stack([PackImageText()(pair(n))['inputs'] for n in range(5)])
    assert torch.equal(torch.cat([b['inputs'] for b in batches]), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='pinned memory needs CUDA')
def test_batches_are_pinned_whole():
    options = dict(collate_fn=collate_image_text, num_workers=1, pin_memory=True)
    batch = next(iter(DataLoader(Pairs(), 2, **options)))
    assert batch['inputs'].is_pinned()
    assert batch['data_samples']['text_tokens'].is_pinned()
    assert batch['data_samples']['captions'] == ['caption 0', 'caption 1']
