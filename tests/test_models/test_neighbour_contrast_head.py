"""A self-supervised loss of patch tokens."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from pacl_mmseg.models.decode_heads.neighbour_contrast_head import (
    NeighbourContrastHead,
    draw_neighbours,
)
from pacl_mmseg.registry import MODELS


def test_pairs_are_neighbours_of_all_kinds():
    height, width = 3, 4
    torch.manual_seed(0)
    these, those = draw_neighbours(400, height, width)
    drawn = {tuple(pair) for pair in torch.stack([*these, *those], 1).tolist()}
    expected = {
        (y, x, y + down, x + 1 - down)
        for y in range(height)
        for x in range(width)
        for down in (0, 1)
        if y + down < height and x + 1 - down < width
    }
    assert drawn == expected


def test_loss_of_images_that_differ():
    """Images of one colour each, at right angles: cosines 1 and 0."""
    head = NeighbourContrastHead(temperature=0.5, loss_weight=3.0)
    maps = torch.eye(4)[:, :, None, None].expand(4, 4, 5, 6) * 7
    losses = head.loss([maps], [])
    expected = 3 * math.log(1 + 3 * math.exp(-2))
    assert losses['loss_neighbours'].item() == pytest.approx(expected, rel=1e-5)
    assert losses['acc_neighbours'] == 100
    with_class_token = head.loss([[maps, torch.zeros(4, 4)]], [])
    torch.testing.assert_close(with_class_token, losses)
    alike = head.loss([torch.ones(4, 3, 2, 2)], [])['loss_neighbours']
    assert alike.item() == pytest.approx(3 * math.log(4), rel=1e-5)


def test_descends_beside_the_loss_of_a_segmentor(tiny_model):
    tiny_model.auxiliary_head = dict(type='NeighbourContrastHead', draws=2)
    torch.manual_seed(0)
    model = MODELS.build(dict(tiny_model, type='ZeroShotSegmentor'))
    coarse = torch.randn(6, 3, 4, 4)
    images = F.interpolate(coarse, (32, 32), mode='bilinear')
    data = dict(captions=['a cat', 'a dog', 'grass'] * 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        found = model.loss(images, data)
        assert {'decode.loss_infonce', 'aux.loss_neighbours'} <= found.keys()
        losses.append(found['aux.loss_neighbours'].item())
        optimizer.zero_grad()
        (found['decode.loss_infonce'] + found['aux.loss_neighbours']).backward()
        optimizer.step()
    assert sum(losses[-3:]) < sum(losses[:3]) - 0.3


@pytest.mark.parametrize('name', ['draws', 'temperature', 'loss_weight'])
def test_options_are_positive(name):
    with pytest.raises(ValueError, match=f'{name} must be above 0, not 0'):
        NeighbourContrastHead(**{name: 0})


def test_a_single_image_has_no_others():
    head = NeighbourContrastHead()
    with pytest.raises(ValueError, match='of 1 images with 4 x 4 patches'):
        head.loss([torch.zeros(1, 3, 4, 4)], [])
