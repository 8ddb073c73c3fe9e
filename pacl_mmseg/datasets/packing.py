"""Packing image-text pairs into webdataset shards of img2dataset's layout."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import webdataset as wds

from pacl_mmseg.datasets.image_text import CaptionListDataset, CocoCaptionsDataset
from pacl_mmseg.datasets.transforms.loading import IMAGE_SUFFIXES


@dataclass(frozen=True)
class PackingSummary:
    """What :func:`pack_shards` wrote.

    Args:
        shards (int): Number of shards.
        pairs (int): Number of samples in them.
        skipped (int): Images that were missing, empty or of no known suffix.
        pattern (str): The shards, as ``ImageTextShards`` and webdataset take them.
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

    A sample is ``key.jpg``, ``key.txt`` and ``key.json``. A shard is written under
    a temporary name and renamed once complete.

    Args:
        dataset (CocoCaptionsDataset | CaptionListDataset): The pairs.
        out_dir (str | Path): Folder for the shards; made if need be.
        shard_size (int): Samples per shard. Defaults to 10000.
        max_pairs (int, optional): Stop after so many samples.
        one_per_image (bool): Write an image once with all its captions, of which
            training picks one at random, in place of once per caption. Defaults to
            False.

    Returns:
        PackingSummary: What was written.

    Raises:
        FileExistsError: If the folder has shards already.
        OSError: If the disk is full or fails; complete shards stay.
        ValueError: If a number is not positive, or nothing could be packed.
    """
    if shard_size < 1 or (max_pairs is not None and max_pairs < 1):
        raise ValueError('shard_size and max_pairs must be positive')
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    if any(out_dir.glob('*.tar')):
        raise FileExistsError(f'{out_dir} has shards already: give an empty folder')
    digits = len(str(shard_size - 1))
    pairs = skipped = 0
    target: wds.TarWriter | None = None
    part = out_dir / 'unfinished.tar.part'
    try:
        for index in range(len(dataset)):
            info = dataset.get_data_info(index)
            image = _read_image(info['img_path'])
            if image is None:
                skipped += 1
                continue
            for member in _members(info, *image, one_per_image):
                if pairs == max_pairs:
                    break
                shard, place = divmod(pairs, shard_size)
                if place == 0:
                    if target is not None:
                        target.close()
                        part.rename(out_dir / f'{shard - 1:05d}.tar')
                    target = wds.TarWriter(str(part), encoder=False, mtime=0)
                member['__key__'] = f'{shard:05d}{place:0{digits}d}'
                target.write(member)
                pairs += 1
            if pairs == max_pairs:
                break
        if target is None:
            raise ValueError(
                f'none of the {skipped} images of {dataset.ann_file} could be read: '
                f'check the folder of {dataset.get_data_info(0)["img_path"]}'
            )
        last = (pairs - 1) // shard_size
        target.close()
        part.rename(out_dir / f'{last:05d}.tar')
    except OSError as error:
        raise OSError(
            error.errno,
            f'{error.strerror}, after {len(list(out_dir.glob("*.tar")))} complete '
            'shards; make room and pack again into an empty folder',
            str(out_dir),
        ) from error
    finally:
        if target is not None:
            with suppress(OSError):  # a full disk again
                target.close()
        part.unlink(missing_ok=True)
    name = '00000' if last == 0 else f'{{00000..{last:05d}}}'
    return PackingSummary(last + 1, pairs, skipped, str(out_dir / f'{name}.tar'))


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
