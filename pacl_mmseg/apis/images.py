"""Images as people have them, read into one form."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from pacl_mmseg.datasets.transforms.loading import LoadPILImage, to_rgb

MAX_PIXELS = 50_000_000
MAX_BYTES = 2**27
MAX_ASPECT = 50


def read_image(source: Any, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read an image of any kind.

    Args:
        source: A path of a JPEG, PNG, WebP, BMP, GIF or TIFF file; a PIL image; an
            array ``(H, W)`` or ``(H, W, 1, 3 or 4)``, or a tensor ``(H, W)`` or
            ``(1, 3 or 4, H, W)``, in RGB, of integers 0 to 255 or floats 0 to 1.
            Orientations of EXIF are applied; what is transparent is laid over white.
        max_pixels: Larger images are refused.

    Returns:
        RGB, uint8, ``(H, W, 3)``.

    Raises:
        ValueError: It is damaged, too large or too narrow, or no such thing; the
            message names the file.
        FileNotFoundError: There is no such file.
    """
    name = 'The image'
    if isinstance(source, (str, os.PathLike)):
        name = os.fspath(source)
        image = _read_file(name, max_pixels)
    elif isinstance(source, Image.Image):
        _check_size(name, source.size[::-1], max_pixels)
        try:  # it may not have been decoded yet
            image = np.array(to_rgb(ImageOps.exif_transpose(source)))
        except Exception as error:
            raise ValueError(f'{name} cannot be decoded ({error}).') from error
    elif isinstance(source, (np.ndarray, torch.Tensor)):
        image = _read_array(source, max_pixels)
    else:
        raise ValueError(
            'An image is a path, a PIL image, an array or a tensor, not of type '
            f'{type(source).__name__}.'
        )
    _check_size(name, image.shape, max_pixels)
    return image


def _read_file(path: str, max_pixels: int) -> np.ndarray:
    path = os.path.expanduser(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f'There is no image file {path}.')
    size = os.path.getsize(path)
    if size > MAX_BYTES:
        raise ValueError(
            f'{path} has {size:,} bytes, but at most {MAX_BYTES:,} are read.'
        )
    loader = LoadPILImage(max_pixels=max_pixels, orient=True)
    try:
        with open(path, 'rb') as file:
            return loader.decode(file.read(MAX_BYTES))[0]
    except Exception as error:  # decoders raise nearly anything on bad input
        # Pillow's own words name the object in memory.
        known = isinstance(error, (OSError, ValueError)) and 'BytesIO' not in str(error)
        bomb = isinstance(error, Image.DecompressionBombError)
        reason = f' ({error})' if str(error) and (known or bomb) else ''
        raise ValueError(
            f'{path} is damaged, too large, or no JPEG, PNG, WebP, BMP, GIF or TIFF '
            f'image{reason}.'
        ) from error


def _read_array(source: np.ndarray | torch.Tensor, max_pixels: int) -> np.ndarray:
    is_tensor = isinstance(source, torch.Tensor)
    values = source.detach().cpu().numpy() if is_tensor else source
    channels = values.shape[0 if is_tensor else -1] if values.ndim == 3 else 1
    if values.ndim not in (2, 3) or channels not in (1, 3, 4) or not values.size:
        expected = '(3, H, W), a tensor' if is_tensor else '(H, W, 3), an array'
        raise ValueError(
            f'An image is {expected}, or with 1 or 4 channels; this one is '
            f'{tuple(values.shape)}.'
        )
    if values.ndim == 2:
        values = values[..., None]
    elif is_tensor:
        values = values.transpose(1, 2, 0)
    _check_size('The image', values.shape, max_pixels)
    top = 1 if values.dtype.kind == 'f' else 255
    if values.dtype.kind not in 'fiu' or not (
        values.min() >= 0 and values.max() <= top
    ):
        raise ValueError(
            'The values of an image are integers from 0 to 255 or floats from 0 to 1; '
            f'this one has {values.dtype} outside of that.'
        )
    if top == 1:
        values = (values.astype(np.float32) * 255).round()
    values = np.ascontiguousarray(values, dtype=np.uint8)
    if channels == 1:
        return values.repeat(3, axis=2)
    return np.array(to_rgb(Image.fromarray(values)))


def _check_size(name: str, shape: tuple[int, ...], max_pixels: int) -> None:
    height, width = shape[:2]
    if height * width > max_pixels:
        raise ValueError(
            f'{name} has {width} x {height} pixels, but at most {max_pixels:,} in all '
            'are taken: make it smaller.'
        )
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise ValueError(
            f'{name} has {width} x {height} pixels, and one side is more than '
            f'{MAX_ASPECT} times the other: cut it.'
        )
