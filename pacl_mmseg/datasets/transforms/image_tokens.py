"""Image tokens that the frozen backbone made once, in place of images.

A token cache is a folder of safetensors files, which
:func:`pacl_mmseg.datasets.token_cache.write_token_cache` writes:

- ``tokens-00000.safetensors``, ...: of up to ``images_per_file`` images the patch
  tokens ``(n, T, C)`` (with 8 bits also a scale per token, ``(n, T)``), the hashes of
  their names ``(n,)`` and a checksum of all that ``(n,)``;
- ``index.safetensors``: the hashes ``(N,)`` of all images, sorted, and their rows:
  ``images_per_file`` times the number of the file, and the row in it. Its metadata say
  what the tokens were made with, and the size of every file. It is written last, so a
  folder without it is not a cache (yet).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from pacl_mmseg.datasets.counts import sample_counts
from pacl_mmseg.registry import TRANSFORMS

VERSION = 3  # of the files; raise it whenever older ones cannot be read any more
INDEX = 'index.safetensors'
OLD_INDEX = 'meta.json'  # of versions 1 and 2, which held texts too
TOOL = 'python tools/dataset_tools/cache_image_tokens.py CONFIG'


@TRANSFORMS.register_module()
class LoadImageTokens(BaseTransform):
    """Give the frozen backbone's tokens of an image in place of the image.

    It stands where the transforms stood that load and crop images, before those of
    captions, which are drawn, cleaned and tokenized as ever. So a run draws the same
    pairs as from pixels. Training checks at its start that the cache belongs to the
    model, the data set and ``transforms``.

    Tokens are mapped into memory, not read: what is used again comes from the system's
    page cache, which all workers share. Those of 8 bits are made bfloat16 here, in the
    data worker, so that the model need not know of scales.

    An image that is not in the cache, because it could not be read when that was
    written, is counted and its sample dropped (``None`` is returned), as is one whose
    tokens do not have their checksum.

    Required keys: ``img_name``, the path that the annotation file gives, or
    ``img_path``.
    Added keys: ``image_tokens`` (T, C), CLS first if the backbone gives it.
    Removed keys: ``img``, of a dataset that has images in memory.

    Args:
        root: Folder of the cache.
        transforms: Those that load and crop an image; run when the
            cache is written, not when it is read.

    Raises:
        FileNotFoundError: If there is no complete cache, or a file of it is missing.
        ValueError: If the cache is of another version, or damaged.
    """

    def __init__(self, root: str, transforms: Sequence[Mapping] = ()) -> None:
        self.root = Path(root).expanduser()
        self.transforms = transforms
        self.counts = sample_counts
        self.meta, index = read_index(self.root)
        self._names, self._rows = index['names'].numpy(), index['rows'].numpy()
        for name, size in self.meta['files']:
            path = self.root / name
            if not path.is_file():
                raise FileNotFoundError(
                    f'{path} of the token cache is missing: `{TOOL}` writes it again '
                    'and keeps the others.'
                )
            if path.stat().st_size != size:
                reason = f'{path.stat().st_size:,} bytes, not {size:,}'
                raise ValueError(_damage(path, reason))
        self._files: dict[int, dict[str, Tensor]] = {}

    def __getstate__(self) -> dict:
        # A spawned worker maps the files itself; pickled, they would be copied.
        return {**self.__dict__, '_files': {}}

    def transform(self, results: dict) -> dict | None:
        """Look the image up.

        Args:
            results: The sample.

        Returns:
            The sample with its tokens, or None.

        Raises:
            RuntimeError: If the file with the tokens cannot be read any more.
        """
        results.pop('img', None)
        name = image_name(results)
        hashed = name_hash(name)
        place = int(np.searchsorted(self._names, hashed))
        if place == len(self._names) or self._names[place] != hashed:
            self.counts.add('uncached_image', f'{name} is not in {self.root}')
            return None
        file, row = divmod(int(self._rows[place]), self.meta['images_per_file'])
        packed = {key: values[row] for key, values in self._map(file).items()}
        known = packed.get('names'), packed.get('checksums')
        if known != (hashed, row_checksum(packed)):
            path = self.root / token_file(file)
            self.counts.add('corrupt_image', f'{name}: {_damage(path, f"row {row}")}')
            return None
        results['image_tokens'] = unpack_tokens(packed)
        return results

    def _map(self, file: int) -> dict[str, Tensor]:
        if file not in self._files:
            path = self.root / token_file(file)
            try:
                self._files[file] = load_file(path)
            except (SafetensorError, OSError) as error:
                raise RuntimeError(_damage(path, str(error))) from error
        return self._files[file]

    def __repr__(self) -> str:
        return f'{type(self).__name__}(root={str(self.root)!r})'


def read_index(root: Path) -> tuple[dict, dict[str, Tensor]]:
    """Read the index of a complete cache.

    Returns:
        What ``write_token_cache`` noted, and ``names``
        and ``rows``.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is damaged or of another version.
    """
    path = root / INDEX
    refuse_old_version(root)
    if not path.is_file():
        raise FileNotFoundError(
            f'There is no complete token cache in {root}: write it, or finish it, '
            f'with `{TOOL}`, CONFIG being the config that trains from it.'
        )
    try:
        with safe_open(path, 'pt') as file:
            expected, _, meta = file.metadata()['cache'].partition(' ')
            index = {name: file.get_tensor(name) for name in ('names', 'rows')}
        if index_checksum(meta, index) != expected:
            raise ValueError('not what its checksum says')
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(_damage(path, str(error))) from error
    meta = json.loads(meta)
    if meta['version'] != VERSION:
        raise ValueError(_other_version(root, f'version {meta["version"]}'))
    return meta, index


def refuse_old_version(root: Path) -> None:
    """Raise ValueError where an earlier version of this package wrote a cache."""
    if (root / OLD_INDEX).exists():
        raise ValueError(_other_version(root, 'an earlier version'))


def image_name(results: Mapping) -> str:
    """What an image is known by, wherever the data set lies if that tells."""
    return str(results.get('img_name') or results['img_path'])


def name_hash(name: str) -> int:
    """64 bits of an image's name, which no two of a data set share in practice."""
    digest = blake2b(name.encode(errors='surrogatepass'), digest_size=8).digest()
    return int.from_bytes(digest, 'little', signed=True)


