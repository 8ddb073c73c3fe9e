"""Writing the image tokens that :class:`LoadImageTokens` reads, and checking them."""

from __future__ import annotations

import json
import pickle
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import fsum, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from mmengine.utils import track_iter_progress
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from pacl_mmseg.datasets.counts import sample_counts
from pacl_mmseg.datasets.transforms.image_tokens import (
    VERSION,
    checksum,
    image_name,
    pack_tokens,
    read_meta,
    read_tokens,
    token_file,
    unpack_tokens,
)
from pacl_mmseg.models import PACLBackbone
from pacl_mmseg.models.data_preprocessor import flips_channels
from pacl_mmseg.models.encoder import hand_to_transforms
from pacl_mmseg.registry import DATASETS, TRANSFORMS, kind_of, walk
from pacl_mmseg.utils import whole_file

DTYPES = ('bfloat16', 'float32', 'int8')
SIZES_DIFFER = (
    'The transforms of LoadImageTokens give images of different sizes, but a cache '
    'holds as many tokens of each: end them with CLIPResizeCrop.'
)
# Arguments of a data set that say where or how fast it is read, not what it holds.
_NOT_CONTENT = (
    *('pipeline', 'data_root', 'cache_dir'),
    *('max_refetch', 'lazy_init', 'serialize_data'),
)


def find_cached(config: Mapping) -> Iterator[tuple[Mapping, Mapping]]:
    """The configs of every data set that trains from image tokens, and of its
    ``LoadImageTokens``."""
    loader = hand_to_transforms(config.get('train_dataloader'), config.get('model'))
    for _, dataset in walk(loader):
        for part in dataset.get('pipeline') or ():
            if isinstance(part, Mapping) and kind_of(part) == 'LoadImageTokens':
                yield dataset, part


def check_token_caches(config: Mapping, model: nn.Module) -> None:
    """Refuse image tokens that this model would not have made of these data.

    Also tells its backbone the grid of the tokens. Mixed precision in training does
    not matter: no tokens are written under autocast.

    Args:
        config: Of the run.
        model: The segmentor that is to be trained, unwrapped.

    Raises:
        ValueError: If something of :func:`token_identity` differs, which is named.
    """
    for dataset, transform in find_cached(config):
        root = Path(transform['root']).expanduser()
        meta = read_meta(root)
        dtype = meta['identity']['dtype']
        _compare(root, meta, token_identity(model, dataset, transform, dtype))
        model.backbone.token_grid = tuple(meta['grid'])


def token_identity(
    model: nn.Module, dataset: Mapping, transform: Mapping, dtype: str
) -> dict[str, Any]:
    """What stored image tokens depend on, in plain values; see
    :func:`write_token_cache` for the arguments.

    Raises:
        ValueError: The backbone is not frozen, or none whose tokens can be kept.
    """
    backbone, images = getattr(model, 'backbone', None), model.data_preprocessor
    if not isinstance(backbone, PACLBackbone) or not backbone.frozen:
        raise ValueError(
            'A token cache is for a model with a frozen PACLBackbone, not for '
            f'{type(model).__name__} with {type(backbone).__name__} and frozen='
            f'{getattr(backbone, "frozen", None)}: train this one from images.'
        )
    if len(backbone.out_indices) != 1:
        raise ValueError(
            'A token cache holds the tokens of one layer, not of '
            f'{len(backbone.out_indices)}: give out_indices a single number.'
        )
    block = backbone.visual.transformer.resblocks[0]
    attention = backbone._dense_attention
    options = ('output', 'out_indices', 'stride', 'fit', 'interpolate_offset')
    identity = {
        'dtype': dtype,
        'encoder': backbone.description,  # for people to read
        'fingerprint': backbone.fingerprint(),
        # Weights alone do not say what an encoder does with them.
        'activation': type(block.mlp.gelu).__name__,
        'heads': block.attn.num_heads,
        'backbone.dtype': next(backbone.parameters()).dtype,
        'backbone.dense_attention': attention
        and dict(type=attention.func.__name__, **attention.keywords),
        'backbone.output_cls_token': backbone.output_cls_token,
        **{f'backbone.{name}': getattr(backbone, name) for name in options},
        'data_preprocessor.mean': images.mean.flatten().tolist(),
        'data_preprocessor.std': images.std.flatten().tolist(),
        'data_preprocessor.bgr_to_rgb': flips_channels(images),
        # MMSeg's own preprocessor gives float32.
        'data_preprocessor.dtype': getattr(images, 'dtype', torch.float32),
        'transforms': [_describe(part) for part in transform.get('transforms') or ()],
        **{f'dataset.{k}': v for k, v in dataset.items() if k not in _NOT_CONTENT},
    }
    return json.loads(json.dumps(identity, default=str))


