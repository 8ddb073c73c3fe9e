"""Image-caption pairs from annotation files."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine.dataset import BaseDataset

from pacl_mmseg.datasets.counts import printable, sample_counts
from pacl_mmseg.registry import DATASETS, TRANSFORMS


def build_pipeline(pipeline: Sequence[dict | Callable]) -> list[Callable]:
    """Build transforms from MMSegmentation's registry.

    MMEngine's ``Compose`` finds them there only once a runner has set the
    default scope; built here, a dataset also works without a runner.

    Args:
        pipeline: Transforms or their configs.

    Returns:
        The transforms.
    """
    return [TRANSFORMS.build(t) if isinstance(t, dict) else t for t in pipeline]


class _ImageTextDataset(BaseDataset):
    """What the datasets of this file share; see :class:`CocoCaptionsDataset`."""

    def __init__(
        self, ann_file: str, pipeline: Sequence[dict | Callable] = (), **kwargs: Any
    ) -> None:
        self.counts = sample_counts
        super().__init__(ann_file, pipeline=build_pipeline(pipeline), **kwargs)

    def load_data_list(self) -> list[dict]:
        name = type(self).__name__
        if not Path(self.ann_file).is_file():
            raise FileNotFoundError(
                f'the annotation file {self.ann_file} does not exist: set `ann_file` '
                f'and `data_root` of {name}, or put the file there'
            )
        data_list = self._load_pairs()
        if not data_list:
            raise ValueError(
                f'{self.ann_file} holds no usable image-caption pair: check that it '
                f'is complete, in UTF-8 and of the format {name} reads'
            )
        return data_list

    @property
    def img_size(self) -> int:
        """Number of images, as MMPretrain's retrieval loop asks for it."""
        return len(self)

    @property
    def text_size(self) -> int:
        """Number of their captions."""
        return sum(len(self.get_data_info(i)['captions']) for i in range(len(self)))

    def _leave_out(self, what: str) -> None:
        self.counts.add('malformed_row', f'{self.ann_file}, {what}')

    def _item(self, path: str, captions: list[str]) -> dict:
        names = dict(img_path=path, img_name=path, key=Path(path).stem)
        return self.parse_data_info(dict(names, captions=captions))

    def __getitem__(self, idx: int) -> Any:
        """Return a sample; one that cannot be used is replaced at random.

        Raises:
            RuntimeError: If ``max_refetch`` replacements in a row cannot be used
                either.
        """
        if self.test_mode:
            return super().__getitem__(idx)
        for _ in range(self.max_refetch + 1):
            data = self.prepare_data(idx)
            if data is not None:
                return data
            failed, idx = idx, self._rand_another()
        # MMEngine's own message names neither the data nor what was wrong with it.
        raise RuntimeError(
            f'{self.max_refetch + 1} samples in a row of {self.ann_file} could not be '
            f'used ({self.counts.summary()}), the last being '
            f'{printable(self.get_data_info(failed)["img_path"])}: check `data_root`, '
            '`data_prefix` and the image files'
        )


@DATASETS.register_module()
class CocoCaptionsDataset(_ImageTextDataset):
    """Images and captions from a JSON file in COCO's captions format.

    An item is an image with all its captions. Images without one, and images and
    annotations that lack what they should have, are counted and left out. A
    sample that the pipeline cannot use (it returns ``None``) is replaced by a
    random other one, as in every dataset of MMEngine.

    A pipeline gets ``img_path``, ``img_name`` (the path as the file gives it),
    ``captions`` (list[str]) and ``key`` (the name of the image file without its
    suffix).

    Args:
        ann_file: The JSON file, with ``images`` and ``annotations``.
        pipeline: The transforms. Defaults to none.
        **kwargs: Of :class:`mmengine.dataset.BaseDataset`, such as ``data_root`` and
            ``data_prefix``, ``dict(img_path=folder)`` of the images.

    Raises:
        FileNotFoundError: If the annotation file does not exist.
        ValueError: If it is not of that format, or holds nothing usable.
    """

    def _load_pairs(self) -> list[dict]:
        try:
            with open(self.ann_file, encoding='utf-8') as file:
                content = json.load(file)
            images, annotations = content['images'], content['annotations']
            if not isinstance(images, list) or not isinstance(annotations, list):
                raise TypeError('images and annotations must be lists')
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                f'{self.ann_file} is not a JSON file in the COCO captions format '
                f'({type(error).__name__}: {error})'
            ) from error
        found: dict[Any, tuple[str, list[str]]] = {}
        for number, image in enumerate(images):
            try:
                name, key = image['file_name'], image['id']
                if not isinstance(name, str) or not name or key in found:
                    raise TypeError
            except (KeyError, TypeError):
                self._leave_out(f'image {number}')
            else:
                found[key] = name, []
        for number, annotation in enumerate(annotations):
            try:
                caption = annotation['caption']
                _, own = found.get(annotation['image_id'], ('', []))
                if not isinstance(caption, str):
                    raise TypeError
            except (KeyError, TypeError):
                self._leave_out(f'annotation {number}')
            else:
                if caption.strip():
                    own.append(caption)
        items = []
        for name, captions in found.values():
            if captions:
                items.append(self._item(name, captions))
            else:
                self.counts.add('empty_caption', f'{self.ann_file}, {name}')
        return items


