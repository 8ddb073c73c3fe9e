"""Scores of names at the pixels of an image, from those of its windows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pacl_mmseg.models.segmentors.decoding import Decoding
from pacl_mmseg.ops import pamr
from pacl_mmseg.ops.stitching import stitch, stitching_matrix, window_starts

# Scores of names x pixels held at once: what a CPU's caches hold, and for other devices
# 64 MiB in float32, so that there are few blocks.
BLOCK_CPU, BLOCK = 2**20, 2**24


@dataclass(frozen=True)
class Windows:
    """A grid of windows of one size: first pixels of its rows and columns."""

    rows: list[int]
    columns: list[int]
    size: tuple[int, int]

    @classmethod
    def of(cls, size: tuple[int, int], decoding: Decoding) -> Windows:
        """Those of an image of this size; smaller ones if the image is smaller."""
        if decoding.mode == 'whole':
            return cls([0], [0], size)
        window = tuple(map(min, size, decoding.crop_size))
        rows, columns = map(window_starts, size, window, decoding.stride)
        return cls(rows, columns, window)

    def crop(self, image: Tensor) -> Tensor:
        """``(3, H, W)`` to ``(windows, 3, h, w)``, row by row."""
        height, width = self.size
        crops = [
            image[:, y : y + height, x : x + width]
            for y in self.rows
            for x in self.columns
        ]
        return torch.stack(crops)


class ScoreMaps:
    """Scores of names at the pixels of the original image, had in blocks of rows.

    Args:
        scores: ``(windows, K, h, w)``, those of the tokens of one image's windows.
        windows: Where they are.
        image: The network's input ``(3, H, W)``.
        meta: Metainfo of the data sample.
        decoding: Options.

    Iterating gives ``(rows, width, K)``, from top to bottom.
    """

    def __init__(
        self,
        scores: Tensor,
        windows: Windows,
        image: Tensor,
        meta: dict,
        decoding: Decoding,
    ) -> None:
        size = tuple(meta['ori_shape'][:2])
        padding = meta.get('img_padding_size', meta.get('padding_size', (0, 0, 0, 0)))
        left, right, top, bottom = padding
        flip = meta.get('flip_direction') if meta.get('flip') else None
        if flip not in (None, 'horizontal', 'vertical'):
            raise ValueError(f'A {flip} flip cannot be undone: use the other two.')
        axes = zip(
            scores.shape[-2:],
            (windows.rows, windows.columns),
            windows.size,
            image.shape[-2:],
            size,
            ((top, bottom), (left, right)),
            ('vertical', 'horizontal'),
            strict=True,
        )
        self.rows, self.columns = (
            stitching_matrix(*axis, flip=flip == direction, device=scores.device)
            for *axis, direction in axes
        )
        grid = scores.unflatten(0, (len(windows.rows), len(windows.columns)))
        self.scores = (
            grid.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1).contiguous()
        )
        self.log = decoding.average == 'probabilities'
        self.refined: Tensor | None = None
        self.size, self.flip = size, flip
        height, width = image.shape[-2:]
        self.network_image = image[:, top : height - bottom, left : width - right]
        if decoding.pamr is not None:
            maps = self.whole().permute(2, 0, 1)
            refined = pamr(self.image()[None], maps[None], **decoding.pamr)
            self.refined = refined[0].permute(1, 2, 0)

    def whole(self) -> Tensor:
        """All at once, as they are averaged, ``(height, width, K)``."""
        if self.refined is not None:
            return self.refined
        return stitch(self.scores, self.rows, self.columns)

    def image(self) -> Tensor:
        """The network's input ``(3, height, width)`` as the original image lies."""
        image = self.network_image
        if self.flip:
            image = image.flip(-1 if self.flip == 'horizontal' else -2)
        return F.interpolate(image[None], self.size, mode='bilinear')[0]

    def __iter__(self) -> Iterator[Tensor]:
        block = BLOCK_CPU if self.scores.device.type == 'cpu' else BLOCK
        step = max(block // (len(self.columns) * self.scores.shape[-1]), 1)
        if self.refined is None:
            blocks = (
                stitch(self.scores, rows, self.columns)
                for rows in self.rows.split(step)
            )
        else:
            blocks = iter(self.refined.split(step))
        for block in blocks:
            yield block.clamp_min(1e-30).log() if self.log else block
