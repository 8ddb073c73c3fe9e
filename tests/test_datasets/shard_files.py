"""Small tar shards for tests."""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

PER_SHARD = 5


def jpeg(value: int = 0) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(value).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, 'JPEG')
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, 'w') as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def write_shards(
    folder: Path, number: int, per_shard: int | Sequence[int] = PER_SHARD
) -> str:
    """Write shards whose keys are shard * 1000 + index; return their pattern."""
    sizes = [per_shard] * number if isinstance(per_shard, int) else per_shard
    folder.mkdir(exist_ok=True)
    for shard, size in enumerate(sizes):
        members = {}
        for index in range(size):
            key = f'{shard * 1000 + index:09d}'
            members[f'{key}.jpg'] = jpeg(index)
            members[f'{key}.txt'] = f'caption {key}'.encode()
            members[f'{key}.json'] = json.dumps(dict(key=key)).encode()
        write_tar(folder / f'{shard:05d}.tar', members)
    return str(folder / f'{{00000..{number - 1:05d}}}.tar')


def all_keys(number: int, per_shard: int | Sequence[int] = PER_SHARD) -> list[str]:
    sizes = [per_shard] * number if isinstance(per_shard, int) else per_shard
    return [f'{s * 1000 + i:09d}' for s, size in enumerate(sizes) for i in range(size)]


def epoch_of(sample: dict) -> int:
    return int(sample['shard_position'].split()[1])
