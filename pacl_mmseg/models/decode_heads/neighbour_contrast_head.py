"""A self-supervised loss of patch tokens, beside any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from mmengine.model import BaseModule
from torch import Tensor
from torch.nn import functional as F

from pacl_mmseg.registry import MODELS


@MODELS.register_module()
class NeighbourContrastHead(BaseModule):
    """Patches side by side are alike, those of different images are not.

    An ``auxiliary_head`` of MMSeg's segmentors that needs neither labels nor captions:
    of every image a patch and one beside it (right or below) are drawn, and each is to
    find the other among those of all images of this process: a symmetric InfoNCE loss
    over their cosines, the mean of several draws. The definition is our own.

    Args:
        draws: Pairs drawn of each image.
        temperature: Divides the cosines.
        loss_weight: Multiplies the loss.
        in_index: Which of the feature maps.

    Raises:
        ValueError: An option that is not positive.
    """

    def __init__(
        self,
        draws: int = 4,
        temperature: float = 0.1,
        loss_weight: float = 1.0,
        in_index: int = -1,
    ) -> None:
        super().__init__()
        options = dict(draws=draws, temperature=temperature, loss_weight=loss_weight)
        for name, value in options.items():
            if not value > 0:
                raise ValueError(f'{name} must be above 0, not {value}.')
        self.draws = draws
        self.temperature = temperature
        self.loss_weight = loss_weight
        self.in_index = in_index

    def loss(
        self,
        inputs: Sequence[Tensor | list[Tensor]],
        batch_data_samples: Sequence | Mapping,
        train_cfg: dict | None = None,
    ) -> dict[str, Tensor]:
        """The loss of a batch.

        Args:
            inputs: Feature maps of the neck or backbone, ``(N, C, h, w)``; of one with
                a class token, that is left out.
            batch_data_samples, train_cfg: Not used.

        Returns:
            ``loss_neighbours``, and ``acc_neighbours``, how often a patch finds its
            neighbour, in percent.

        Raises:
            ValueError: A single image, or maps without neighbours.
        """
        maps = inputs[self.in_index]
        maps = maps[0] if isinstance(maps, (list, tuple)) else maps
        images, _, height, width = maps.shape
        if images < 2 or height < 2 or width < 2:
            raise ValueError(
                'NeighbourContrastHead compares patches side by side, of two images or '
                f'more: maps of {images} images with {height} x {width} patches do '
                'not do.'
            )
        with torch.autocast(maps.device.type, enabled=False):
            maps = F.normalize(maps.float(), dim=1)
            losses, hits = zip(
                *(self._draw(maps) for _ in range(self.draws)), strict=True
            )
        return dict(
            loss_neighbours=self.loss_weight * torch.stack(losses).mean(),
            acc_neighbours=100 * torch.stack(hits).mean(),
        )

    def _draw(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and share of hits of one pair of each image."""
        image = torch.arange(len(maps), device=maps.device)
        places = draw_neighbours(len(maps), *maps.shape[2:], maps.device)
        these, those = (maps[image, :, y, x] for y, x in places)
        logits = these @ those.T / self.temperature
        loss = (F.cross_entropy(logits, image) + F.cross_entropy(logits.T, image)) / 2
        return loss, (logits.argmax(1) == image).float().mean()


def draw_neighbours(
    count: int, height: int, width: int, device: torch.device | str | None = None
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Places in grids of ``height`` x ``width``, and of one right of or below each.

    Returns:
        Row and column of the first ones, and of the second ones, ``(count,)`` each.
    """
    down = torch.randint(2, (count,), device=device)
    right = 1 - down
    share = torch.rand(2, count, device=device)
    y = (share[0] * (height - down)).long()
    x = (share[1] * (width - right)).long()
    return (y, x), (y + down, x + right)
