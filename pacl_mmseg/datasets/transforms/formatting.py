"""Image-text pairs as plain dicts, and batches of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from torch.utils.data import default_collate

from pacl_mmseg.registry import FUNCTIONS, TRANSFORMS

# What a sample carries beside its image, and what the batch calls it.
_NAMES = {'caption': 'captions'}
_PACKED = ('caption', 'text_tokens', 'img_path', 'shard_position')


@TRANSFORMS.register_module()
class PackImageText(BaseTransform):
    """Pack an image-text pair as ``collate_image_text`` takes it.

    The counterpart of ``PackSegInputs`` with a plain dict in place of a data sample,
    so that a batch is a few tensors and lists, not an object per pair.

    Required keys: ``img`` (uint8, H x W x 3, BGR; or a float tensor, 3 x H x W, RGB in
    0..1, as torchvision's transforms make it) or ``image_tokens`` (T x C, of
    ``LoadImageTokens``), ``caption`` (str).
    Optional keys: ``text_tokens`` (int64 tensor, L), ``img_path`` (str),
    ``shard_position`` (str).
    Result: ``inputs`` (the tokens, or a tensor, 3 x H x W, BGR, contiguous: uint8, of a
    float tensor float32 in 0..255) and ``data_samples``, a dict of the other keys.

    Raises:
        ValueError: When packing: the sample has no image or no caption.
    """

    def transform(self, results: dict) -> dict:
        """``inputs`` and ``data_samples`` of the sample."""
        inputs = results.get('image_tokens')
        for key in ('img', 'caption') if inputs is None else ('caption',):
            if key not in results:
                raise ValueError(
                    f'PackImageText needs {key!r}, but the sample has only '
                    f'{sorted(results)}: put the transform or dataset that gives it '
                    'before.'
                )
        if inputs is None and isinstance(results['img'], torch.Tensor):
            inputs = results['img'].flip(0).mul_(255)  # flip copies
        elif inputs is None:
            # Also undoes a view that only turns the channels round: one copy for both.
            image = np.ascontiguousarray(results['img'].transpose(2, 0, 1))
            inputs = torch.from_numpy(image)
        data_samples = {key: results[key] for key in _PACKED if key in results}
        return dict(inputs=inputs, data_samples=data_samples)


@FUNCTIONS.register_module()
def collate_image_text(batch: Sequence[dict], _scope_: str | None = None) -> dict:
    """Make a batch of packed image-text pairs: tensors stacked, all else listed.

    Tensors are stacked once; in a data worker straight into shared memory.

    Args:
        batch: Samples of ``PackImageText``: ``inputs`` and a dict
            ``data_samples``.
        _scope_: Given, and of no use, where a config inherits this from a package.

    Returns:
        ``inputs`` (B, ...) and ``data_samples``, a dict of ``captions``
        (list[str]), ``img_path`` (list[str]), ``shard_position`` (list[str]),
        ``text_tokens`` (B, L), each if the samples have it.

    Raises:
        TypeError: The samples are of ``PackSegInputs``.
        ValueError: Samples differ in their keys, or in the shape or type of a tensor.
    """
    first = batch[0]
    if not isinstance(first['data_samples'], Mapping):
        raise TypeError(
            'collate_image_text takes what PackImageText packs, not a '
            f'{type(first["data_samples"]).__name__}: end the pipeline in '
            'PackImageText, or set '
            "train_dataloader.collate_fn=dict(type='pseudo_collate')."
        )
    for sample in batch:
        if _contents(sample) != _contents(first):
            raise ValueError(
                f'A batch cannot mix {_contents(first)} ({_name(first)}) and '
                f'{_contents(sample)} ({_name(sample)}): give all samples the same '
                'keys, and images one size, e.g. with CLIPResizeCrop.'
            )
    samples: dict[str, Any] = {}
    for key, value in first['data_samples'].items():
        values = [sample['data_samples'][key] for sample in batch]
        tensors = isinstance(value, torch.Tensor)
        samples[_NAMES.get(key, key)] = default_collate(values) if tensors else values
    inputs = default_collate([sample['inputs'] for sample in batch])
    return dict(inputs=inputs, data_samples=samples)


def _contents(sample: dict) -> list[str]:
    """What all samples of a batch must have alike."""
    values = dict(sample['data_samples'], inputs=sample['inputs'])
    return sorted(
        f'{key} {tuple(value.shape)} {value.dtype}'
        if isinstance(value, torch.Tensor)
        else key
        for key, value in values.items()
    )


def _name(sample: dict) -> str:
    return str(sample['data_samples'].get('img_path', 'unnamed'))
