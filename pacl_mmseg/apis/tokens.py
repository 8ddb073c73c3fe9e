"""Patch tokens of images, as they are compared with texts: docs/clippy.md."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from mmcv.transforms import Compose
from mmengine.runner import Runner
from mmseg.structures import SegDataSample
from torch import Tensor

from pacl_mmseg.models import ZeroShotSegmentor
from pacl_mmseg.registry import DATASETS


@dataclass(frozen=True)
class ImageTokens:
    """An image, encoded whole.

    Attributes:
        image: As it was given to the model, resized, RGB, uint8, ``(H, W, 3)``.
        tokens: ``(D, h, w)``.
        labels: Of the pixels of the original image, ``(H', W')``; None of a file.
        ignore_index: The label of pixels that do not count.
    """

    image: Tensor
    tokens: Tensor
    labels: Tensor | None = None
    ignore_index: int = 255


@torch.no_grad()
def read_tokens(model: ZeroShotSegmentor, images: int) -> Iterator[ImageTokens]:
    """Encode test images of a model's config.

    Args:
        model: From ``init_model``.
        images: How many of the first ones, at most.

    Raises:
        ValueError: A model of another kind.
    """
    loader = model.cfg.test_dataloader
    dataset = DATASETS.build(loader.dataset)
    subset = dataset.get_subset(range(min(images, len(dataset))))
    for batch in Runner.build_dataloader(dict(loader, dataset=subset)):
        given = zip(batch['inputs'], _predict(model, batch), strict=True)
        for image, sample in given:
            labels = sample.gt_sem_seg.data[0].cpu()
            yield _taken(image, sample, labels, dataset.ignore_index)


@torch.no_grad()
def file_tokens(model: ZeroShotSegmentor, image: str) -> ImageTokens:
    """Encode an image file; arguments and errors as of :func:`read_tokens`."""
    data = Compose(model.cfg.test_pipeline)(dict(img_path=image))
    batch = {key: [value] for key, value in data.items()}
    (sample,) = _predict(model, batch)
    return _taken(data['inputs'], sample)


def _predict(model: ZeroShotSegmentor, batch: dict) -> list[SegDataSample]:
    if not isinstance(model, ZeroShotSegmentor):
        raise ValueError(
            f'Tokens are those of a ZeroShotSegmentor, not of a {type(model).__name__}.'
        )
    model.test_cfg.update(mode='whole', keep_tokens=True, present_classes=False)
    return model.test_step(batch)


def _taken(image: Tensor, sample: SegDataSample, *labels: object) -> ImageTokens:
    picture = image.flip(0).permute(1, 2, 0)
    return ImageTokens(picture, sample.tokens.data.cpu(), *labels)
