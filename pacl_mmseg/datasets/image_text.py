"""Image-caption pairs from annotation files."""

from __future__ import annotations

import codecs
import csv
import json
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine.dataset import BaseDataset
from mmengine.logging import print_log

from pacl_mmseg.datasets.counts import printable, sample_counts
from pacl_mmseg.datasets.transforms.loading import IMAGE_SUFFIXES
from pacl_mmseg.registry import DATASETS, TRANSFORMS

_MAX_LINES = 100  # that a row of a CSV file may extend over


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
        self,
        ann_file: str,
        pipeline: Sequence[dict | Callable] = (),
        data_root: str = '',
        data_prefix: dict | None = None,
        max_refetch: int = 100,
        **kwargs: Any,
    ) -> None:
        self.counts = sample_counts
        super().__init__(
            ann_file=ann_file,
            pipeline=build_pipeline(pipeline),
            data_root=data_root,
            data_prefix=dict(img_path='') if data_prefix is None else data_prefix,
            max_refetch=max_refetch,
            **kwargs,
        )

    def load_data_list(self) -> list[dict]:
        name = type(self).__name__
        if not self.ann_file:
            raise ValueError(f'{name} needs an annotation file: set `ann_file`')
        if not Path(self.ann_file).is_file():
            raise FileNotFoundError(
                f'the annotation file {self.ann_file} does not exist: set `ann_file` '
                f'and `data_root` of {name}, or put the file there'
            )
        data_list = self._load_pairs()
        if not data_list:
            raise ValueError(
                f'{self.ann_file} holds no usable image-caption pair: check that it '
                f'is complete and of the format {name} reads'
            )
        return data_list

    def _load_pairs(self) -> list[dict]:
        raise NotImplementedError

    def _leave_out(self, what: str) -> None:
        self.counts.add('malformed_row', f'{self.ann_file}, {what}')

    def _item(self, path: str, captions: list[str]) -> dict:
        names = dict(img_path=path, img_name=path, key=Path(path).stem)
        return self.parse_data_info(dict(names, captions=captions))

    def __getitem__(self, idx: int) -> Any:
        """Return a sample; one that cannot be used is replaced at random.

        Args:
            idx: The index.

        Returns:
            What the pipeline returns.

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

    An item is an image with all its captions. Images without one are left out, and
    images and annotations that lack what they should have are counted, too. A
    sample that the pipeline cannot use (it returns ``None``) is replaced by a
    random other one, as in every dataset of MMEngine.

    A pipeline gets ``img_path``, ``img_name`` (the path as the file gives it),
    ``captions`` (list[str]) and ``key`` (the name of the image file without its
    suffix).

    Args:
        ann_file: The JSON file, with ``images`` and ``annotations``.
        pipeline: The transforms. Defaults to none.
        data_root: Folder that ``ann_file`` and ``data_prefix`` are relative
            to. Defaults to ''.
        data_prefix: ``dict(img_path=folder)`` of the images.
        max_refetch: Replacements tried before giving up. Defaults to 100.
        **kwargs: Of :class:`mmengine.dataset.BaseDataset`.

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
        paths: dict[Any, str] = {}
        captions: dict[Any, list[str]] = {}
        for number, image in enumerate(images):
            try:
                name, key = image['file_name'], image['id']
                if not isinstance(name, str) or not name or key in paths:
                    raise TypeError
            except (KeyError, TypeError):
                self._leave_out(f'image {number}')
            else:
                paths[key], captions[key] = name, []
        for number, annotation in enumerate(annotations):
            try:
                caption = annotation['caption']
                own = captions.get(annotation['image_id'], [])
                if not isinstance(caption, str):
                    raise TypeError
            except (KeyError, TypeError):
                self._leave_out(f'annotation {number}')
            else:
                if caption.strip():
                    own.append(caption)
        items = [
            self._item(path, captions[key])
            for key, path in paths.items()
            if captions[key]
        ]
        if len(items) < len(paths):
            print_log(
                f'{self.ann_file}: {len(paths) - len(items)} of {len(images)} images '
                'have no caption and are left out',
                logger='current',
                level=logging.WARNING,
            )
        return items


@DATASETS.register_module()
class CaptionListDataset(_ImageTextDataset):
    """Pairs from a table of image paths and captions, as CC3M and CC12M come.

    Quoting follows the :mod:`csv` module. In tab-separated lists, which are often
    written without any, a line is always one row, and one whose quotes do not match
    is taken as it stands. Elsewhere a row whose quotes do not match is left out, its
    first line alone; so is one of over 100 lines, or with a line in it that begins with
    the path of an image. Rows without a path or a caption, or with a NUL, and, where
    there is a header, rows of another length, are left out too: all are counted, and
    the first few named by their lines. Bytes that are not UTF-8 are replaced.

    The whole list is held in memory: for tens of millions of pairs, use
    :class:`ImageTextShards`.

    Args:
        ann_file: The table.
        pipeline: The transforms; see
            :class:`CocoCaptionsDataset` for what they get. Defaults to none.
        path_column: Index or name of the column of image paths.
            Defaults to 0.
        caption_column: Index or name of the column of captions.
            Defaults to 1.
        header: Whether the first row names the columns. Defaults
            to whether a column is given by name.
        delimiter: Defaults to a comma for ``.csv`` and a tab for
            ``.tsv`` and ``.txt``.
        **kwargs: ``data_root``, ``data_prefix``, ``max_refetch`` and others as of
            :class:`CocoCaptionsDataset`.

    Raises:
        FileNotFoundError: If the table does not exist.
        ValueError: If it holds nothing usable, lacks a named column, is UTF-16, or its
            delimiter is not known.
    """

    def __init__(
        self,
        ann_file: str,
        pipeline: Sequence[dict | Callable] = (),
        path_column: int | str = 0,
        caption_column: int | str = 1,
        header: bool | None = None,
        delimiter: str | None = None,
        **kwargs: Any,
    ) -> None:
        named = isinstance(path_column, str) or isinstance(caption_column, str)
        if header is False and named:
            raise ValueError('columns given by name need a table with a header')
        if delimiter is None:
            suffix = Path(ann_file).suffix.lower()
            delimiters = {'.csv': ',', '.tsv': '\t', '.txt': '\t'}
            if ann_file and suffix not in delimiters:
                raise ValueError(
                    f'set `delimiter` to read {ann_file}: only .csv, .tsv and .txt '
                    'have a default'
                )
            delimiter = delimiters.get(suffix)
        self.columns = (path_column, caption_column)
        self.header = named if header is None else header
        self.delimiter = delimiter
        super().__init__(ann_file, pipeline, **kwargs)

    def _load_pairs(self) -> list[dict]:
        items: list[dict] = []
        with open(self.ann_file, 'rb') as file:
            if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                raise ValueError(
                    f'{self.ann_file} is UTF-16: write it as UTF-8, for example by '
                    f'`iconv -f UTF-16 -t UTF-8 {self.ann_file} > utf8.csv`'
                )
            file.seek(0)
            rows = self._read_rows(self._decode(file))
            _, names = next(rows, (0, [])) if self.header else (0, [])
            path_index, caption_index = (
                self._index(c, names or []) for c in self.columns
            )
            for number, row in rows:
                if row == []:  # a blank line
                    continue
                path = caption = ''
                fits = row is not None and (not names or len(row) == len(names))
                if fits and len(row) > max(path_index, caption_index):
                    path, caption = row[path_index].strip(), row[caption_index].strip()
                if path and caption and '\0' not in path + caption:
                    items.append(self._item(path, [caption]))
                else:
                    self._leave_out(f'line {number}')
        return items

    def _decode(self, lines: Iterator[bytes]) -> Iterator[str]:
        for number, line in enumerate(lines, 1):
            try:
                text = line.decode('utf-8')
            except UnicodeDecodeError:
                self.counts.add('undecodable_text', f'{self.ann_file}, line {number}')
                text = line.decode('utf-8', errors='replace')
            yield text.removeprefix('\ufeff') if number == 1 else text

    def _read_rows(self, lines: Iterator[str]) -> Iterator[tuple[int, list | None]]:
        """Yield the number of the first line of each row, and the row.

        None is in place of a row that cannot be parsed; it goes on at the next line.
        """
        number = 1
        most = 1 if self.delimiter == '\t' else _MAX_LINES
        ahead: deque[str] = deque()  # lines that are read again
        taken: list[str] = []

        def take() -> Iterator[str]:
            while len(taken) < most:
                line = ahead.popleft() if ahead else next(lines, None)
                if line is None:
                    return
                taken.append(line)
                yield line

        while True:
            taken.clear()
            reader = csv.reader(take(), delimiter=self.delimiter, strict=True)
            try:
                row = next(reader, None)
            except csv.Error:
                row = None
            if not taken:
                return
            if row is None or any(map(self._is_row, taken[1:])):
                row = taken[0].rstrip('\r\n').split('\t') if most == 1 else None
                ahead.extendleft(reversed(taken[1:]))
                del taken[1:]
            yield number, row
            number += len(taken)

    def _is_row(self, line: str) -> bool:
        cells = [cell.strip('" \r\n') for cell in line.split(self.delimiter)]
        suffixes = (cell.rpartition('.')[2].lower() for cell in cells)
        return len(cells) > 1 and any(suffix in IMAGE_SUFFIXES for suffix in suffixes)

    def _index(self, column: int | str, names: list[str]) -> int:
        if isinstance(column, int):
            return column
        if column not in names:
            raise ValueError(
                f'{self.ann_file} has no column {column!r}; its columns are {names}'
            )
        return names.index(column)