def write_token_cache(
    model: nn.Module,
    dataset: Mapping,
    transform: Mapping,
    root: str | Path | None = None,
    dtype: str = 'bfloat16',
    batch_size: int = 128,
    num_workers: int = 4,
) -> dict[str, Any]:
    """Encode every image of a data set once, for ``LoadImageTokens``.

    Images go through the transforms that it names and the model's own data
    preprocessor, as in training; those that cannot be read are counted and left out.
    The backbone runs in its own precision (its ``dtype``), without autocast, whatever
    the config trains with.

    A file is there whole or not at all, and is kept if it belongs to the same cache and
    is undamaged. So started again, a run goes on where it was, a damaged cache is
    repaired, and images that were left out are tried again. Images that changed under
    the same name are not noticed: delete the folder.

    Args:
        model: The segmentor that is to be trained, on any device.
        dataset: Config of a map-style image-text data set.
        transform: Config of its ``LoadImageTokens``.
        root: Folder, if not that of ``transform``.
        dtype: How tokens are stored: ``'float32'``, ``'bfloat16'``, the precision
            that encoders run in on a GPU, or ``'int8'``, half of that with a larger
            error. It is measured in any case.
        batch_size: Images encoded at once, which bounds the memory.
        num_workers: Processes that load images; 0 loads them in this one.

    Returns:
        ``images`` in the cache, ``skipped`` ones, ``written`` now;
        ``bytes`` of all files; ``relative_error``, the root mean square, over images,
        of the stored tokens' error relative to what the backbone gave.

    Raises:
        ValueError: If an option is bad, ``transforms`` draw random numbers, images
            differ in size, tokens are not finite, no image can be used, or the folder
            has tokens that were made with something else.
        OSError: If the disk is full.
        RuntimeError: If another process writes the same cache.
    """
    if dtype not in DTYPES:
        raise ValueError(f'dtype must be one of {DTYPES}, not {dtype!r}')
    if batch_size < 1 or num_workers < 0:
        raise ValueError('batch_size must be positive and num_workers not negative')
    identity = token_identity(model, dataset, transform, dtype)
    images = _Images(dataset, transform.get('transforms') or ())
    root = Path(root or transform['root']).expanduser()
    root.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(root / '.lock', timeout=0):
            return _write(model.eval(), images, root, identity, batch_size, num_workers)
    except Timeout as error:
        raise RuntimeError(
            f'Another process is writing {root}: wait for it.'
        ) from error


def _write(
    model: nn.Module,
    images: _Images,
    root: Path,
    identity: dict,
    batch_size: int,
    num_workers: int,
) -> dict[str, Any]:
    meta = read_meta(root, complete=False)
    if meta:
        _compare(root, meta, identity)
        identity = meta['identity']  # which may name the encoder's file otherwise
    for path in root.glob('*/.*.safetensors'):  # of a run that was killed
        path.unlink()
    cache, dtype = checksum(identity), identity['dtype']
    todo, errors, grids = [], [], set()
    for name in images.indices:
        try:
            stored = read_tokens(root, name, cache)
        except (FileNotFoundError, ValueError):
            todo.append(name)
        else:
            errors.append(stored['error'].item())
            grids.add(tuple(stored['grid'].tolist()))
    kept = len(errors)
    print(f'{kept:,} images are in {root}, {len(todo):,} to go', flush=True)
    starts = range(0, len(todo), batch_size)
    loader = DataLoader(
        images,
        batch_sampler=[todo[start : start + batch_size] for start in starts],
        num_workers=num_workers,
        collate_fn=_collate,
    )
    batches = track_iter_progress((loader, len(loader)), file=sys.stderr)
    # A disk finishes many files in the time of one.
    with ThreadPoolExecutor() as pool:
        for names, pixels in batches:
            if not names:
                continue
            tokens, grid = _encode(model, pixels, batch_size)
            grids.add(grid)
            if len(grids) > 1:
                raise ValueError(SIZES_DIFFER)
            if not meta:
                meta = _write_meta(root, identity)
            errors.extend(
                pool.map(
                    partial(_write_tokens, root, cache, dtype, grid), names, tokens
                )
            )
    if not errors:
        raise ValueError(
            f'None of the {len(images.indices):,} images could be used '
            f'({sample_counts.summary()}): check where they are.'
        )
    meta = _write_meta(
        root,
        identity,
        grid=grids.pop(),
        images=len(errors),
        skipped=len(images.indices) - len(errors),
        # Of the same images the same, whatever their order.
        relative_error=sqrt(fsum(error**2 for error in errors) / len(errors)),
    )
    size = sum(path.stat().st_size for path in root.glob('*/*.safetensors'))
    return dict(meta, written=len(errors) - kept, bytes=size)


