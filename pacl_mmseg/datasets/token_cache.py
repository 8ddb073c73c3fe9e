"""Writing the image tokens that :class:`LoadImageTokens` reads, and checking them."""

from __future__ import annotations

import json
import pickle
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.utils import track_iter_progress
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from pacl_mmseg.datasets.counts import sample_counts
from pacl_mmseg.datasets.transforms.formatting import (
    PackImageText,
    collate_image_text,
)
from pacl_mmseg.datasets.transforms.image_tokens import (
    VERSION,
    checksum,
    image_name,
    pack_tokens,
    read_meta,
    read_tokens,
    seal,
    token_file,
    unpack_tokens,
)
from pacl_mmseg.models import PACLBackbone
from pacl_mmseg.models.data_preprocessor import flips_channels
from pacl_mmseg.models.encoder import hand_to_transforms
from pacl_mmseg.registry import DATASETS, TRANSFORMS, kind_of, walk

# Arguments of a data set that do not say what images it has.
_NOT_CONTENT = ('pipeline', 'data_root', 'cache_dir')


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
    dtype: str = 'bfloat16',
    batch_size: int = 128,
    num_workers: int = 4,
) -> dict[str, Any]:
    """Encode every image of a data set once, for ``LoadImageTokens``.

    Images go through the transforms that it names and the model's own data
    preprocessor, as in training; those that cannot be read are counted and left out.
    The backbone runs in its own precision (its ``dtype``), without autocast, whatever
    the config trains with.

    Files that belong to the same cache and are undamaged are kept. So started again, a
    run goes on where it was, a damaged cache is repaired, and images that were left out
    are tried again. Images that changed under the same name are not noticed: delete
    the folder.

    Args:
        model: The segmentor that is to be trained, on any device.
        dataset: Config of a map-style image-text data set.
        transform: Config of its ``LoadImageTokens``.
        dtype: How tokens are stored: ``'float32'``, ``'bfloat16'``, the precision
            that encoders run in on a GPU, or ``'int8'``, half of that with a larger
            error. It is measured in any case.
        batch_size: Images encoded at once, which bounds the memory.
        num_workers: Processes that load images; 0 loads them in this one.

    Returns:
        ``images`` in the cache, ``skipped`` ones, ``written`` now; ``bytes`` of all
        files; ``relative_error``, the root mean square, over images written now, of
        the stored tokens' error relative to what the backbone gave.

    Raises:
        ValueError: If ``transforms`` draw random numbers, images differ in size, tokens
            are not finite, no image can be used, or the folder has tokens that were
            made with something else.
        OSError: If the disk is full.
    """
    root = Path(transform['root']).expanduser()
    identity = token_identity(model, dataset, transform, dtype)
    with suppress(FileNotFoundError):  # nothing was finished here
        _compare(root, read_meta(root), identity)
    images = _Images(dataset, transform.get('transforms') or ())
    cache = checksum({**identity, 'encoder': None})
    todo, grids = [], set()
    for name in images.indices:
        try:
            grids.add(tuple(read_tokens(root, name, cache)['grid'].tolist()))
        except (OSError, ValueError):
            todo.append(name)
    kept = len(images.indices) - len(todo)
    print(f'{kept:,} images are in {root}, {len(todo):,} to go', flush=True)
    loader = DataLoader(
        images, batch_size, sampler=todo, num_workers=num_workers, collate_fn=_collate
    )
    model.eval()
    errors = []
    for batch in track_iter_progress((loader, len(loader)), file=sys.stderr):
        if batch is None:
            continue
        tokens, grid = _encode(model, batch)
        grids.add(grid)
        if len(grids) > 1:
            raise ValueError(
                'The transforms of LoadImageTokens give images of different sizes, but '
                'a cache holds as many tokens of each: end them with CLIPResizeCrop.'
            )
        for name, own in zip(batch['data_samples']['captions'], tokens, strict=True):
            stored = pack_tokens(own, dtype)
            difference = (unpack_tokens(stored) - own).norm()
            errors.append((difference / own.norm().clamp(min=1e-30)).item())
            content = save(dict(stored, grid=torch.tensor(grid)))
            _write(root / token_file(name), content + seal(content, name, cache))
    count = kept + len(errors)
    if not count:
        raise ValueError(
            f'None of the {len(images.indices):,} images could be used '
            f'({sample_counts.summary()}): check where they are.'
        )
    meta = dict(version=VERSION, identity=identity, cache=cache, grid=grids.pop())
    meta['checksum'] = checksum(meta)
    _write(root / 'meta.json', json.dumps(meta, indent=2).encode())
    return dict(
        images=count,
        skipped=len(images.indices) - count,
        written=len(errors),
        bytes=sum(path.stat().st_size for path in root.glob('*/*.tokens')),
        relative_error=np.sqrt(np.mean(np.square(errors or [0.0]))),
    )


def _encode(model: nn.Module, batch: dict) -> tuple[Tensor, tuple[int, ...]]:
    """Float32 tokens ``(n, T, C)`` of a batch's images, and their grid."""
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
    return tokens.float().cpu(), tuple(maps.shape[-2:])


def _write(path: Path, content: bytes) -> None:
    # What a killed run leaves half written is no file of the cache by its checksum.
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise OSError(
            f'{path} could not be written ({error}); finished files are kept: make '
            'room and run this again, or give LoadImageTokens another root.'
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

    def __getitem__(self, name: str) -> dict | None:
        before = _random_state()
        results = self.dataset.prepare_data(self.indices[name])
        if _random_state() != before:
            raise ValueError(
                'The transforms of LoadImageTokens draw random numbers, but a cache '
                'holds one view of each image: take out augmentations, and give '
                "CLIPResizeCrop crop='center'."
            )
        # Packed and collated as in training, with the name in place of a caption.
        return results and PackImageText()(dict(results, caption=name))


def _collate(samples: Sequence[dict | None]) -> dict | None:
    """The batch of the images that can be used, if there are any."""
    usable = [sample for sample in samples if sample is not None]
    return collate_image_text(usable) if usable else None


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
