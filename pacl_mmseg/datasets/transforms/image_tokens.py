"""Image tokens that the frozen backbone made once, in place of images.

A token cache is a folder that
:func:`pacl_mmseg.datasets.token_cache.write_token_cache` writes:

- ``ab/ab12....safetensors``, called by a hash of an image's name: its patch ``tokens``
  ``(T, C)``, with 8 bits also a scale per token; their ``grid`` and relative ``error``;
  a ``checksum`` of all these, the image's name and what the tokens were made with;
- ``meta.json``: what that is and, added last, how many images there are. Without these
  a folder is no complete cache (yet).
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

VERSION = 4  # of the files; raise it whenever older ones cannot be read any more
TOOL = 'python tools/dataset_tools/cache_image_tokens.py CONFIG'


@TRANSFORMS.register_module()
class LoadImageTokens(BaseTransform):
    """Give the frozen backbone's tokens of an image in place of the image.

    It stands where the transforms stood that load and crop images, before those of
    captions, which are drawn, cleaned and tokenized as ever. So a run draws the same
    pairs as from pixels. Training checks at its start that the cache belongs to the
    model, the data set and ``transforms``.

    An image that is not in the cache, because it could not be read when that was
    written, is counted and its sample dropped (``None`` is returned), as is one whose
    file is damaged.

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
        self.transforms = transforms
        self.counts = sample_counts
        self.cache = checksum(read_meta(self.root)['identity'])

    def transform(self, results: dict) -> dict | None:
        """Put the tokens of the sample's image into it, or drop it."""
        results.pop('img', None)
        name = image_name(results)
        try:
            stored = read_tokens(self.root, name, self.cache)
        except FileNotFoundError:
            self.counts.add('uncached_image', f'{name} is not in {self.root}')
            return None
        except ValueError as error:
            self.counts.add('corrupt_image', f'{name}: {error}')
            return None
        results['image_tokens'] = unpack_tokens(stored)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(root={str(self.root)!r})'


def read_meta(root: Path, complete: bool = True) -> dict:
    """What is noted of a cache: ``write_token_cache`` returns the same, and more.

    Raises:
        FileNotFoundError: It is not complete, and ``complete`` says that it must be.
            If not, a folder without a sound ``meta.json`` gives an empty dict.
        ValueError: Another version of this package wrote it.
    """
    try:
        meta = json.loads((root / 'meta.json').read_bytes())
        sound = meta.pop('checksum') == checksum(meta)
    except (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError):
        sound = False
    # Versions 1 to 3 had their tokens in the folder itself.
    if any(root.glob('*.safetensors')) or (sound and meta['version'] != VERSION):
        raise ValueError(
            f'The token cache {root} was written by another version: delete the folder '
            f'and make it again with `{TOOL}`.'
        )
    if complete and not (sound and 'images' in meta):
        raise FileNotFoundError(
            f'There is no complete token cache in {root}, or its meta.json is damaged: '
            f'write, finish or mend it with `{TOOL}`, CONFIG being the config that '
            'trains from it.'
        )
    return meta if sound else {}


def image_name(results: Mapping) -> str:
    """What an image is known by, wherever the data set lies if that tells."""
    return str(results.get('img_name') or results['img_path'])


def token_file(name: str) -> str:
    """Path in a cache of an image's tokens; no two images share 64 bits in practice."""
    digest = blake2b(name.encode(errors='surrogatepass'), digest_size=8).hexdigest()
    return f'{digest[:2]}/{digest}.safetensors'


def read_tokens(root: Path, name: str, cache: int) -> dict[str, Tensor]:
    """Read and check what is stored of an image.

    Args:
        root: Folder of the cache.
        name: The image's.
        cache: Checksum of the cache's identity.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, or of another image or cache.
    """
    path = root / token_file(name)
    try:
        stored = load(path.read_bytes())
        if stored.pop('checksum').item() != checksum([name, cache], stored):
            raise ValueError('not what its checksum says')
    except FileNotFoundError:
        raise
    except Exception as error:  # what bytes can be taken for has no end
        raise ValueError(
            f'{path} of the token cache is damaged ({error}); `{TOOL}` writes damaged '
            'files again and keeps the others.'
        ) from error
    return stored


def checksum(values: object, tensors: Mapping[str, Tensor] | None = None) -> int:
    """CRC-32 of values that JSON can hold, and of tensors with their names."""
    crc = zlib.crc32(json.dumps(values, sort_keys=True).encode())
    for name, tensor in sorted((tensors or {}).items()):
        kind = f'{name} {tensor.dtype} {list(tensor.shape)}'
        content = tensor.flatten().view(torch.uint8).numpy()
        crc = zlib.crc32(content, zlib.crc32(kind.encode(), crc))
    return crc


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
