"""Image normalisation as the encoder expects it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from mmseg.models import SegDataPreProcessor
from torch import Tensor

from pacl_mmseg.models.frozen import DTYPES
from pacl_mmseg.models.open_clip_model import preprocess_config
from pacl_mmseg.registry import MODELS
from pacl_mmseg.utils.names import check_choice

# Images normalised at once. What is between bytes and result, float32, takes 19 MB at
# 224 px: that fits in the cache of a large GPU (an H200's has 50 MB), while that of a
# batch of 4096, 2.5 GB, would go through its memory from one operation to the next.
_PART = 32


@MODELS.register_module()
class CLIPDataPreProcessor(SegDataPreProcessor):
    """``SegDataPreProcessor`` with mean and std of an open_clip model's own config.

    A batch of image-text pairs (``collate_image_text``) is one tensor: it is copied to
    the device once, as bytes, and normalised there, with the values that MMSeg's own
    way gives, rounded to ``dtype``. It is neither padded nor augmented. All other
    batches, lists of images and of data samples, go MMSeg's own way.

    Args:
        model, pretrained: As for :class:`PACLBackbone`, and the same.
        dtype: Precision of the images of a batch of pairs, best that of the frozen
            tower: :class:`PACLBackbone` returns tokens in the precision of images. In
            16 bits those of 4096 images at ViT-B/16 take 1.2 GB, in 32 bits 2.5 GB.
            Images of all other batches are float32, so that tests do not depend on it.
        mixed_sizes: Give images of different sizes, when testing, as a list, where
            MMSeg refuses such a batch; :class:`ZeroShotSegmentor` takes it.
        **kwargs: Other arguments of ``SegDataPreProcessor``. Images arrive as BGR, as
            MMSeg loads them, unless ``bgr_to_rgb=False``.

    Raises:
        ValueError: Unknown precision.
    """

    encoder_keys, encoder_tower = ('model', 'pretrained', 'dtype'), 'vision'

    def __init__(
        self,
        model: str | Mapping,
        pretrained: str | None = None,
        dtype: str = 'float32',
        mixed_sizes: bool = False,
        **kwargs: object,
    ) -> None:
        check_choice('dtype', dtype, DTYPES)
        config = preprocess_config(model, pretrained)
        kwargs.setdefault('mean', [255 * value for value in config['mean']])
        kwargs.setdefault('std', [255 * value for value in config['std']])
        kwargs.setdefault('bgr_to_rgb', True)
        if kwargs.get('size') is None:
            kwargs.setdefault('size_divisor', 1)  # one of the two must be given
        super().__init__(**kwargs)
        self.dtype = getattr(torch, dtype)
        self.mixed_sizes = mixed_sizes

    def forward(self, data: dict, training: bool = False) -> dict:
        """Move a batch to the device and normalise its images.

        Args:
            data: ``inputs`` and ``data_samples``. If the latter is a dict, ``inputs``
                are uint8 images ``(B, 3, H, W)``, or the frozen backbone's tokens of
                ``LoadImageTokens``, ``(B, T, C)``, which keep their precision; either
                may be on the device already. Otherwise as in
                ``SegDataPreProcessor.forward``; see also ``mixed_sizes``.
            training: As in ``SegDataPreProcessor.forward``.

        Returns:
            The same keys: ``inputs`` ``(B, 3, H, W)``, of a batch of pairs in
            ``dtype`` and channels-last.
        """
        images, samples = data['inputs'], data.get('data_samples')
        if isinstance(images, Tensor) and isinstance(samples, Mapping):
            # From pinned memory without waiting; a tensor that is there already stays.
            inputs = images.to(self.device, non_blocking=images.is_pinned())
            if inputs.ndim == 4:
                inputs = self._normalize(inputs)
            # Token ids stay: the text encoder first looks at their lengths.
            return dict(inputs=inputs, data_samples=samples)
        same = len({image.shape for image in images}) == 1
        if training or same or not self.mixed_sizes:
            return super().forward(data, training)
        samples = samples or [None] * len(images)
        each = [
            super(CLIPDataPreProcessor, self).forward(
                dict(inputs=[image], data_samples=sample and [sample])
            )
            for image, sample in zip(images, samples, strict=True)
        ]
        return dict(
            inputs=[one['inputs'][0] for one in each],
            data_samples=data.get('data_samples')
            and [one['data_samples'][0] for one in each],
        )

    def _normalize(self, images: Tensor) -> Tensor:
        """Images ``(B, 3, H, W)`` as the encoder takes them."""
        result = torch.empty_like(
            images, dtype=self.dtype, memory_format=torch.channels_last
        )
        for part, target in zip(images.split(_PART), result.split(_PART), strict=True):
            if flips_channels(self):
                part = part.flip(1)
            if self._enable_normalize:  # in float32, rounded once
                torch.div(part - self.mean, self.std, out=target)
            else:
                target.copy_(part)
        return result


def flips_channels(preprocessor: SegDataPreProcessor) -> bool:
    """Whether it exchanges red and blue; MMSeg's two families name that differently."""
    names = ('_channel_conversion', 'channel_conversion')
    return any(getattr(preprocessor, name, False) for name in names)
