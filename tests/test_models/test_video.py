"""Scores averaged over the frames of a video."""

from __future__ import annotations

import pytest
import torch
from mmseg.structures import SegDataSample
from torch.nn import functional as F

from pacl_mmseg.models import ZeroShotSegmentor
from pacl_mmseg.models.segmentors.temporal import dense_flow
from pacl_mmseg.ops import agreement, exponential_average
from pacl_mmseg.registry import MODELS

SIZE = (32, 32)


@pytest.fixture
def model(tiny_model) -> ZeroShotSegmentor:
    torch.manual_seed(0)
    return MODELS.build(dict(tiny_model, type='ZeroShotSegmentor')).eval()


@pytest.fixture
def frames() -> torch.Tensor:
    """RGB, 0 to 255: smooth, and other ones at all times."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(4, 3, 6, 6, generator=generator)
    return (255 * F.interpolate(coarse, SIZE, mode='bicubic').clamp(0, 1)).round()


def segment(model, frames, metas, **options) -> list[torch.Tensor]:
    model.test_cfg['temporal'] = options or None
    samples = [
        SegDataSample(metainfo=dict(ori_shape=SIZE, img_shape=SIZE, **meta))
        for meta in metas
    ]
    data = dict(inputs=[f.flip(0).byte() for f in frames], data_samples=samples)
    with torch.no_grad():
        return [sample.pred_sem_seg.data[0] for sample in model.test_step(data)]


def clip(count: int, name: int = 0) -> list[dict]:
    return [dict(clip=name, frame=frame) for frame in range(count)]


def scores(model, frames) -> torch.Tensor:
    """(N, K, H, W) as an unaveraged image has them."""
    inputs = (frames - model.data_preprocessor.mean) / model.data_preprocessor.std
    with torch.no_grad():
        maps = model.decode_head.name_scores(model.extract_feat(inputs))
    return F.interpolate(maps, SIZE, mode='bilinear')


def labels(model, scores) -> torch.Tensor:
    return model.decode_head.text_bank.merge(scores[None])[0].argmax(0)


def test_averages_what_came_before(model, frames):
    one, two, three, four = scores(model, frames)
    found = segment(model, frames, [*clip(3), *clip(1, name=1)], weight=0.5)
    expected = [one, one / 2 + two / 2, one / 4 + two / 4 + three / 2, four]
    for found_labels, average in zip(found, expected, strict=True):
        assert torch.equal(found_labels, labels(model, average))
    alone = segment(model, frames, clip(4))
    assert not torch.equal(found[2], alone[2])
    assert all(map(torch.equal, segment(model, frames, clip(4), weight=1.0), alone))
    # Batches may end within a clip.
    parts = segment(model, frames[:1], clip(3)[:1], weight=0.5)
    parts += segment(model, frames[1:3], clip(3)[1:], weight=0.5)
    assert all(map(torch.equal, parts, found[:3]))


def test_moves_with_a_given_flow(model, frames):
    flow = torch.zeros(*SIZE, 2)
    flow[..., 0], flow[..., 1] = -1, 2
    frames = frames[0].lerp(frames, 0.2).round()  # much alike
    metas = [dict(meta, flow=flow.numpy()) for meta in clip(2)]
    found = segment(model, frames[:2], metas, weight=0.3, flow='given')
    before, now = scores(model, frames[:2])
    trust = agreement(frames[1] / 255, frames[0] / 255, flow)
    assert trust.min() < 0.3 < 0.7 < trust.max()
    average = exponential_average(now, before, 0.3, flow, trust)
    assert torch.equal(found[1], labels(model, average))
    in_place = segment(model, frames[:2], clip(2), weight=0.3)[1]
    assert not torch.equal(found[1], in_place)


@pytest.mark.parametrize('flow', [None, 'dis'])
def test_still_pictures_stay_what_they_are(model, frames, flow):
    still = frames[:1].expand(3, -1, -1, -1)
    alone = segment(model, frames[:1], clip(1))[0]
    for found in segment(model, still, clip(3), weight=0.3, flow=flow):
        assert (found == alone).float().mean() > 0.99  # rounding, at borders


@pytest.mark.parametrize('side', [64, 300])
def test_dense_flow_leads_to_the_frame_before(side):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, side // 4, side // 4, generator=generator)
    before = F.interpolate(coarse, (side, side), mode='bicubic')[0].clamp(0, 1)
    image = before.roll((2, -3), (1, 2))  # 2 down, 3 left
    flow = dense_flow(image, before)[16:-16, 16:-16]
    error = (flow - torch.tensor([3.0, -2.0])).norm(dim=-1)
    assert error.median() < 0.25


@pytest.mark.parametrize(
    'options, metas, message',
    [
        (dict(weight=0), clip(1), 'weight, of the newest frame, must be above 0'),
        (dict(flow='raft'), clip(1), "temporal.flow must be .* not 'raft'"),
        (dict(speed=1), clip(1), "no option of test_cfg.temporal 'speed'"),
        (dict(weight=0.5), [{}], 'does not say which one it is: use a dataset'),
        (dict(weight=0.5), clip(3)[2:], 'frame 2 of clip 0 comes after the beginning'),
        (dict(weight=0.5), clip(3)[::2], 'frame 2 of clip 0 comes after frame 0 of 0'),
        (dict(flow='given'), clip(2), 'takes flow from the metainfo, which has none'),
    ],
)
def test_what_cannot_be_averaged_is_refused(model, frames, options, metas, message):
    with pytest.raises(ValueError, match=message):
        segment(model, frames[: len(metas)], metas, **options)
