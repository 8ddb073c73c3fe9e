"""Decoding photographs of any kind, and giving them the size CLIP expects."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Mapping
from contextlib import suppress

import numpy as np
import torch
import torchvision
from mmcv.transforms import BaseTransform
from open_clip.transform import (
    MaybeConvertMode,
    MaybeToTensor,
    PreprocessCfg,
    image_transform_v2,
)
from PIL import Image, ImageOps
from torch import nn
from torchvision.transforms import CenterCrop, Normalize, RandomResizedCrop, Resize, v2

from pacl_mmseg.datasets.counts import sample_counts
from pacl_mmseg.models.open_clip_model import check_named, preprocess_config
from pacl_mmseg.registry import TRANSFORMS

# What Pillow may take a file for, whatever its name: for others it starts programs (EPS
# is run by Ghostscript), or has decoders that few people look at.
IMAGE_FORMATS = ('JPEG', 'PNG', 'WEBP', 'BMP', 'GIF', 'TIFF')
IMAGE_SUFFIXES = ('jpg', 'jpeg', 'png', 'webp', 'bmp', 'gif', 'tif', 'tiff')

# A scan of a progressive JPEG file takes a few bytes and a pass over all its pixels.
# libjpeg writes ten.
_MAX_SCANS = 100


@TRANSFORMS.register_module()
class LoadPILImage(BaseTransform):
    """Decode an image with Pillow, whatever its colour mode, or drop the sample.

    JPEG, PNG, WebP, BMP, GIF and TIFF files are taken, also under another's name.
    Grayscale, CMYK, palette and other images become RGB; transparent ones are laid over
    white; 16-bit ones are scaled to 8 bits. Of an animation the first frame is taken.
    The EXIF orientation is not applied by default, as open_clip does not apply it.
    Unlike mmcv's loader, a truncated file is an error, not an image with a grey rest.

    A sample whose image is no file here, damaged or too large is counted and dropped
    (``None`` is returned). How large it is, its first bytes say: nothing is decoded. At
    most 16 bytes of memory are taken for a pixel, 0.8 GB with the default limit.

    Required keys: ``img_bytes`` (taken out) or ``img_path``.
    Added keys: ``img`` (uint8, H x W x 3, BGR as everywhere in mmcv; a view of RGB
    memory), ``img_shape`` (H, W), ``ori_shape`` (H, W of the file).

    Args:
        min_size: Decode JPEG files at the smallest of 1/2, 1/4 and
            1/8 of their size that leaves both sides at least so many pixels, which
            the codec does in about two thirds of the time. Detailed photographs that
            CLIP's 224-pixel crop is then taken from differ from the plain path, in
            steps of 1/255, by 0.6 to 0.8 on average with 448 (twice the crop), by 2.3
            to 4.0 with 224; single pixels at sharp edges by up to 123 and 166. A
            random crop of a small ``scale`` needs more. Defaults to None, never.
        jpeg_decoder: ``'torchvision'`` decodes colour JPEG files at full size
            with torchvision's decoder: the same pixels, sooner, but damaged files
            that still decode may differ, and libjpeg writes its warnings about them
            to the standard error stream. What it cannot decode Pillow does, and
            everything where it is lacking, with a warning. Defaults to ``'pillow'``.
        max_pixels: Images of more are dropped. Defaults to 50 million. (Pillow
            itself refuses 179 million.)
        max_bytes: Files of more are dropped. Defaults to 32 MiB.
        orient: Turn and mirror images as their EXIF orientation says. Defaults to
            False.

    Raises:
        ValueError: If an argument is not one of the above.
    """

    def __init__(
        self,
        min_size: int | None = None,
        jpeg_decoder: str = 'pillow',
        max_pixels: int = 50_000_000,
        max_bytes: int = 2**25,
        orient: bool = False,
    ) -> None:
        if min_size is not None and min_size < 1:
            raise ValueError(f'min_size must be positive or None, got {min_size}')
        if max_pixels < 1 or max_bytes < 1:
            raise ValueError(
                f'max_pixels and max_bytes must be positive, got {max_pixels} and '
                f'{max_bytes}'
            )
        if jpeg_decoder not in ('pillow', 'torchvision'):
            raise ValueError(
                f"jpeg_decoder must be 'pillow' or 'torchvision', got {jpeg_decoder!r}"
            )
        if jpeg_decoder == 'torchvision':
            pixel = io.BytesIO()
            Image.new('RGB', (1, 1)).save(pixel, 'JPEG')
            try:
                _decode_jpeg(pixel.getvalue())
            except Exception as error:  # what is lacking shows only when it is used
                warnings.warn(
                    f'torchvision cannot decode JPEG files here ({error}): Pillow does,'
                    ' which takes longer.',
                    stacklevel=2,
                )
                jpeg_decoder = 'pillow'
        self.min_size = min_size
        self.jpeg_decoder = jpeg_decoder
        self.max_pixels = max_pixels
        self.max_bytes = max_bytes
        self.orient = orient
        self.counts = sample_counts

    def transform(self, results: dict) -> dict | None:
        """The sample with its image, or None."""
        data = results.pop('img_bytes', None)
        name = results.get('img_path')
        if data is None:
            try:
                data = _read_file(results['img_path'], self.max_bytes + 1)
            except OSError:
                self.counts.add('missing_file', name)
                return None
        if len(data) > self.max_bytes:
            self.counts.add('oversized_file', name)
            return None
        try:
            image, size, converted = self.decode(data)
        except Image.DecompressionBombError as error:
            self.counts.add('oversized_image', f'{name} ({error})')
            return None
        except Exception as error:  # decoders raise nearly anything on bad input
            self.counts.add('corrupt_image', f'{name} ({error})')
            return None
        if converted:
            self.counts.add('converted_image')
        results['img'] = image[..., ::-1]
        results['img_shape'] = image.shape[:2]
        results['ori_shape'] = size[::-1]
        return results

    def decode(self, data: bytes) -> tuple[np.ndarray, tuple[int, int], bool]:
        """Decode to RGB (uint8, H x W x 3).

        Returns:
            The image, (width, height) of the file, and whether its colour mode
            was not RGB.

        Raises:
            Image.DecompressionBombError: The image has too many pixels.
            Exception: The file is damaged, or of another kind.
        """
        image = Image.open(io.BytesIO(data), formats=IMAGE_FORMATS)
        size = image.size
        if image.width * image.height > self.max_pixels:
            raise Image.DecompressionBombError(
                f'{image.width} x {image.height}, more than {self.max_pixels} pixels'
            )
        if data.startswith(b'\xff\xd8') and data.count(b'\xff\xda') > _MAX_SCANS:
            raise ValueError(f'more than {_MAX_SCANS} scans')
        if image.format == 'JPEG':  # has no checksums to verify
            if self.min_size is not None:
                image.draft(None, (self.min_size, self.min_size))
            whole = image.mode == 'RGB' and image.size == size
            if whole and self.jpeg_decoder == 'torchvision' and not self.orient:
                with suppress(Exception):  # damaged files, a build without libjpeg
                    return _decode_jpeg(data), size, False
        else:
            image.verify()
            image = Image.open(io.BytesIO(data), formats=IMAGE_FORMATS)
        with image:
            image.load()
            if self.orient:
                image = ImageOps.exif_transpose(image)
            plain = image.mode == 'RGB' and 'transparency' not in image.info
            # A copy, because Pillow's own array is read-only.
            pixels = np.array(image if plain else to_rgb(image))
            return pixels, size, not plain

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(min_size={self.min_size}, '
            f'jpeg_decoder={self.jpeg_decoder!r}, max_pixels={self.max_pixels}, '
            f'max_bytes={self.max_bytes}, orient={self.orient})'
        )


def _read_file(path: str, size: int) -> bytes:
    """The first bytes of a file.

    Raises:
        OSError: It is no file: an address, a name that no file can have, a pipe.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(path)
    with open(path, 'rb') as file:
        return file.read(size)


