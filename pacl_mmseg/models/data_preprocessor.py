"""Image normalisation as the encoder expects it."""

from __future__ import annotations

from collections.abc import Mapping

from mmseg.models import SegDataPreProcessor

from pacl_mmseg.models.open_clip_model import preprocess_config
from pacl_mmseg.registry import MODELS


@MODELS.register_module()
class CLIPDataPreProcessor(SegDataPreProcessor):
    """``SegDataPreProcessor`` with mean and std of an open_clip model's own config.

    Args:
        model, pretrained: As for :class:`PACLBackbone`; give the same.
        mixed_sizes: Give images of different sizes, when testing, as a list, where
            MMSeg refuses such a batch; :class:`ZeroShotSegmentor` takes it.
        **kwargs: Other arguments of ``SegDataPreProcessor``. Images arrive as BGR, as
            MMSeg loads them, unless ``bgr_to_rgb=False``.
    """

    def __init__(
        self,
        model: str | Mapping,
        pretrained: str | None = None,
        mixed_sizes: bool = False,
        **kwargs: object,
    ) -> None:
        config = preprocess_config(model, pretrained)
        kwargs.setdefault('mean', [255 * value for value in config['mean']])
        kwargs.setdefault('std', [255 * value for value in config['std']])
        kwargs.setdefault('bgr_to_rgb', True)
        if kwargs.get('size') is None:
            kwargs.setdefault('size_divisor', 1)  # one of the two must be given
        super().__init__(**kwargs)
        self.mixed_sizes = mixed_sizes

    def forward(self, data: dict, training: bool = False) -> dict:
        """As ``SegDataPreProcessor.forward``; see ``mixed_sizes``."""
        images = data['inputs']
        same = len({image.shape for image in images}) == 1
        if training or same or not self.mixed_sizes:
            return super().forward(data, training)
        samples = data.get('data_samples') or [None] * len(images)
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