def token_file(number: int) -> str:
    return f'tokens-{number:05d}.safetensors'


def row_checksum(row: Mapping[str, Tensor]) -> int:
    """CRC-32 of an image's name, tokens and scales."""
    return _crc32(row[key] for key in ('names', 'tokens', 'scales') if key in row)


def index_checksum(meta: str, index: Mapping[str, Tensor]) -> str:
    """CRC-32 of an index and of what is noted in it, as digits."""
    return str(_crc32([index['names'], index['rows']], zlib.crc32(meta.encode())))


def _crc32(tensors: Iterable[Tensor], value: int = 0) -> int:
    for tensor in tensors:
        content = tensor.contiguous().flatten().view(torch.uint8)
        value = zlib.crc32(content.numpy(), value)
    return value


def pack_tokens(tokens: Tensor, dtype: str) -> dict[str, Tensor]:
    """Tokens ``(n, T, C)`` as they are stored.

    Args:
        tokens: Finite values.
        dtype: ``'float32'``, ``'bfloat16'``, or ``'int8'``: of each token, 127
            stands for its largest absolute value.

    Returns:
        ``tokens``, and for ``'int8'`` float32 ``scales`` (n, T).
    """
    if dtype != 'int8':
        return dict(tokens=tokens.to(getattr(torch, dtype)))
    tokens = tokens.float()
    scales = tokens.abs().amax(-1) / 127
    # A token of zeros is stored as such, whatever its scale.
    steps = tokens / scales.clamp(min=torch.finfo(torch.float32).tiny)[..., None]
    return dict(tokens=steps.round().to(torch.int8), scales=scales)


def unpack_tokens(packed: Mapping[str, Tensor]) -> Tensor:
    """Tokens ``(..., T, C)`` of :func:`pack_tokens` as they are trained on."""
    if 'scales' not in packed:
        return packed['tokens']
    return (packed['tokens'] * packed['scales'][..., None]).bfloat16()


def _other_version(root: Path, version: str) -> str:
    return (
        f'The cache {root} was written by {version}, and this one reads version '
        f'{VERSION}: delete the folder and make it again with `{TOOL}`.'
    )


def _damage(path: Path, reason: str) -> str:
    return (
        f'{path} of the token cache is truncated or damaged ({reason}); `{TOOL}` '
        'writes damaged files again and keeps the others.'
    )