def _encode(
    model: nn.Module, images: Tensor, batch_size: int
) -> tuple[Tensor, tuple[int, ...]]:
    """Images, uint8 ``(n, 3, H, W)``, BGR, to float32 tokens ``(n, T, C)`` and grid."""
    # Always as many at once: sizes choose kernels, and kernels the last bits.
    inputs = images[torch.arange(batch_size) % len(images)]
    batch = dict(inputs=inputs, data_samples={})
    device = next(model.parameters()).device.type
    with torch.inference_mode(), torch.autocast(device, enabled=False):
        (output,) = model.backbone(model.data_preprocessor(batch, True)['inputs'])
    maps, cls = output if isinstance(output, (list, tuple)) else (output, None)
    tokens = maps.flatten(2).transpose(1, 2)
    if cls is not None:
        tokens = torch.cat([cls[:, None], tokens], dim=1)
    if not tokens.isfinite().all():
        raise ValueError(
            'The backbone gives tokens that are not finite: check its weights and its '
            'precision.'
        )
    return tokens[: len(images)].float().cpu(), tuple(maps.shape[-2:])


def _write_tokens(
    root: Path, cache: int, dtype: str, grid: tuple, name: str, tokens: Tensor
) -> float:
    """Write an image's tokens ``(T, C)``, and return their relative error."""
    stored = pack_tokens(tokens, dtype)
    error, size = (
        values.double().square().sum()
        for values in (unpack_tokens(stored) - tokens, tokens)
    )
    stored['error'] = (error / size.clamp(min=1e-30)).sqrt()
    stored['grid'] = torch.tensor(grid)
    stored['checksum'] = torch.tensor(checksum([name, cache], stored))
    _write_file(root / token_file(name), save(stored))
    return stored['error'].item()


def _write_meta(root: Path, identity: Mapping, **counts: Any) -> dict[str, Any]:
    """Note what tokens are made with and, at the end, how many there are."""
    meta = dict(version=VERSION, identity=identity, **counts)
    meta['checksum'] = checksum(meta)
    _write_file(root / 'meta.json', json.dumps(meta, indent=2).encode())
    return meta


def _write_file(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(exist_ok=True)
        with whole_file(path) as part:
            part.write_bytes(content)
    except OSError as error:
        raise OSError(
            f'{path} could not be written ({error}); finished files are kept: make '
            'room and run this again, or give another folder with --out.'
        ) from error


class _Images(Dataset):
    """The distinct images of a data set, as they are encoded, and their names.

    Items go by these; one is None where the image cannot be used.
    """

    def __init__(self, dataset: Mapping, transforms: Sequence[Mapping]) -> None:
        self.dataset = DATASETS.build(dict(dataset, pipeline=transforms))
        if not hasattr(self.dataset, 'get_data_info'):
            raise ValueError(
                f'{type(self.dataset).__name__} has no random access: a token cache '
                'is made of a data set such as CocoCaptionsDataset.'
            )
        self.dataset.full_init()
        self.indices: dict[str, int] = {}
        for index in range(len(self.dataset)):
            name = image_name(self.dataset.get_data_info(index))
            self.indices.setdefault(name, index)

    def __getitem__(self, name: str) -> tuple[str, Tensor] | None:
        before = _random_state()
        results = self.dataset.prepare_data(self.indices[name])
        if _random_state() != before:
            raise ValueError(
                'The transforms of LoadImageTokens draw random numbers, but a cache '
                'holds one view of each image: take out augmentations, and give '
                "CLIPResizeCrop crop='center'."
            )
        if results is None:
            return None
        if 'img' not in results:
            raise ValueError(
                'The transforms of LoadImageTokens load no image: begin them with '
                'LoadPILImage.'
            )
        image = np.ascontiguousarray(results['img'].transpose(2, 0, 1))
        return name, torch.from_numpy(image)


def _collate(items: Sequence[tuple[str, Tensor] | None]) -> tuple[list[str], Tensor]:
    """Names of the images that can be used, and these; both may be empty."""
    usable = [item for item in items if item is not None]
    if len({image.shape for _, image in usable}) > 1:
        raise ValueError(SIZES_DIFFER)
    images = torch.stack([image for _, image in usable]) if usable else torch.empty(0)
    return [name for name, _ in usable], images


def _compare(root: Path, meta: Mapping, wanted: Mapping) -> None:
    """Raise ValueError where a cache was made with something else, which is named."""
    made = meta['identity']
    differing = [k for k in {**wanted, **made} if made.get(k) != wanted.get(k)]
    if {*differing} - {'encoder'}:
        was, has = (
            ', '.join(f'{key}={identity.get(key)}' for key in differing)
            for identity in (made, wanted)
        )
        raise ValueError(
            f'The token cache {root} was made with {was}, but this config has {has}: '
            'go back to what it was made with, delete the folder, or use another one.'
        )


def _describe(transform: Mapping) -> Any:
    """A transform's arguments, with its defaults and what it takes from a model."""
    built = TRANSFORMS.build(dict(transform))
    own = type(built).__repr__ is not object.__repr__
    return repr(built) if own else transform


def _random_state() -> bytes:
    states = random.getstate(), np.random.get_state(), torch.get_rng_state().numpy()
    return pickle.dumps(states)
