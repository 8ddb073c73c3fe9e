"""Images and masks of one square size, as CLIPpy is evaluated."""

from __future__ import annotations

import numpy as np
from mmcv.transforms import BaseTransform
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import center_crop, resize

from pacl_mmseg.registry import TRANSFORMS
from pacl_mmseg.utils.names import check_choice

SQUARES = ('crop', 'squash')


@TRANSFORMS.register_module()
class SquareImageAndMask(BaseTransform):
    """Scores an image as a square: its mask is squashed, and is what is predicted.

    kahnchana/clippy at 04bf78b evaluates VOC so (``src/evaluation``): the image's short
    side is resized and its centre cropped, while the *whole* mask is squashed to the
    same size. Of an image that is no square the labels are therefore those of other
    places than the pixels that are seen: ``image='crop'``. With ``'squash'`` the image
    is squashed too, and the two agree.

    Comes after the mask was loaded, and in place of ``Resize``. Images are resized by
    Pillow's bicubic filter, masks take the nearest pixel.

    Required keys: ``img`` (uint8, H x W x 3), ``gt_seg_map`` (H x W; may be lacking).
    Modified keys: both, and ``img_shape``, ``ori_shape``: all ``(size, size)``.

    Args:
        size: Side in pixels.
        image: ``'crop'`` or ``'squash'``.

    Raises:
        ValueError: Another ``image``, or a size below 1.
    """

    def __init__(self, size: int = 224, image: str = 'crop') -> None:
        check_choice('image', image, SQUARES)
        if size < 1:
            raise ValueError(f'size must be 1 or more, not {size}')
        self.size = size
        self.image = image

    def transform(self, results: dict) -> dict:
        """The sample, image and mask square."""
        square = (self.size, self.size)
        image = Image.fromarray(results['img'])
        size = self.size if self.image == 'crop' else square
        image = resize(image, size, InterpolationMode.BICUBIC)
        results['img'] = np.array(center_crop(image, self.size))
        if 'gt_seg_map' in results:
            mask = results['gt_seg_map']
            rows, columns = (
                ((np.arange(self.size) + 0.5) * length / self.size).astype(int)
                for length in mask.shape
            )
            results['gt_seg_map'] = mask[rows[:, None], columns]
        results['img_shape'] = results['ori_shape'] = square
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(size={self.size}, image={self.image!r})'
