"""Loading ground-truth masks, and saying what is wrong with those that do not fit."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from mmengine import fileio
from mmseg.datasets.transforms import LoadAnnotations
from PIL import Image

from pacl_mmseg.datasets.transforms.loading import IMAGE_FORMATS
from pacl_mmseg.registry import TRANSFORMS

_NUM_LABELS = 2**16  # what a mask can hold
_UNKNOWN = -1
_DROPPED = 255  # how MMSeg's `label_map` marks classes that the dataset leaves out
_REMEDY = 'tools/check_data.py says how to convert the masks of each benchmark'


@TRANSFORMS.register_module()
class LoadSegmentationMask(LoadAnnotations):
    """``LoadAnnotations`` that keeps 16-bit labels and refuses masks that do not fit.

    MMSeg's own cuts labels to 8 bits and asks no questions: a mask that was never
    converted, or belongs to another image, is scored like any other. This one takes
    8-bit grey, palette, and 16-bit PNG or TIFF files; of anything else it says which
    file it is and what to do about it. ``reduce_zero_label`` and ``label_map`` of the
    dataset are honoured. Samples without ``seg_map_path`` pass unchanged, since MMSeg's
    inference helpers run test pipelines on bare images.

    Required keys: ``seg_map_path``, ``seg_fields``, ``ori_shape``,
    ``reduce_zero_label``, ``label_map`` (may be lacking).
    Added keys: ``gt_seg_map`` (uint8, or uint16 if ``ignore_index`` needs it; H x W).

    Args:
        num_classes: Number of classes in the mask files; with ``reduce_zero_label``
            without label 0.
        ignore_index: The ignored label, in the files and in the result.
        backend_args: As for ``LoadAnnotations``.

    Raises:
        ValueError: ``ignore_index`` is the label of a class. When loading: the file is
            damaged, has colours or fractions in place of labels, has not the size of
            its image, or holds unknown labels.
        FileNotFoundError: When loading: there is no such mask.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_index: int = 255,
        backend_args: dict | None = None,
    ) -> None:
        super().__init__(backend_args=backend_args)
        if not num_classes <= ignore_index < _NUM_LABELS:
            raise ValueError(
                f'ignore_index must be from {num_classes}, so that it is none of the '
                f'{num_classes} classes, to {_NUM_LABELS - 1}, not {ignore_index}.'
            )
        self.num_classes = num_classes
        self.ignore_index = ignore_index

    def _load_seg_map(self, results: dict) -> None:
        if 'seg_map_path' not in results:
            return
        path = results['seg_map_path']
        mask = self._read(path)
        height, width = results['ori_shape'][:2]
        if mask.shape != (height, width):
            raise ValueError(
                f'The mask {path} is {mask.shape[1]} x {mask.shape[0]} pixels large, '
                f'its image {results.get("img_path")} {width} x {height}: one of them '
                'was resized or belongs to another; fetch or convert it again.'
            )
        reduced = results['reduce_zero_label']
        table = self._label_table(reduced, results.get('label_map'))
        # Values outside 16 bits find the last entry, which is unknown.
        labels = table[mask.astype(np.int64).clip(-1, _NUM_LABELS)]
        if (unknown := labels == _UNKNOWN).any():
            values = np.unique(mask[unknown]).tolist()
            raise ValueError(
                f'The mask {path} holds {_some(values)}, but only {int(reduced)} to '
                f'{self.num_classes - 1 + reduced} are classes and {self.ignore_index} '
                f'is ignored: it has probably not been converted; {_REMEDY}.'
            )
        results['gt_seg_map'] = labels.astype(np.min_scalar_type(self.ignore_index))
        results['seg_fields'].append('gt_seg_map')

    def _read(self, path: str) -> np.ndarray:
        """Decode a mask file: ``(H, W)``, whole numbers."""
        try:
            content = fileio.get(path, backend_args=self.backend_args)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f'There is no mask {path}: it is missing or has not been converted; '
                f'{_REMEDY}.'
            ) from error
        try:
            mask = np.array(Image.open(io.BytesIO(content), formats=IMAGE_FORMATS))
        except Exception as error:  # decoders raise nearly anything on bad input
            raise ValueError(
                f'The mask {path} cannot be decoded ({error}): it is damaged or '
                'half-downloaded; fetch or convert it again.'
            ) from error
        if mask.ndim != 2:
            raise ValueError(
                f'The mask {path} has {mask.shape[2]} channels: it is a picture of the '
                f'labels, not one label per pixel; {_REMEDY}.'
            )
        if mask.dtype.kind not in 'bui':
            raise ValueError(
                f'The mask {path} holds {mask.dtype} values, not whole numbers; '
                f'{_REMEDY}.'
            )
        return mask

    def _label_table(
        self, reduce_zero_label: bool, label_map: Mapping[int, int] | None
    ) -> np.ndarray:
        """The label that each value of a mask stands for.

        Returns:
            ``(65537,)``; ``_UNKNOWN`` where there is none, as at the end.
        """
        first = int(reduce_zero_label)
        table = np.full(_NUM_LABELS + 1, _UNKNOWN, dtype=np.int32)
        table[:first] = self.ignore_index
        table[self.ignore_index] = self.ignore_index
        table[first : first + self.num_classes] = np.arange(self.num_classes)
        for old, new in (label_map or {}).items():
            table[first + old] = self.ignore_index if new == _DROPPED else new
        return table

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(num_classes={self.num_classes}, '
            f'ignore_index={self.ignore_index}, backend_args={self.backend_args})'
        )


def _some(values: list[int], most: int = 5) -> str:
    """'the labels 3, 4', or the first few of many."""
    shown = ', '.join(map(str, values[:most]))
    rest = f' and {len(values) - most} more' if len(values) > most else ''
    return f'the label{"s" * (len(values) > 1)} {shown}{rest}'
