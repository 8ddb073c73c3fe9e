"""Image tokens that the frozen backbone made once, in place of images.

A token cache is a folder that
:func:`pacl_mmseg.datasets.token_cache.write_token_cache` writes:

- ``ab/ab12....tokens``, called by a hash of an image's name: a safetensors file of its
  patch ``tokens`` ``(T, C)``, with 8 bits also a scale per token, and their ``grid``;
  behind it 4 bytes, the CRC-32 of this, the image's name and what made the tokens;
- ``meta.json``, written last: what that is.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

import torch
from mmcv.transforms import BaseTransform
from safetensors.torch import load
from torch import Tensor

from pacl_mmseg.datasets.counts import sample_counts
from pacl_mmseg.registry import TRANSFORMS

VERSION = 5  # of the files; raise it whenever older ones cannot be read any more
TOOL = 'python tools/dataset_tools/cache_image_tokens.py CONFIG'


@TRANSFORMS.register_module()
class LoadImageTokens(BaseTransform):
    """Give the frozen backbone's tokens of an image in place of the image.

    It stands where the transforms stood that load and crop images, before those of
    captions, which are drawn, cleaned and tokenized as ever. So a run draws the same
    pairs as from pixels. Training checks at its start that the cache belongs to the
    model, the data set and ``transforms``.

    An image that could not be read when the cache was written, or whose file there is
    damaged, is counted and its sample dropped (``None`` is returned).

    Required keys: ``img_name``, the path that the annotation file gives, or
    ``img_path``.
    Added keys: ``image_tokens`` (T, C), CLS first if the backbone gives it; of 8 bits
    they are made bfloat16 here, so that the model need not know of scales.
    Removed keys: ``img``, of a dataset that has images in memory.

    Args:
        root: Folder of the cache.
        transforms: Those that load and crop an image; run when the
            cache is written, not when it is read.

    Raises:
        FileNotFoundError: If there is no complete cache.
        ValueError: If another version wrote it.
    """

    def __init__(self, root: str, transforms: Sequence[Mapping] = ()) -> None:
        self.root = Path(root).expanduser()
        self.counts = sample_counts
        self.cache = read_meta(self.root)['cache']

    def transform(self, results: dict) -> dict | None:
        """Put the tokens of the sample's image into it, or drop it."""
        results.pop('img', None)
        name = image_name(results)
        try:
            stored = read_tokens(self.root, name, self.cache)
        except (OSError, ValueError) as error:
            self.counts.add('uncached_image', f'{name} ({error})')
            return None
        results['image_tokens'] = unpack_tokens(stored)
        return results


def read_meta(root: Path) -> dict:
    """What a cache was made with (``identity``), its number ``cache``, its ``grid``.

    Raises:
        FileNotFoundError: There is no cache, it was never finished, or this is damaged.
        ValueError: Another version of this package wrote it.
    """
    try:
        meta = json.loads((root / 'meta.json').read_bytes())
        version, sound = meta['version'], meta.pop('checksum', None) == checksum(meta)
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        # Version 3 had files of many images, and no meta.json.
        version = 3 if any(root.glob('*.safetensors')) else VERSION
        sound = False
    if version != VERSION:
        raise ValueError(
            f'The token cache {root} was written by another version: delete the folder '
            f'and make it again with `{TOOL}`.'
        )
    if not sound:
        raise FileNotFoundError(
            f'There is no complete token cache in {root}, or its meta.json is damaged: '
            f'write, finish or mend it with `{TOOL}`, CONFIG being the config that '
            'trains from it.'
        )
    return meta


def image_name(results: Mapping) -> str:
    """What an image is known by, wherever the data set lies if that tells."""
    return str(results.get('img_name') or results['img_path'])


def token_file(name: str) -> str:
    """Path in a cache of an image's tokens; no two images share 64 bits in practice."""
    digest = blake2b(name.encode(errors='surrogatepass'), digest_size=8).hexdigest()
    return f'{digest[:2]}/{digest}.tokens'


def read_tokens(root: Path, name: str, cache: int) -> dict[str, Tensor]:
    """Read and check what is stored of an image.

    Args:
        root: Folder of the cache.
        name: The image's.
        cache: Number of the cache.

    Raises:
        OSError: There is no such file, or it cannot be read.
        ValueError: It is damaged, or of another image or cache.
    """
    path = root / token_file(name)
    content = path.read_bytes()
    if content[-4:] != seal(content[:-4], name, cache):
        raise ValueError(
            f'{path} of the token cache is damaged; `{TOOL}` writes damaged files '
            'again and keeps the others.'
        )
    return load(content[:-4])


def seal(content: bytes, name: str, cache: int) -> bytes:
    """The 4 bytes behind what is stored of an image."""
    crc = zlib.crc32(name.encode(errors='surrogatepass'), cache)
    return zlib.crc32(content, crc).to_bytes(4, 'big')


def checksum(values: object) -> int:
    """CRC-32 of values that JSON can hold."""
    return zlib.crc32(json.dumps(values, sort_keys=True).encode())


def pack_tokens(tokens: Tensor, dtype: str) -> dict[str, Tensor]:
    """Tokens ``(..., T, C)`` as they are stored.

    Args:
        tokens: Finite values.
        dtype: ``'float32'``, ``'bfloat16'``, or ``'int8'``: of each token, 127
            stands for its largest absolute value.

    Returns:
        ``tokens``, and for ``'int8'`` float32 ``scales`` (..., T).
    """
    if dtype != 'int8':
        return dict(tokens=tokens.to(getattr(torch, dtype)))
    tokens = tokens.float()
    scales = tokens.abs().amax(-1) / 127
    # A token of zeros is stored as such, whatever its scale.
    steps = tokens / scales.clamp(min=torch.finfo(torch.float32).tiny)[..., None]
    return dict(tokens=steps.round().to(torch.int8), scales=scales)


def unpack_tokens(stored: Mapping[str, Tensor]) -> Tensor:
    """Tokens ``(..., T, C)`` of :func:`pack_tokens` as they are trained on."""
    if 'scales' not in stored:
        return stored['tokens']
    return (stored['tokens'] * stored['scales'][..., None]).bfloat16()
