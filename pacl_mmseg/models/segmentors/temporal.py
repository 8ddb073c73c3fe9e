"""Scores averaged over the frames of a video."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from pacl_mmseg.ops.temporal import agreement, exponential_average
from pacl_mmseg.utils.frames import follows
from pacl_mmseg.utils.names import check_choice

FLOWS = (None, 'dis', 'given')
# Below this side in pixels, flow is searched at full resolution, above at the half,
# which is what OpenCV's medium preset does at any size.
SMALL = 256


@dataclass(frozen=True)
class History:
    """What is kept of a video: the last frame, and the average up to it.

    Attributes:
        scores: ``(H, W, K)``.
        image: RGB ``(3, H, W)``, values in [0, 1].
        clip: Which video it is.
        frame: Number of the last frame, from 0.
    """

    scores: Tensor
    image: Tensor
    clip: Any
    frame: int


@dataclass(frozen=True)
class TemporalAverage:
    """How scores are averaged over time, exponentially.

    Frames come one by one and in order; their metainfo has ``clip``, whatever tells one
    video from the next, and ``frame``, 0 for the first.

    Args:
        weight: Of the newest frame, in (0, 1].
        flow: Motion that the average is moved along. None: none. ``'dis'``: OpenCV's
            dense inverse search (Kroeger et al., ECCV 2016), a classical method without
            weights. ``'given'``: ``flow`` of the metainfo, as :func:`~pacl_mmseg.ops.
            temporal.warp` takes it, in pixels of the original image. Where colours do
            not agree along the motion the newest frame counts alone.

    Raises:
        ValueError: A bad option.
    """

    weight: float = 0.5
    flow: str | None = None

    def __post_init__(self) -> None:
        check_choice('test_cfg.temporal.flow', self.flow, FLOWS)
        if not 0 < self.weight <= 1:
            raise ValueError(
                'test_cfg.temporal.weight, of the newest frame, must be above 0 and at '
                f'most 1, not {self.weight}.'
            )

    def __call__(
        self, history: History | None, scores: Tensor, image: Tensor, meta: Mapping
    ) -> History:
        """Take up a frame.

        Args:
            history: What the frame before gave; None at the beginning.
            scores: ``(H, W, K)`` of this frame.
            image: RGB ``(3, H, W)``, values in [0, 1].
            meta: The frame's metainfo.

        Returns:
            History with the averaged scores.

        Raises:
            ValueError: The frame does not follow the one before, has another size, or
                lacks the flow.
        """
        last = None if history is None else (history.clip, history.frame)
        if not follows(last, meta, 'test_cfg.temporal'):
            return History(scores, image, meta['clip'], meta['frame'])
        if history.scores.shape != scores.shape:
            raise ValueError(
                f'Frame {meta["frame"]} of clip {meta["clip"]!r} has another size or '
                'other names than the frame before.'
            )
        flow = trust = None
        if self.flow is not None:
            if self.flow == 'given':
                if 'flow' not in meta:
                    raise ValueError(
                        "test_cfg.temporal.flow='given' takes flow from the metainfo, "
                        'which has none: name it in the meta_keys of PackSegInputs, '
                        "or set flow='dis'."
                    )
                flow = torch.as_tensor(meta['flow'], device=scores.device)
            else:
                flow = dense_flow(image, history.image)
            trust = agreement(image, history.image, flow)
        average = exponential_average(
            scores.permute(2, 0, 1),
            history.scores.permute(2, 0, 1),
            self.weight,
            flow,
            trust,
        )
        average = average.permute(1, 2, 0).contiguous()
        return History(average, image, meta['clip'], meta['frame'])


def dense_flow(image: Tensor, before: Tensor) -> Tensor:
    """Optical flow from a frame to the one before, by OpenCV's dense inverse search.

    Args:
        image: RGB ``(3, H, W)``, values in [0, 1].
        before: The frame before, likewise.

    Returns:
        ``(H, W, 2)`` in pixels, on the device of the image.
    """
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    if min(image.shape[-2:]) < SMALL:
        search.setFinestScale(0)
    grey = []
    for frame in (image, before):
        pixels = (255 * frame).round().clamp(0, 255).byte().permute(1, 2, 0).cpu()
        grey.append(cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY))
    return torch.from_numpy(search.calc(*grey, None)).to(image.device)