@DATASETS.register_module()
class CaptionListDataset(_ImageTextDataset):
    """Pairs from a table of image paths and captions, as CC3M and CC12M come.

    A line is a row. Quoting follows the :mod:`csv` module; a line whose quotes do not
    match is left out, but taken as it stands in tab-separated lists, which are often
    written without any. Rows without a path or a caption, or with a NUL, and, where
    there is a header, rows of another length, are left out too: all are counted, and
    the first few named by their lines. Bytes that are not UTF-8 are replaced.

    The whole list is held in memory: for tens of millions of pairs, use
    :class:`ImageTextShards`.

    Args:
        ann_file: The table, separated by commas if it is called ``.csv``, else by tabs.
        pipeline: The transforms; see
            :class:`CocoCaptionsDataset` for what they get. Defaults to none.
        path_column: Index or name of the column of image paths.
            Defaults to 0.
        caption_column: Index or name of the column of captions.
            Defaults to 1.
        header: Whether the first row names the columns. Defaults
            to whether a column is given by name.
        **kwargs: As of :class:`CocoCaptionsDataset`.

    Raises:
        FileNotFoundError: If the table does not exist.
        ValueError: If it holds nothing usable or lacks a named column.
    """

    def __init__(
        self,
        ann_file: str,
        pipeline: Sequence[dict | Callable] = (),
        path_column: int | str = 0,
        caption_column: int | str = 1,
        header: bool | None = None,
        **kwargs: Any,
    ) -> None:
        named = isinstance(path_column, str) or isinstance(caption_column, str)
        if header is False and named:
            raise ValueError('columns given by name need a table with a header')
        self.columns = (path_column, caption_column)
        self.header = named if header is None else header
        self.delimiter = ',' if ann_file.lower().endswith('.csv') else '\t'
        super().__init__(ann_file, pipeline, **kwargs)

    def _load_pairs(self) -> list[dict]:
        items: list[dict] = []
        with open(self.ann_file, 'rb') as file:
            rows = self._read_rows(file)
            _, names = next(rows, (0, [])) if self.header else (0, [])
            path_index, caption_index = (self._index(c, names) for c in self.columns)
            for number, row in rows:
                if not row:  # a blank line
                    continue
                path = caption = ''
                if max(path_index, caption_index) < len(row) == len(names or row):
                    path, caption = row[path_index].strip(), row[caption_index].strip()
                if path and caption and '\0' not in path + caption:
                    items.append(self._item(path, [caption]))
                else:
                    self._leave_out(f'line {number}')
        return items

    def _read_rows(self, lines: Iterable[bytes]) -> Iterator[tuple[int, list[str]]]:
        """Number and cells of each line; a single one where quotes do not match."""
        unclosed = False
        for number, line in enumerate(lines, 1):
            text = self.counts.decode(line, f'{self.ann_file}, line {number}')
            text = text.rstrip('\r\n')
            if number == 1:
                text = text.removeprefix('\ufeff')
            try:
                (row,) = csv.reader([text], delimiter=self.delimiter, strict=True)
            except csv.Error:
                row = text.split('\t') if self.delimiter == '\t' else [text]
                unclosed = self.delimiter != '\t'
            else:
                if unclosed and text.count('"') % 2:
                    row, unclosed = [text], False  # the end of a cell of several lines
            yield number, row

    def _index(self, column: int | str, names: list[str]) -> int:
        if isinstance(column, int):
            return column
        if column not in names:
            raise ValueError(
                f'{self.ann_file} has no column {column!r}; its columns are {names}'
            )
        return names.index(column)
