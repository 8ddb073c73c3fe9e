"""Averages over the frames of a video."""

import math

import pytest
import torch

from pacl_mmseg.ops import agreement, exponential_average, flicker, warp


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)).double()


def test_warp_takes_what_was_there_before():
    maps = random(2, 6, 7)
    flow = torch.tensor([-2.0, 1.0]).expand(6, 7, 2)  # from the right and below
    warped, inside = warp(maps, flow)
    torch.testing.assert_close(warped[:, :5, 2:], maps[:, 1:, :5])
    expected = torch.zeros(6, 7, dtype=torch.bool)
    expected[:5, 2:] = True
    assert torch.equal(inside, expected)


def test_warp_between_pixels():
    y, x = torch.meshgrid(torch.arange(5.0), torch.arange(4.0), indexing='ij')
    flow = torch.tensor([0.25, -0.5]).expand(5, 4, 2)
    warped, inside = warp((x + 10 * y)[None], flow)
    torch.testing.assert_close(warped[0][inside], (x + 10 * y - 4.75)[inside])
    assert inside.sum() == 4 * 3


@pytest.mark.parametrize('size', [(1, 1), (1, 5), (5, 1)])
def test_warp_of_a_line(size):
    maps = random(2, *size)
    warped, inside = warp(maps, torch.zeros(*size, 2))
    assert torch.equal(warped, maps) and inside.all()


def test_average_in_place():
    frames = random(4, 3, 2, 2)
    average = frames[0]
    for frame in frames[1:]:
        average = exponential_average(frame, average, 0.25)
    weights = torch.tensor([0.75**3, 0.25 * 0.75**2, 0.25 * 0.75, 0.25])
    expected = (weights.double()[:, None, None, None] * frames).sum(0)
    torch.testing.assert_close(average, expected)
    assert torch.equal(exponential_average(frames[1], frames[0], 1.0), frames[1])


def test_average_along_the_motion_is_of_what_is_known():
    current, before = random(3, 4, 4), random(3, 4, 4, seed=1)
    flow = torch.tensor([-1.0, 0.0]).expand(4, 4, 2)
    trust = torch.ones(4, 4)
    trust[2, 2] = 0
    average = exponential_average(current, before, 0.5, flow, trust)
    expected = (current + before.roll(1, 2)) / 2
    expected[:, :, 0] = current[:, :, 0]  # came into the picture
    expected[:, 2, 2] = current[:, 2, 2]
    torch.testing.assert_close(average, expected)


def test_agreement():
    image, before = random(3, 4, 4), random(3, 4, 4)
    still = torch.zeros(4, 4, 2)
    before[1, 3, 2] += 0.1
    expected = torch.ones(4, 4).double()
    expected[3, 2] = math.exp(-50 * 0.01)
    torch.testing.assert_close(agreement(image, before, still), expected)
    moved = torch.tensor([0.0, 2.0]).expand(4, 4, 2)
    found = agreement(image, image.roll(2, 1), moved)
    torch.testing.assert_close(found[:2], expected.new_ones(2, 4))


def test_flicker_counts_where_the_truth_stays():
    truth_before = torch.tensor([[0, 0, 1], [1, 255, 255]])
    truth = torch.tensor([[0, 0, 1], [2, 255, 0]])
    before = torch.tensor([[0, 5, 1], [1, 4, 4]])
    labels = torch.tensor([[3, 5, 2], [2, 3, 3]])
    assert flicker(labels, before, truth, truth_before, 255) == (2, 3)
