"""Image-caption pairs from annotation files."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine.dataset import BaseDataset
from mmengine.logging import print_log

from pacl_mmseg.datasets.counts import sample_counts
from pacl_mmseg.registry import DATASETS, TRANSFORMS


def build_pipeline(pipeline: Sequence[dict | Callable]) -> list[Callable]:
    """Build transforms from MMSegmentation's registry.

    MMEngine's ``Compose`` finds them there only once a runner has set the
    default scope; built here, a dataset also works without a runner.

    Args:
        pipeline (Sequence[dict | Callable]): Transforms or their configs.

    Returns:
        list[Callable]: The transforms.
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

    def _item(self, path: str, captions: list[str]) -> dict:
        names = dict(img_path=path, img_name=path, key=Path(path).stem)
        return self.parse_data_info(dict(names, captions=captions))

    def __getitem__(self, idx: int) -> Any:
        """Return a sample; one that cannot be used is replaced at random.

        Args:
            idx (int): The index.

        Returns:
            Any: What the pipeline returns.

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
            f'{self.get_data_info(failed)["img_path"]}: check `data_root`, '
            '`data_prefix` and the image files'
        )


@DATASETS.register_module()
class CocoCaptionsDataset(_ImageTextDataset):
    """Images and captions from a JSON file in COCO's captions format.

    An item is an image with all its captions. Images without one are left out. A
    sample that the pipeline cannot use (it returns ``None``) is replaced by a
    random other one, as in every dataset of MMEngine.

    A pipeline gets ``img_path``, ``img_name`` (the path as the file gives it),
    ``captions`` (list[str]) and ``key`` (the name of the image file without its
    suffix).

    Args:
        ann_file (str): The JSON file, with ``images`` and ``annotations``.
        pipeline (Sequence[dict | Callable]): The transforms. Defaults to none.
        data_root (str): Folder that ``ann_file`` and ``data_prefix`` are relative
            to. Defaults to ''.
        data_prefix (dict, optional): ``dict(img_path=folder)`` of the images.
        max_refetch (int): Replacements tried before giving up. Defaults to 100.
        **kwargs: Of :class:`mmengine.dataset.BaseDataset`.

    Raises:
        FileNotFoundError: If the annotation file does not exist.
        ValueError: If it is not of that format, or holds nothing usable.
    """

    def _load_pairs(self) -> list[dict]:
        try:
            with open(self.ann_file, encoding='utf-8') as file:
                content = json.load(file)
            captions: dict[Any, list[str]] = {i['id']: [] for i in content['images']}
            for annotation in content['annotations']:
                caption, image_id = annotation['caption'], annotation['image_id']
                if isinstance(caption, str) and caption.strip():
                    captions.get(image_id, []).append(caption)
            items = [
                self._item(image['file_name'], captions[image['id']])
                for image in content['images']
                if captions[image['id']]
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f'{self.ann_file} is not a JSON file in the COCO captions format '
                f'({type(error).__name__}: {error})'
            ) from error
        dropped = len(content['images']) - len(items)
        if dropped:
            print_log(
                f'{self.ann_file}: {dropped} of {len(content["images"])} images have '
                'no caption and are left out',
                logger='current',
                level=logging.WARNING,
            )
        return items


@DATASETS.register_module()
class CaptionListDataset(_ImageTextDataset):
    """Pairs from a table of image paths and captions, as CC3M and CC12M come.

    Quoting follows the :mod:`csv` module. In tab-separated lists, which are often
    written without any, a line is always one row, and one whose quotes do not match
    is taken as it stands. Bytes that are not UTF-8 are replaced. Rows
    without a path or a caption, and, where there is a header, rows of another
    length, are left out; one line of the log tells how many.

    The whole list is held in memory: for tens of millions of pairs, use
    :class:`ImageTextShards`.

    Args:
        ann_file (str): The table.
        pipeline (Sequence[dict | Callable]): The transforms; see
            :class:`CocoCaptionsDataset` for what they get. Defaults to none.
        path_column (int | str): Index or name of the column of image paths.
            Defaults to 0.
        caption_column (int | str): Index or name of the column of captions.
            Defaults to 1.
        header (bool, optional): Whether the first row names the columns. Defaults
            to whether a column is given by name.
        delimiter (str, optional): Defaults to a comma for ``.csv`` and a tab for
            ``.tsv`` and ``.txt``.
        **kwargs: ``data_root``, ``data_prefix``, ``max_refetch`` and others as of
            :class:`CocoCaptionsDataset`.

    Raises:
        FileNotFoundError: If the table does not exist.
        ValueError: If it holds nothing usable, lacks a named column, or its
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
        malformed = 0
        self._undecodable = 0
        with open(self.ann_file, 'rb') as file:
            rows = self._read_rows(self._decode(file))
            names = (next(rows, None) or []) if self.header else []
            path_index, caption_index = (self._index(c, names) for c in self.columns)
            for row in rows:
                if row == []:  # a blank line
                    continue
                fits = row is not None and (not names or len(row) == len(names))
                if not fits or len(row) <= max(path_index, caption_index):
                    malformed += 1
                    continue
                path, caption = row[path_index].strip(), row[caption_index].strip()
                if path and caption:
                    items.append(self._item(path, [caption]))
                else:
                    malformed += 1
        if malformed or self._undecodable:
            print_log(
                f'{self.ann_file}: {len(items)} pairs; {malformed} malformed rows left '
                f'out, {self._undecodable} lines with bytes that are not UTF-8',
                logger='current',
                level=logging.WARNING,
            )
        return items

    def _decode(self, lines: Iterator[bytes]) -> Iterator[str]:
        for number, line in enumerate(lines):
            try:
                text = line.decode('utf-8')
            except UnicodeDecodeError:
                self._undecodable += 1
                text = line.decode('utf-8', errors='replace')
            yield text.removeprefix('\ufeff') if number == 0 else text

    def _read_rows(self, lines: Iterator[str]) -> Iterator[list[str] | None]:
        """Yield rows, None for one that cannot be parsed."""
        if self.delimiter == '\t':
            for line in lines:
                try:
                    yield next(csv.reader([line], delimiter='\t', strict=True))
                except csv.Error:
                    yield line.rstrip('\r\n').split('\t')
            return
        reader = csv.reader(lines, delimiter=self.delimiter)
        while True:
            try:
                yield next(reader)
            except StopIteration:
                return
            except csv.Error:
                yield None

    def _index(self, column: int | str, names: list[str]) -> int:
        if isinstance(column, int):
            return column
        if column not in names:
            raise ValueError(
                f'{self.ann_file} has no column {column!r}; its columns are {names}'
            )
        return names.index(column)
