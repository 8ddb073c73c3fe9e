"""Averaging over the frames of a video along the motion, and how labels flicker."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def exponential_average(
    current: Tensor,
    average: Tensor,
    weight: float,
    flow: Tensor | None = None,
    trust: Tensor | None = None,
) -> Tensor:
    """An exponential average over time, one frame further.

    ``weight * current + (1 - weight) * average`` where ``average`` is trusted entirely;
    where it is not at all, or the motion comes from outside of the frame, ``current``.

    Args:
        current: Maps ``(C, H, W)`` of this frame.
        average: The average up to the frame before, likewise.
        weight: Of this frame, in (0, 1].
        flow: Optical flow to the frame before, see :func:`warp`: the average is moved
            along. None: it stays where it is.
        trust: From 0 to 1 for each pixel ``(H, W)``, see :func:`agreement`. None: 1.

    Returns:
        ``(C, H, W)``.
    """
    share = torch.full_like(current[0], 1 - weight)
    if flow is not None:
        average, inside = warp(average, flow)
        share = share * inside
    if trust is not None:
        share = share * trust
    return torch.lerp(current, average, share)


def warp(maps: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """What the frame before shows where the pixels of this frame were, bilinearly.

    Args:
        maps: ``(C, H, W)`` of the frame before.
        flow: Optical flow from this frame to the one before, ``(H, W, 2)`` in pixels:
            what is at (x, y) was at ``(x + flow[y, x, 0], y + flow[y, x, 1])``.

    Returns:
        ``(C, H, W)``, at places outside of the frame those of its border; and whether a
        place is inside, bool ``(H, W)``.
    """
    height, width = maps.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height, device=maps.device, dtype=maps.dtype),
        torch.arange(width, device=maps.device, dtype=maps.dtype),
        indexing='ij',
    )
    places = torch.stack([x, y], -1) + flow.to(maps)
    last = places.new_tensor([width - 1, height - 1])
    inside = ((places >= 0) & (places <= last)).all(-1)
    grid = 2 * places / last.clamp_min(1) - 1
    warped = F.grid_sample(
        maps[None], grid[None], padding_mode='border', align_corners=True
    )
    return warped[0], inside


def agreement(
    image: Tensor, before: Tensor, flow: Tensor, sharpness: float = 50.0
) -> Tensor:
    """How far two frames agree along the motion: ``exp(-sharpness * |difference|^2)``.

    Where something comes into sight, or the flow is wrong, colours differ. The formula
    and its factor are those of Lai et al., *Learning Blind Video Temporal Consistency*
    (ECCV 2018), there to tell what is occluded.

    Args:
        image: This frame ``(3, H, W)``, values in [0, 1].
        before: The frame before, likewise.
        flow: See :func:`warp`.
        sharpness: The factor.

    Returns:
        ``(H, W)``, from 0 to 1.
    """
    difference = (image - warp(before, flow)[0]).square().sum(0)
    return torch.exp(-sharpness * difference)


def flicker(
    labels: Tensor, before: Tensor, truth: Tensor, truth_before: Tensor, ignore: int
) -> tuple[int, int]:
    """Pixels whose label changes from one frame to the next though the truth does not.

    Args:
        labels, before: Predicted labels ``(H, W)`` of this frame and the one before.
        truth, truth_before: The true ones, likewise.
        ignore: A true label that does not count.

    Returns:
        The number of these pixels, and that of all whose true label stays the same.
    """
    stays = (truth == truth_before) & (truth != ignore)
    return int(((labels != before) & stays).sum()), int(stays.sum())
