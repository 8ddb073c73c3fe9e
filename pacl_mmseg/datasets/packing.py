"""Packing image-text pairs into webdataset shards of img2dataset's layout."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import webdataset as wds

from pacl_mmseg.datasets.image_text import CaptionListDataset, CocoCaptionsDataset
from pacl_mmseg.datasets.transforms.loading import IMAGE_SUFFIXES
from pacl_mmseg.utils import whole_file


@dataclass(frozen=True)
class PackingSummary:
    """What :func:`pack_shards` wrote.

    Args:
        shards: Number of shards.
        pairs: Number of samples in them.
        skipped: Images that were missing, empty or of no known suffix.
        pattern: The shards, as ``ImageTextShards`` and webdataset take them.
    """

    shards: int
    pairs: int
    skipped: int
    pattern: str


def pack_shards(
    dataset: CocoCaptionsDataset | CaptionListDataset,
    out_dir: str | Path,
    shard_size: int = 10000,
    max_pairs: int | None = None,
    one_per_image: bool = False,
) -> PackingSummary:
    """Pack a dataset's pairs into tar shards; images are copied unchanged.

    A sample is ``key.jpg``, ``key.txt`` and ``key.json``. A shard is there whole or not
    at all.

    Args:
        dataset: The pairs.
        out_dir: Folder for the shards; made if need be.
        shard_size: Samples per shard. Defaults to 10000.
        max_pairs: Stop after so many samples.
        one_per_image: Write an image once with all its captions, of which
            training picks one at random, in place of once per caption. Defaults to
            False.

    Returns:
        What was written.

    Raises:
        FileExistsError: If the folder has shards already.
        OSError: If the disk is full or fails; complete shards stay.
        ValueError: If a number is not positive, or nothing could be packed.
    """
    if shard_size < 1 or (max_pairs is not None and max_pairs < 1):
        raise ValueError('shard_size and max_pairs must be positive')
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    if any(out_dir.glob('[!.]*.tar')):
        raise FileExistsError(f'{out_dir} has shards already: give an empty folder')
    samples = _Samples(dataset, one_per_image)
    members = itertools.islice(samples, max_pairs)
    digits, pairs, shards = len(str(shard_size - 1)), 0, 0
    try:
        while first := next(members, None):
            with (
                whole_file(out_dir / f'{shards:05d}.tar') as part,
                wds.TarWriter(str(part), encoder=False, mtime=0) as target,
            ):
                rest = itertools.islice(members, shard_size - 1)
                for place, member in enumerate(itertools.chain([first], rest)):
                    key = f'{shards:05d}{place:0{digits}d}'
                    target.write(dict(member, __key__=key))
            shards, pairs = shards + 1, pairs + place + 1
    except OSError as error:
        raise OSError(
            error.errno,
            f'{error.strerror}, after {shards} complete shards; make room and pack '
            'again into an empty folder',
            str(out_dir),
        ) from error
    if not shards:
        raise ValueError(
            f'none of the {samples.skipped} images of {dataset.ann_file} could be '
            f'read: check the folder of {dataset.get_data_info(0)["img_path"]}'
        )
    name = '00000' if shards == 1 else f'{{00000..{shards - 1:05d}}}'
    pattern = str(out_dir / f'{name}.tar')
    return PackingSummary(shards, pairs, samples.skipped, pattern)


class _Samples:
    """Members of the tar samples of a dataset; counts images that cannot be read."""

    def __init__(
        self, dataset: CocoCaptionsDataset | CaptionListDataset, one_per_image: bool
    ) -> None:
        self.dataset = dataset
        self.one_per_image = one_per_image
        self.skipped = 0

    def __iter__(self) -> Iterator[dict]:
        for index in range(len(self.dataset)):
            info = self.dataset.get_data_info(index)
            image = _read_image(info['img_path'])
            if image is None:
                self.skipped += 1
            else:
                yield from _members(info, *image, self.one_per_image)


def _read_image(path: str) -> tuple[str, bytes] | None:
    suffix = Path(path).suffix.lower().lstrip('.')
    if suffix not in IMAGE_SUFFIXES:
        return None
    try:
        data = Path(path).read_bytes()
    except OSError:
        return None
    return ('jpg' if suffix == 'jpeg' else suffix, data) if data else None


def _members(info: dict, suffix: str, data: bytes, one: bool) -> Iterator[dict]:
    captions = info['captions']
    for caption in captions[:1] if one else captions:
        # Only a list called ``captions`` is drawn from when the shards are read.
        notes = {
            'caption': caption,
            'captions' if one else 'all_captions': captions,
            'original_path': info['img_path'],
        }
        yield {
            suffix: data,
            'txt': caption.encode('utf-8', errors='replace'),
            'json': json.dumps(notes).encode(),
        }
