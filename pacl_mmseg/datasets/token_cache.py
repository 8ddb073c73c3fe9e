"""Writing the image tokens that :class:`LoadImageTokens` reads, and checking them."""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from pacl_mmseg.datasets.counts import sample_counts
from pacl_mmseg.datasets.draws import seeded
from pacl_mmseg.datasets.transforms.image_tokens import (
    INDEX,
    VERSION,
    image_name,
    index_checksum,
    name_hash,
    pack_tokens,
    read_index,
    refuse_old_version,
    row_checksum,
    token_file,
    unpack_tokens,
)
from pacl_mmseg.models import PACLBackbone
from pacl_mmseg.models.data_preprocessor import flips_channels
from pacl_mmseg.models.encoder import hand_to_transforms
from pacl_mmseg.registry import DATASETS, TRANSFORMS, kind_of, walk
from pacl_mmseg.utils.files import whole_file

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
    """Every data set in a config that trains from image tokens.

    Yields:
        Its config and that of its ``LoadImageTokens``.
    """
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
        ValueError: If its frozen backbone, the backbone's precision or output, the
            preprocessing or the data set differ from what the tokens were made with,
            both of which the message names.
    """
    for dataset, transform in find_cached(config):
        root = Path(transform['root']).expanduser()
        meta, _ = read_index(root)
        _compare(root, meta['identity'], token_identity(model, dataset, transform))
        model.backbone.token_grid = tuple(meta['grid'])


def token_identity(
    model: nn.Module, dataset: Mapping, transform: Mapping
) -> dict[str, dict]:
    """What image tokens depend on, in plain values.

    Args:
        model: With ``data_preprocessor`` and ``backbone``.
        dataset: Config of the data set.
        transform: Config of its ``LoadImageTokens``.

    Returns:
        ``backbone``, whose ``encoder`` is for people to read,
        ``normalization``, ``preprocessing`` (before the model) and ``data``.

    Raises:
        ValueError: The backbone is not frozen, or none whose tokens can be kept.
    """
    backbone, images = getattr(model, 'backbone', None), model.data_preprocessor
    if not isinstance(backbone, PACLBackbone):
        raise ValueError(
            'A token cache is for a model with a PACLBackbone, not for '
            f'{type(model).__name__} with {type(backbone).__name__}: train this one '
            'from images.'
        )
    if not backbone.frozen:
        raise ValueError(
            'A token cache is for a frozen backbone, and this config trains it: train '
            'it from images, or set frozen=True.'
        )
    if len(backbone.out_indices) != 1:
        raise ValueError(
            f'A token cache holds the tokens of one layer, not of '
            f'{len(backbone.out_indices)}: give out_indices a single number.'
        )
    block = backbone.visual.transformer.resblocks[0]
    attention = backbone._dense_attention
    identity = dict(
        backbone=dict(
            encoder=backbone.description,
            fingerprint=backbone.fingerprint(),
            dtype=_name(next(backbone.parameters()).dtype),
            # Weights alone do not say what an encoder does with them.
            activation=type(block.mlp.gelu).__name__,
            heads=block.attn.num_heads,
            output=backbone.output,
            layer=backbone.out_indices[0],
            stride=backbone.stride,
            fit=backbone.fit,
            interpolate_offset=backbone.interpolate_offset,
            dense_attention=attention
            and dict(type=attention.func.__name__, **attention.keywords),
            cls_token=backbone.output_cls_token,
        ),
        normalization=dict(
            mean=images.mean.flatten().tolist(),
            std=images.std.flatten().tolist(),
            bgr_to_rgb=flips_channels(images),
            # MMSeg's own preprocessor gives float32.
            dtype=_name(getattr(images, 'dtype', torch.float32)),
        ),
        preprocessing=dict(
            transforms=[_describe(part) for part in transform.get('transforms') or ()]
        ),
        data={k: v for k, v in dataset.items() if k not in _NOT_CONTENT},
    )
    return json.loads(json.dumps(identity, default=str))


def write_token_cache(
    model: nn.Module,
    dataset: Mapping,
    transform: Mapping,
    root: str | Path | None = None,
    dtype: str = 'bfloat16',
    batch_size: int = 128,
    num_workers: int = 4,
    images_per_file: int = 1024,
) -> dict[str, Any]:
    """Encode every image of a data set once, for ``LoadImageTokens``.

    Images go through the transforms that it names and the model's own data
    preprocessor, as in training; those that cannot be read are counted and left out.
    The backbone runs in its own precision (its ``dtype``), without autocast, whatever
    the config trains with. Memory is bounded by ``images_per_file``.

    Files are written under a temporary name and renamed once complete, and those that
    are there already are kept if they belong to the same cache and are undamaged. So
    started again, a run goes on where it was, and a damaged cache is repaired. Images
    that changed under the same name are not noticed: delete the folder.

    Args:
        model: The segmentor that is to be trained, on any device.
        dataset: Config of a map-style image-text data set.
        transform: Config of its ``LoadImageTokens``.
        root: Folder, if not that of ``transform``.
        dtype: How tokens are stored: ``'float32'``, ``'bfloat16'``, the precision
            that encoders run in on a GPU, or ``'int8'``, half of that with a larger
            error. It is measured in any case.
        batch_size: Images encoded at once.
        num_workers: Processes that load images; 0 loads them in this one.
        images_per_file: And so the most that a stopped run loses.

    Returns:
        ``images`` in the cache, ``skipped`` ones, ``written`` now;
        ``bytes`` of all files; ``relative_error``, the root mean square error of the
        stored tokens, relative to the root mean square of what the backbone gave.

    Raises:
        ValueError: If an option is bad, ``transforms`` draw random numbers, images
            differ in size, tokens are not finite, no image can be used, or the folder
            has tokens that were made with something else.
        OSError: If the disk is full.
        RuntimeError: If another process writes the same cache.
    """
    if dtype not in DTYPES:
        raise ValueError(f'dtype must be one of {DTYPES}, not {dtype!r}')
    if batch_size < 1 or images_per_file < 1 or num_workers < 0:
        raise ValueError('batch_size and images_per_file must be positive')
    identity = token_identity(model, dataset, transform)
    identity['files'] = dict(dtype=dtype, images_per_file=images_per_file)
    root = Path(root or transform['root']).expanduser()
    refuse_old_version(root)
    images = _Images(dataset, transform.get('transforms') or ())
    root.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(root / '.lock', timeout=0):
            writer = _Writer(model.eval(), images, root, identity)
            return writer.run(batch_size, num_workers)
    except Timeout as error:
        raise RuntimeError(
            f'Another process is writing {root}: wait for it.'
        ) from error


class _Writer:
    """One run of :func:`write_token_cache`."""

    def __init__(
        self, model: nn.Module, images: _Images, root: Path, identity: dict
    ) -> None:
        self.model = model
        self.images = images
        self.root = root
        self.identity = identity
        self.dtype = identity['files']['dtype']
        self.step = identity['files']['images_per_file']
        count = -(-len(images) // self.step)
        self.paths = [root / token_file(number) for number in range(count)]
        self.grid: tuple[int, ...] | None = None

    def run(self, batch_size: int, num_workers: int) -> dict[str, Any]:
        for path in self.root.glob('tokens-*.safetensors'):
            if notes := _read_notes(path):
                _compare(self.root, notes['identity'], self.identity)
        (self.root / INDEX).unlink(missing_ok=True)  # nothing is complete now
        for path in self.root.glob('.*.safetensors'):  # of a run that was killed
            path.unlink()
        todo = [n for n in range(len(self.paths)) if not self._is_sound(n)]
        if todo:
            self.images.check_not_random()
        numbers = np.arange(len(self.images))
        parts = [numbers[n * self.step : (n + 1) * self.step] for n in todo]
        batches = [np.split(p, range(batch_size, len(p), batch_size)) for p in parts]
        loader = DataLoader(
            self.images,
            batch_sampler=list(chain(*batches)),
            num_workers=num_workers,
            collate_fn=_collate,
            pin_memory=torch.cuda.is_available(),
        )
        loaded = iter(loader)
        left, written = sum(map(len, parts)), 0
        device = next(self.model.parameters()).device.type
        with torch.autocast(device, enabled=False), torch.inference_mode():
            for file, part in zip(todo, batches, strict=True):
                print(f'{self.paths[file]}; {left:,} images to go', flush=True)
                written += self._write(file, islice(loaded, len(part)))
                left -= sum(map(len, part))
        return dict(self._write_index(), written=written)

    def _write(self, file: int, batches: Iterable[tuple[Tensor, Tensor]]) -> int:
        """Encode the images of a file and write it; returns how many are in it."""
        parts = []
        squares = np.zeros(2)  # of errors and of tokens
        for images, names in batches:
            if not len(names):
                continue
            tokens = self._encode(images)
            packed = pack_tokens(tokens, self.dtype)
            error = unpack_tokens(packed).double() - tokens
            squares += [x.double().square().sum().item() for x in (error, tokens)]
            parts.append(dict({k: v.cpu() for k, v in packed.items()}, names=names))
        keys = parts[0] if parts else ()
        tensors = {key: torch.cat([part[key] for part in parts]) for key in keys}
        rows = [row_checksum(row) for row in _rows(tensors)]
        tensors['checksums'] = torch.tensor(rows, dtype=torch.int64)
        notes = dict(
            identity=self.identity,
            names=self._names_digest(file),
            rows=len(rows),
            grid=self.grid,
            squares=squares.tolist(),
        )
        self._save(self.paths[file], tensors, dict(notes=json.dumps(notes)))
        return len(rows)

    def _encode(self, images: Tensor) -> Tensor:
        """Images, uint8 ``(n, 3, H, W)``, BGR, to float32 tokens ``(n, T, C)``."""
        batch = dict(inputs=images, data_samples={})
        inputs = self.model.data_preprocessor(batch, training=True)['inputs']
        (output,) = self.model.backbone(inputs)
        maps, cls = output if isinstance(output, (list, tuple)) else (output, None)
        grid = tuple(maps.shape[-2:])
        if self.grid not in (None, grid):
            raise ValueError(SIZES_DIFFER)
        self.grid = grid
        tokens = maps.flatten(2).transpose(1, 2)
        if cls is not None:
            tokens = torch.cat([cls[:, None], tokens], dim=1)
        if not tokens.isfinite().all():
            raise ValueError(
                'The backbone gives tokens that are not finite: check its weights and '
                'its precision.'
            )
        return tokens.float()

    def _is_sound(self, file: int) -> bool:
        """Whether a file has the tokens of its images, as they were written."""
        notes = _read_notes(self.paths[file])
        if notes is None or notes['names'] != self._names_digest(file):
            return False
        tensors = load_file(self.paths[file])
        expected = tensors.get('checksums', torch.zeros(1)).tolist()
        sound = expected == [*map(row_checksum, _rows(tensors))]
        if sound and notes['rows']:
            self.grid = tuple(notes['grid'])
        return sound

    def _write_index(self) -> dict[str, Any]:
        """Write what holds all files together, and return what there is to tell."""
        notes = [_read_notes(path) for path in self.paths]
        count = sum(note['rows'] for note in notes)
        names, rows = [], []
        for file, path in enumerate(self.paths):
            if notes[file]['rows']:
                names.append(load_file(path)['names'])
                rows.append(torch.arange(notes[file]['rows']) + file * self.step)
        hashes, order = torch.cat(names).sort()
        index = dict(names=hashes, rows=torch.cat(rows)[order])
        error, size = np.array([note['squares'] for note in notes]).sum(0)
        meta = dict(
            version=VERSION,
            identity=self.identity,
            images_per_file=self.step,
            grid=self.grid,
            images=count,
            skipped=len(self.images) - count,
            relative_error=float(np.sqrt(error / max(size, 1e-30))),
            files=[(path.name, path.stat().st_size) for path in self.paths],
        )
        text = json.dumps(meta)
        cache = f'{index_checksum(text, index)} {text}'
        self._save(self.root / INDEX, index, dict(cache=cache))
        return dict(meta, bytes=sum(size for _, size in meta['files']))

    def _names_digest(self, file: int) -> str:
        names = self.images.names[file * self.step : (file + 1) * self.step]
        return blake2b(names.tobytes(), digest_size=16).hexdigest()

    def _save(self, path: Path, tensors: dict[str, Tensor], metadata: dict) -> None:
        """Write a file whole or not at all."""
        try:
            with whole_file(path) as part:
                # Not save_file, which lets nobody else read what it writes.
                part.write_bytes(save(tensors, metadata))
        except OSError as error:
            raise OSError(
                f'{path} could not be written ({error}); finished files are kept: '
                'make room and run this again, or give another folder with --out.'
            ) from error


class _Images(Dataset):
    """The distinct images of a data set, as they are encoded.

    An item is the image (uint8, 3 x H x W, BGR) and the hash of its name, or None
    where it cannot be used.
    """

    def __init__(self, dataset: Mapping, transforms: Sequence[Mapping]) -> None:
        self.dataset = DATASETS.build(dict(dataset, pipeline=transforms))
        if not hasattr(self.dataset, 'get_data_info'):
            raise ValueError(
                f'{type(self.dataset).__name__} has no random access: a token cache '
                'is made of a data set such as CocoCaptionsDataset.'
            )
        self.dataset.full_init()
        count = len(self.dataset)
        names = (image_name(self.dataset.get_data_info(i)) for i in range(count))
        hashes = np.fromiter(map(name_hash, names), np.int64, count)
        self.indices = np.sort(np.unique(hashes, return_index=True)[1])
        self.names = hashes[self.indices]
        self.counts = sample_counts  # shared with the workers

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, number: int) -> tuple[Tensor, int] | None:
        results = self.dataset.prepare_data(int(self.indices[number]))
        if results is None:
            return None
        if 'img' not in results:
            raise ValueError(
                'The transforms of LoadImageTokens load no image: begin them with '
                'LoadPILImage.'
            )
        image = np.ascontiguousarray(results['img'].transpose(2, 0, 1))
        return torch.from_numpy(image), int(self.names[number])

    def check_not_random(self) -> None:
        """Raise ValueError if no image can be used, or its transforms draw numbers."""
        number = next((n for n in range(len(self)) if self[n] is not None), None)
        if number is None:
            raise ValueError(
                f'None of the {len(self):,} images could be used '
                f'({self.counts.summary()}): check where they are.'
            )
        with seeded(0):
            before = _random_state()
            self[number]
            drawn = _random_state() != before
        self.counts.reset()
        if drawn:
            raise ValueError(
                'The transforms of LoadImageTokens draw random numbers, but a cache '
                'holds one view of each image: take out augmentations, and give '
                "CLIPResizeCrop crop='center'."
            )


def _collate(items: Sequence[tuple[Tensor, int] | None]) -> tuple[Tensor, Tensor]:
    """Images that can be used and the hashes of their names; both may be empty."""
    usable = [item for item in items if item is not None]
    if len({image.shape for image, _ in usable}) > 1:
        raise ValueError(SIZES_DIFFER)
    images = torch.stack([image for image, _ in usable]) if usable else torch.empty(0)
    return images, torch.tensor([name for _, name in usable], dtype=torch.int64)


def _compare(root: Path, stored: Mapping, wanted: Mapping) -> None:
    """Raise ValueError where two identities differ, in the parts that both have."""
    for part in [part for part in wanted if part in stored]:
        old, new = stored[part], wanted[part]
        for key in sorted({*old, *new} - {'encoder'}):
            if old.get(key) != new.get(key):
                raise ValueError(
                    f'The token cache {root} was made with {_phrase(part, key, old)}, '
                    f'but this config has {_phrase(part, key, new)}: go back to what '
                    'it was made with, delete the folder, or use another one.'
                )


def _phrase(part: str, key: str, values: Mapping) -> str:
    if key == 'fingerprint':
        return (
            f'the backbone {values["encoder"]} (fingerprint '
            f'{values["fingerprint"][:12]})'
        )
    return f'{part} {key}={json.dumps(values.get(key))}'


def _describe(transform: Mapping) -> Any:
    """A transform's arguments, with its defaults and what it takes from a model."""
    built = TRANSFORMS.build(dict(transform))
    own = type(built).__repr__ is not object.__repr__
    return repr(built) if own else transform


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix('torch.')


def _rows(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    for row in range(len(tensors.get('names', ()))):
        yield {key: values[row] for key, values in tensors.items()}


def _read_notes(path: Path) -> dict | None:
    """What was noted in a file of tokens; None if there is no readable one."""
    try:
        with safe_open(path, 'pt') as file:
            return json.loads(file.metadata()['notes'])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None


def _random_state() -> bytes:
    states = random.getstate(), np.random.get_state(), torch.get_rng_state().tolist()
    return pickle.dumps(states)
