"""Decoding photographs of any kind, and giving them the size CLIP expects."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine import fileio
from open_clip.transform import MaybeToTensor, PreprocessCfg, image_transform_v2
from PIL import Image
from torchvision.transforms import Normalize

from pacl_mmseg.datasets.counts import sample_counts
from pacl_mmseg.models.open_clip_model import preprocess_config
from pacl_mmseg.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadPILImage(BaseTransform):
    """Decode an image with Pillow, whatever its colour mode, or drop the sample.

    Grayscale, CMYK, palette and other images become RGB; transparent ones are
    laid over white; 16-bit ones are scaled to 8 bits. Of an animation the first
    frame is taken. The EXIF orientation is not applied, as open_clip does not
    apply it. Unlike mmcv's loader, a truncated file is an error, not an image
    with a grey rest.

    A sample whose image is missing, damaged or larger than Pillow's limit
    against decompression bombs is counted and dropped (``None`` is returned).

    Required keys: ``img_bytes`` (taken out) or ``img_path``.
    Added keys: ``img`` (uint8, H x W x 3, BGR as everywhere in mmcv),
    ``img_shape``, ``ori_shape`` (both (H, W)).
    """

    def __init__(self) -> None:
        self.counts = sample_counts

    def transform(self, results: dict) -> dict | None:
        """Load the image.

        Args:
            results (dict): The sample.

        Returns:
            dict | None: The sample with its image, or None.
        """
        data = results.pop('img_bytes', None)
        name = results.get('img_path')
        if data is None:
            try:
                data = fileio.get(results['img_path'])
            except OSError:
                self.counts.add('missing_file', name)
                return None
        try:
            image, converted = _decode(data)
        except Exception as error:  # decoders raise nearly anything on bad input
            self.counts.add('corrupt_image', f'{name} ({error})')
            return None
        if converted:
            self.counts.add('converted_image')
        results['img'] = np.ascontiguousarray(image[..., ::-1])
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}()'


def _decode(data: bytes) -> tuple[np.ndarray, bool]:
    """Decode to RGB (uint8, H x W x 3) and tell whether the mode was another."""
    with Image.open(io.BytesIO(data)) as image:
        image.verify()  # checksums, where the format has them
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        if image.mode == 'RGB' and 'transparency' not in image.info:
            return np.asarray(image), False
        return np.asarray(_to_rgb(image)), True


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith('I'):  # 'I;16' and its byte orders, or 32-bit 'I'
        # Such files hold 16-bit values; Pillow's own conversion would clip them.
        wide = np.asarray(image).astype(np.float32).clip(0, 65535)
        return Image.fromarray((wide / 257).round().astype(np.uint8)).convert('RGB')
    if image.has_transparency_data:
        image = image.convert('RGBA')
        white = Image.new('RGBA', image.size, 'white')
        image = Image.alpha_composite(white, image)
    return image.convert('RGB')


@TRANSFORMS.register_module()
class CLIPResizeCrop(BaseTransform):
    """Resize and crop as open_clip does for a model, pixel for pixel.

    Size, interpolation and resize mode come from the model's own configuration.
    Normalisation is left to the data preprocessor.

    Required keys: ``img`` (uint8, H x W x 3, BGR).
    Modified keys: ``img``, ``img_shape``.

    Args:
        model (str | dict): An open_clip model name, or an architecture given as
            a dict as in open_clip's ``model_configs``.
        pretrained (str, optional): The tag of the model's weights, which may
            bring its own interpolation and resize mode.
        crop (str): ``'center'`` for open_clip's evaluation transform, or
            ``'random'`` for its training transform, a random resized crop drawn
            from PyTorch's global generator. Defaults to ``'center'``.
        scale (tuple[float, float]): The area of a random crop, relative to the
            image's. Defaults to (0.9, 1.0).

    Raises:
        ValueError: If the model or the kind of crop is unknown.
    """

    def __init__(
        self,
        model: str | Mapping,
        pretrained: str | None = None,
        crop: str = 'center',
        scale: tuple[float, float] = (0.9, 1.0),
    ) -> None:
        if crop not in ('center', 'random'):
            raise ValueError(f"crop must be 'center' or 'random', got {crop!r}")
        self.crop = crop
        self.scale = tuple(scale)
        self.config = PreprocessCfg(**preprocess_config(model, pretrained))
        steps = image_transform_v2(
            self.config, is_train=crop == 'random', aug_cfg=dict(scale=self.scale)
        ).transforms
        self.steps = [s for s in steps if not isinstance(s, (MaybeToTensor, Normalize))]

    def transform(self, results: dict) -> dict:
        """Resize and crop the image.

        Args:
            results (dict): The sample.

        Returns:
            dict: The sample.
        """
        # Pillow objects, because its filters are what the model was trained with.
        image = Image.fromarray(np.ascontiguousarray(results['img'][..., ::-1]))
        for step in self.steps:
            image = step(image)
        results['img'] = np.ascontiguousarray(np.asarray(image)[..., ::-1])
        results['img_shape'] = results['img'].shape[:2]
        return results

    def __repr__(self) -> str:
        size, name = self.config.size, type(self).__name__
        return f'{name}(size={size}, crop={self.crop!r}, scale={self.scale})'
