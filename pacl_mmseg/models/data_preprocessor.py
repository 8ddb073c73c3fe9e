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
        **kwargs: Other arguments of ``SegDataPreProcessor``. Images arrive as BGR, as
            MMSeg loads them, unless ``bgr_to_rgb=False``.
    """

    def __init__(
        self, model: str | Mapping, pretrained: str | None = None, **kwargs: object
    ) -> None:
        config = preprocess_config(model, pretrained)
        kwargs.setdefault('mean', [255 * value for value in config['mean']])
        kwargs.setdefault('std', [255 * value for value in config['std']])
        kwargs.setdefault('bgr_to_rgb', True)
        if kwargs.get('size') is None:
            kwargs.setdefault('size_divisor', 1)  # one of the two must be given
        super().__init__(**kwargs)