def _decode_jpeg(data: bytes) -> np.ndarray:
    """Decode a colour JPEG file to RGB (uint8, H x W x 3)."""
    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    mode = torchvision.io.ImageReadMode.RGB
    decoded = torchvision.io.decode_jpeg(encoded, mode=mode)  # deprecated since 0.29
    return decoded.permute(1, 2, 0).numpy()


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode in RGB; a transparent one over white."""
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
    """Resize and crop as open_clip does for a model.

    Size, interpolation and resize mode come from the model's own configuration.
    Normalisation is left to the data preprocessor.

    An image that is too narrow is counted and dropped (``None`` is returned): first
    resized, it would take ``size ** 2 * max_aspect`` pixels, which are a million with
    224 and the default.

    Required keys: ``img`` (uint8, H x W x 3, BGR).
    Modified keys: ``img`` (BGR; a view of RGB memory), ``img_shape``.

    Args:
        model: An open_clip model name, or an architecture given
            as a dict as in open_clip's ``model_configs``. It and ``pretrained`` are
            given by ``ContrastivePretrainRunner``: those of the model's encoder.
        pretrained: The tag of the model's weights, which may
            bring its own interpolation and resize mode.
        crop: ``'center'`` for open_clip's evaluation transform, or
            ``'random'`` for its training transform, a random resized crop drawn
            from PyTorch's global generator. Defaults to ``'center'``.
        scale: The area of a random crop, relative to the
            image's. Defaults to (0.9, 1.0).
        backend: ``'pillow'`` resizes with Pillow, as open_clip does, to the same
            pixels; ``'torch'`` with PyTorch's filters for 8-bit images, which are
            defined alike and take between a sixth and a third of the time. Of
            photographs less than 1 % of the values differ (of some, such as very tall
            ones, up to 20 %), by 1/255, and next to hard edges of images that are
            hardly made smaller a few by up to 7/255.
            Defaults to ``'pillow'``.
        max_aspect: The longer side of an image may be as many times the
            shorter. Defaults to 20.

    Raises:
        ValueError: If the model, the kind of crop or the backend is unknown, or nobody
            named a model, or the backend cannot resize as it asks, or ``max_aspect`` is
            less than 1.
    """

    encoder_keys, encoder_tower = ('model', 'pretrained'), 'vision'

    def __init__(
        self,
        model: str | Mapping | None = None,
        pretrained: str | None = None,
        crop: str = 'center',
        scale: tuple[float, float] = (0.9, 1.0),
        backend: str = 'pillow',
        max_aspect: float = 20.0,
    ) -> None:
        check_named(self, model)
        if crop not in ('center', 'random'):
            raise ValueError(f"crop must be 'center' or 'random', got {crop!r}")
        if backend not in ('pillow', 'torch'):
            raise ValueError(f"backend must be 'pillow' or 'torch', got {backend!r}")
        if max_aspect < 1:
            raise ValueError(f'max_aspect must be 1 or more, got {max_aspect}')
        self.crop = crop
        self.scale = tuple(scale)
        self.backend = backend
        self.max_aspect = max_aspect
        self.counts = sample_counts
        self.config = PreprocessCfg(**preprocess_config(model, pretrained))
        steps = image_transform_v2(
            self.config, is_train=crop == 'random', aug_cfg=dict(scale=self.scale)
        ).transforms
        self.steps = [s for s in steps if not isinstance(s, (MaybeToTensor, Normalize))]
        if backend == 'torch':
            self.steps = [
                _on_tensors(s)
                for s in self.steps
                if not isinstance(s, MaybeConvertMode)
            ]

    def transform(self, results: dict) -> dict | None:
        """The sample, its image resized and cropped, or None."""
        height, width = results['img'].shape[:2]
        if max(height, width) > self.max_aspect * min(height, width):
            name = results.get('img_path')
            self.counts.add('narrow_image', f'{name} ({width} x {height})')
            return None
        # A view of RGB memory, as LoadPILImage gives it, is not copied.
        rgb = np.ascontiguousarray(results['img'][..., ::-1])
        if self.backend == 'torch':
            image = torch.from_numpy(rgb).permute(2, 0, 1)
        else:
            image = Image.fromarray(rgb)
        for step in self.steps:
            image = step(image)
        if self.backend == 'torch':
            rgb = image.permute(1, 2, 0).numpy()
        else:
            rgb = np.asarray(image)
        results['img'] = rgb[..., ::-1]
        results['img_shape'] = rgb.shape[:2]
        return results

    def __repr__(self) -> str:
        size, name = self.config.size, type(self).__name__
        return (
            f'{name}(size={size}, crop={self.crop!r}, scale={self.scale}, '
            f'backend={self.backend!r}, max_aspect={self.max_aspect})'
        )


def _on_tensors(step: nn.Module) -> nn.Module:
    """A step of open_clip's image transform for uint8 tensors (3, H, W).

    torchvision's first transforms, which open_clip uses, resize tensors in float32;
    its second ones do so in 8 bits.
    """
    if isinstance(step, CenterCrop):
        return step
    if isinstance(step, Resize):
        return v2.Resize(step.size, step.interpolation)
    if isinstance(step, RandomResizedCrop):
        return v2.RandomResizedCrop(
            step.size, step.scale, step.ratio, step.interpolation
        )
    raise ValueError(
        f"backend='torch' of CLIPResizeCrop cannot do {step}: use backend='pillow'."
    )
