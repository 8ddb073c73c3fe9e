"""Packing image-text pairs into webdataset shards of img2dataset's layout."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import webdataset as wds

from pacl_mmseg.datasets.image_text import CaptionListDataset, CocoCaptionsDataset
from pacl_mmseg.datasets.transforms.loading import IMAGE_SUFFIXES
from pacl_mmseg.utils import whole_file


def pack_shards(
    dataset: CocoCaptionsDataset | CaptionListDataset,
    out_dir: str | Path,
    shard_size: int = 10000,
    one_per_image: bool = False,
) -> tuple[str, int]:
    """Pack a dataset's pairs into tar shards; images are copied unchanged.

    A sample is ``key.jpg``, ``key.txt`` and ``key.json``. A shard is there whole or not
    at all. Images that are missing, empty or of no known suffix are passed over,
    counted in ``dataset.counts``, and the first few of them named in the log.

    Args:
        dataset: The pairs.
        out_dir: Folder for the shards; made if need be.
        shard_size: Samples per shard. Defaults to 10000.
        one_per_image: Write an image once with all its captions, of which
            training picks one at random, in place of once per caption. Defaults to
            False.

    Returns:
        The shards, as ``ImageTextShards`` and webdataset take them, and the number of
        samples in them.

    Raises:
        FileExistsError: If the folder has shards already.
        OSError: If the disk is full or fails; complete shards stay.
        ValueError: If ``shard_size`` is not positive, or nothing could be packed.
    """
    if shard_size < 1:
        raise ValueError(f'shard_size must be positive, got {shard_size}')
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    if any(out_dir.glob('[!.]*.tar')):
        raise FileExistsError(f'{out_dir} has shards already: give an empty folder')
    samples = _samples(dataset, one_per_image)
    digits, pairs, shards = len(str(shard_size - 1)), 0, 0
    try:
        while first := next(samples, None):
            with (
                whole_file(out_dir / f'{shards:05d}.tar') as part,
                wds.TarWriter(str(part), encoder=False, mtime=0) as target,
            ):
                rest = itertools.islice(samples, shard_size - 1)
                for place, sample in enumerate(itertools.chain([first], rest)):
                    key = f'{shards:05d}{place:0{digits}d}'
                    target.write(dict(sample, __key__=key))
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
            f'none of the {len(dataset)} images of {dataset.ann_file} could be '
            f'read: check the folder of {dataset.get_data_info(0)["img_path"]}'
        )
    name = '00000' if shards == 1 else f'{{00000..{shards - 1:05d}}}'
    return str(out_dir / f'{name}.tar'), pairs


def _samples(
    dataset: CocoCaptionsDataset | CaptionListDataset, one_per_image: bool
) -> Iterator[dict]:
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        path, captions = Path(info['img_path']), info['captions']
        suffix = path.suffix.lower().lstrip('.')
        try:
            data = path.read_bytes() if suffix in IMAGE_SUFFIXES else b''
        except (OSError, ValueError):  # the latter of NUL or surrogates in a path
            data = b''
        if not data:
            dataset.counts.add('missing_file', str(path))
            continue
        for caption in captions[:1] if one_per_image else captions:
            # Only a list called ``captions`` is drawn from when the shards are read.
            notes = {
                'caption': caption,
                'captions' if one_per_image else 'all_captions': captions,
                'original_path': info['img_path'],
            }
            yield {
                'jpg' if suffix == 'jpeg' else suffix: data,
                'txt': caption.encode('utf-8', errors='replace'),
                'json': json.dumps(notes).encode(),
            }
