"""Training from features that the frozen encoders wrote once.

A feature cache is a folder of safetensors files, which
:func:`pacl_mmseg.datasets.feature_caching.cache_features` writes:

- ``tokens-00000.safetensors``, ...: patch tokens ``(n, T, C)`` of consecutive images
  of the source (with 8 bits also a scale per token, ``(n, T)``), and, for resuming,
  what belongs to them;
- ``texts-00000.safetensors``, ...: float32 embeddings ``(m, D)`` of all different
  texts, each stored once;
- ``samples.safetensors``: which texts belong to which image, and the texts themselves;
- ``meta.json``: what the features were made with, and the size of every file. It is
  written last, so a folder without it is not a cache (yet).
"""

from __future__ import annotations

import hashlib
import inspect
import json
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from pacl_mmseg.datasets.transforms import NounPrompt, PickCaption
from pacl_mmseg.models import PACLBackbone
from pacl_mmseg.models.data_preprocessor import flips_channels
from pacl_mmseg.models.open_clip_model import preprocess_config
from pacl_mmseg.prompts import get_templates
from pacl_mmseg.registry import DATASETS, TRANSFORMS

VERSION = 2  # of the files; raise it whenever older ones cannot be read any more
TEXTS_PER_FILE = 65536
META, SAMPLES = 'meta.json', 'samples.safetensors'
TOOL = 'python tools/dataset_tools/cache_features.py CONFIG'
# Transforms that do not touch the image: what they do is done anew at every draw.
_TEXT_TRANSFORMS = ('PickCaption', 'NounPrompt', 'TokenizeCaption')
_PACKING = ('PackImageText', 'PackSegInputs')
# Arguments of a dataset that say where or how fast it is read, not what it holds.
_NOT_CONTENT = (
    *('pipeline', 'data_root', 'cache_dir'),
    *('max_refetch', 'lazy_init', 'serialize_data'),
)


@DATASETS.register_module()
class CachedFeatures(Dataset):
    """Image-text pairs whose images and texts are encoded already.

    Wrap it in ``ShuffledDraws`` and collate with ``collate_image_text``. A sample has
    ``inputs``, the patch tokens of an image ``(T, C)``, CLS first if the backbone gives
    it, and ``data_samples``: ``text_embeddings`` ``(D,)``, ``caption``, ``img_path``
    and ``grid`` ``(h, w)``. The text is drawn with NumPy's global generator exactly as
    ``PickCaption`` and ``NounPrompt`` of the source's pipeline would draw it, so a run
    from the cache sees the pairs of a run from pixels (as long as every image of the
    source could be used).

    Tokens are mapped into memory, not read: what is used again comes from the system's
    page cache, which all workers share. Those of 8 bits are made bfloat16 here, in the
    data worker: the files, and the memory they take, stay half as large, and the model
    need not know of scales.

    Batches go from the workers to training through shared memory: ``/dev/shm`` must
    hold ``num_workers * prefetch_factor`` of them and the one in use, each of
    ``batch_size * T * C`` values (ViT-B/16 in 16 bits: 301 kB an image, 308 MB for
    1024).

    Args:
        root (str): Folder of the cache.
        source (dict): Config of the dataset that it is made from, with its pipeline.
            Nothing of it is read to train. ``prob`` of its ``NounPrompt`` may be
            changed, and ``NounPrompt`` left out, without making the cache again.

    Raises:
        FileNotFoundError: If there is no complete cache, or a file of it is missing.
        ValueError: If the cache is of another version, does not belong to ``source``,
            or a file of it has not the size it was written with.
    """

    def __init__(self, root: str, source: dict) -> None:
        self.root = Path(root).expanduser()
        self.source = source
        self.meta = read_meta(self.root)
        for file in self.meta['files']:
            _check_size(self.root / file['name'], file['bytes'])
        own = source_identity(source)
        self._noun_prob = own['texts']['noun_prob']
        if difference := find_difference(self.meta['identity'], own):
            raise ValueError(self._refusal(difference))
        arrays = self._load(SAMPLES)
        self._arrays = {name: array.numpy() for name, array in arrays.items()}
        files = self.meta['files']
        shards = [file for file in files if file['name'].startswith('tokens-')]
        self._shards = [file['name'] for file in shards]
        self._ends = np.cumsum([file['samples'] for file in shards])
        self._grid = tuple(self.meta['grid'])
        self._files: dict[str, dict[str, Tensor]] = {}

    def __getstate__(self) -> dict:
        # A spawned worker maps the files itself; pickled, they would be copied.
        return {**self.__dict__, '_files': {}}

    def __len__(self) -> int:
        return self.meta['samples']

    def __getitem__(self, index: int) -> dict:
        """Return a sample; see the class.

        Args:
            index (int): From 0.

        Returns:
            dict: ``inputs`` and ``data_samples``.

        Raises:
            RuntimeError: If the file with the sample is damaged.
        """
        if not 0 <= index < len(self):
            raise IndexError(f'{self.root} has {len(self)} samples, not {index}')
        shard = int(np.searchsorted(self._ends, index, side='right'))
        row = index - (int(self._ends[shard - 1]) if shard else 0)
        text = self._draw_text(index)
        return dict(
            inputs=unpack_tokens(self._map(self._shards[shard]), row),
            data_samples=dict(
                caption=self._string('text', text),
                text_embeddings=self._text_embedding(text),
                img_path=self._string('path', index),
                grid=self._grid,
            ),
        )

    def check(self, model: nn.Module) -> None:
        """Refuse a cache that this model would not have written.

        Also tells its backbone the grid of the tokens. Mixed precision in training
        does not matter: no cache is written under autocast.

        Args:
            model (nn.Module): The segmentor that is to be trained, unwrapped.

        Raises:
            ValueError: If its encoders, their precision or output, or the preprocessing
                differ from what the cache was made with; the message names both.
        """
        difference = find_difference(self.meta['identity'], model_identity(model))
        if difference:
            raise ValueError(self._refusal(difference))
        model.backbone.token_grid = self._grid

    def _refusal(self, difference: tuple[str, str]) -> str:
        stored, wanted = difference
        return (
            f'The feature cache {self.root} was made with {stored}, but the config has '
            f'{wanted}: go back to what it was made with, or make it again with '
            f'`{TOOL} --overwrite`.'
        )

    def _draw_text(self, index: int) -> int:
        """Draw as ``PickCaption`` and ``NounPrompt`` do; returns the text's id."""
        arrays = self._arrays
        first, end = arrays['caption_starts'][index : index + 2]
        picked = first
        if self.meta['identity']['texts']['captions'] is not None:
            picked += np.random.randint(end - first)
        if self._noun_prob and np.random.rand() < self._noun_prob:
            nouns = arrays['nouns'][slice(*arrays['noun_starts'][picked : picked + 2])]
            if len(nouns):
                prompts = arrays['noun_prompts'][nouns[np.random.randint(len(nouns))]]
                return int(prompts[np.random.randint(len(prompts))])
        return int(arrays['captions'][picked])

    def _text_embedding(self, text: int) -> Tensor:
        file, row = divmod(text, TEXTS_PER_FILE)
        return self._map(f'texts-{file:05d}.safetensors')['embeddings'][row]

    def _string(self, kind: str, index: int) -> str:
        start, end = self._arrays[f'{kind}_starts'][index : index + 2]
        return self._arrays[f'{kind}_bytes'][start:end].tobytes().decode()

    def _map(self, name: str) -> dict[str, Tensor]:
        if name not in self._files:
            self._files[name] = self._load(name)
        return self._files[name]

    def _load(self, name: str) -> dict[str, Tensor]:
        path = self.root / name
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise RuntimeError(_damage(path, str(error))) from error


def read_meta(root: Path) -> dict:
    """Read ``meta.json`` of a complete cache.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is damaged or of another version.
    """
    path = root / META
    try:
        meta = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f'There is no complete feature cache in {root}: write it, or finish it, '
            f'with `{TOOL}`, CONFIG being the config that trains from it.'
        ) from error
    except ValueError as error:
        raise ValueError(_damage(path, str(error))) from error
    if meta.get('version') != VERSION:
        raise ValueError(
            f'The feature cache {root} is of version {meta.get("version")}, not '
            f'{VERSION}: make it again with `{TOOL} --overwrite`.'
        )
    return meta


def pack_tokens(tokens: Tensor, dtype: str) -> dict[str, Tensor]:
    """Tokens ``(n, T, C)`` as they are stored.

    Args:
        tokens (Tensor): Finite values.
        dtype (str): ``'float32'``, ``'bfloat16'``, ``'float16'``, or ``'int8'``: of
            each token, 127 stands for its largest absolute value.

    Returns:
        dict[str, Tensor]: ``tokens``, and for ``'int8'`` float32 ``scales`` (n, T).
    """
    if dtype != 'int8':
        return dict(tokens=tokens.to(getattr(torch, dtype)))
    tokens = tokens.float()
    scales = tokens.abs().amax(-1) / 127
    # A token of zeros is stored as such, whatever its scale.
    steps = tokens / scales.clamp(min=torch.finfo(torch.float32).tiny)[..., None]
    return dict(tokens=steps.round().to(torch.int8), scales=scales)


def unpack_tokens(packed: Mapping[str, Tensor], row: int | slice) -> Tensor:
    """Tokens ``(T, C)`` of a row, or of several, as they are trained on."""
    tokens = packed['tokens'][row]
    if 'scales' not in packed:
        return tokens
    return (tokens * packed['scales'][row][..., None]).bfloat16()


# ----------------------------------------------------------------------- identity


def split_pipeline(pipeline: Sequence[dict]) -> tuple[list[dict], dict, dict]:
    """Tell what a pipeline does with images from what it does with texts.

    Returns:
        tuple: Configs of the image's transforms; all arguments of ``PickCaption`` and
        of ``NounPrompt`` by name, empty where the pipeline has none.
    """
    kinds = [_kind(transform) for transform in pipeline]
    images = [
        transform
        for transform, kind in zip(pipeline, kinds, strict=True)
        if kind not in (*_TEXT_TRANSFORMS, *_PACKING)
    ]
    texts = {
        name: transform
        for transform, name in zip(pipeline, kinds, strict=True)
        if name in _TEXT_TRANSFORMS
    }
    pick = _arguments(PickCaption, texts.get('PickCaption'))
    nouns = _arguments(NounPrompt, texts.get('NounPrompt'))
    if nouns:
        nouns['templates'] = get_templates(nouns['templates'])
    return images, pick, nouns


def source_identity(source: Mapping) -> dict[str, dict]:
    """What of the features a source and its pipeline decide, in plain values.

    Returns:
        dict[str, dict]: ``source``, ``preprocessing`` (of images), and ``texts``,
        whose ``noun_prob`` is of no consequence for what is stored.

    Raises:
        ValueError: The source or one of its transforms has no ``type``.
        TypeError: A transform does not take its arguments.
    """
    _kind(source, 'The source of a feature cache')
    images, pick, nouns = split_pipeline(source.get('pipeline', ()))
    prob = nouns.pop('prob', 0)
    if not prob:
        nouns = {}
    content = {k: v for k, v in source.items() if k not in _NOT_CONTENT}
    return _plain(
        dict(
            source=content,
            preprocessing=dict(transforms=[_resolved(config) for config in images]),
            texts=dict(captions=pick or None, nouns=nouns or None, noun_prob=prob),
        )
    )


def model_identity(model: nn.Module) -> dict[str, dict]:
    """What of the features a model decides, in plain values.

    Args:
        model (nn.Module): With ``data_preprocessor``, ``backbone`` and
            ``decode_head.text_encoder``.

    Returns:
        dict[str, dict]: ``vision``, ``text`` and ``normalization``. ``encoder`` within
        them is for people to read.

    Raises:
        ValueError: The model's encoders are not frozen, or none that can be cached.
    """
    vision = getattr(model, 'backbone', None)
    text = getattr(getattr(model, 'decode_head', None), 'text_encoder', None)
    if not isinstance(vision, PACLBackbone) or text is None:
        raise ValueError(
            'A feature cache is for a model with a PACLBackbone and a '
            f'ZeroShotTextHead, not for {type(model).__name__} with '
            f'{type(vision).__name__}: train this one from images.'
        )
    if not (vision.frozen and text.frozen):
        raise ValueError(
            'A feature cache is for frozen encoders, and this config trains one of '
            'them: train it from images, or set frozen=True.'
        )
    if len(vision.out_indices) != 1:
        raise ValueError(
            f'A feature cache holds the tokens of one layer, not of '
            f'{len(vision.out_indices)}: give out_indices a single number.'
        )
    block = vision.visual.transformer.resblocks[0]
    attention = vision._dense_attention
    images = model.data_preprocessor
    architecture = {k: v for k, v in text.architecture.items() if k != 'vision_cfg'}
    return _plain(
        dict(
            vision=dict(
                encoder=vision.description,
                fingerprint=vision.fingerprint(),
                dtype=_precision(vision),
                # Weights alone do not say what an encoder does with them.
                activation=type(block.mlp.gelu).__name__,
                heads=block.attn.num_heads,
                output=vision.output,
                layer=vision.out_indices[0],
                stride=vision.stride,
                fit=vision.fit,
                interpolate_offset=vision.interpolate_offset,
                dense_attention=attention
                and dict(type=attention.func.__name__, **attention.keywords),
                cls_token=vision.output_cls_token,
            ),
            text=dict(
                encoder=text.description,
                fingerprint=text.fingerprint(),
                dtype=_precision(text),
                architecture=architecture,
            ),
            normalization=dict(
                mean=images.mean.flatten().tolist(),
                std=images.std.flatten().tolist(),
                bgr_to_rgb=flips_channels(images),
                # MMSeg's own preprocessor gives float32.
                dtype=_name(getattr(images, 'dtype', torch.float32)),
            ),
        )
    )


def find_difference(stored: Mapping, wanted: Mapping) -> tuple[str, str] | None:
    """Compare two identities in the parts that both have.

    Returns:
        tuple[str, str] | None: The first difference, as phrases for what is stored and
        what is wanted, or None.
    """
    for part in [part for part in wanted if part in stored]:
        old, new = dict(stored[part]), dict(wanted[part])
        if part == 'texts' and not new.pop('noun_prob', None):
            new['nouns'] = old['nouns']  # no noun prompts wanted: any there may be
        old.pop('noun_prob', None)
        for key in sorted({*old, *new} - {'encoder'}):
            if old.get(key) != new.get(key):
                return _phrase(part, key, old), _phrase(part, key, new)
    return None


def identity_hash(*content: Any) -> str:
    """SHA-256 of plain values; what is only for people to read does not count."""

    def strip(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        dropped = ('encoder', 'noun_prob')
        return {k: strip(v) for k, v in value.items() if k not in dropped}

    text = json.dumps([strip(_plain(value)) for value in content], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _phrase(part: str, key: str, values: Mapping) -> str:
    if key == 'fingerprint':
        return (
            f'the {part} encoder {values["encoder"]} (fingerprint '
            f'{values["fingerprint"][:12]})'
        )
    return f'{part} {key}={json.dumps(values.get(key))}'


def _precision(module: nn.Module) -> str:
    return _name(next(module.parameters()).dtype)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix('torch.')


def _kind(config: Any, what: str = "A transform of a feature cache's source") -> str:
    if not isinstance(config, Mapping) or 'type' not in config:
        raise ValueError(
            f'{what} must be a config with a `type`, not {reprlib.repr(config)}.'
        )
    kind = config['type']
    return getattr(kind, '__name__', str(kind)).split('.')[-1]


def _arguments(transform: type, config: Mapping | None) -> dict:
    """All arguments of a transform, with its defaults; {} if there is no config."""
    if config is None:
        return {}
    given = {k: v for k, v in config.items() if k != 'type'}
    try:
        bound = inspect.signature(transform).bind(**given)
    except TypeError as error:
        raise TypeError(
            f'{transform.__name__} in the pipeline of the source: {error}.'
        ) from error
    bound.apply_defaults()
    return dict(bound.arguments)


def _resolved(config: Mapping) -> dict:
    """A transform's arguments, with what it takes from a model in place of its name.

    Weights lie elsewhere on another machine, and do not matter here.
    """
    kind = config['type']
    transform = TRANSFORMS.get(kind) if isinstance(kind, str) else kind
    # One that is unknown is refused when the cache is made.
    arguments = dict(config) if transform is None else _arguments(transform, config)
    if arguments.get('model') is not None:
        model, pretrained = arguments.pop('model'), arguments.pop('pretrained', None)
        arguments['preprocess'] = preprocess_config(model, pretrained)
    return dict(arguments, type=_kind(config))


def _plain(value: Any) -> Any:
    """What JSON makes of a value: lists for tuples, names for anything unknown."""
    return json.loads(json.dumps(value, default=str))


# -------------------------------------------------------------------------- files


def _check_size(path: Path, size: int) -> None:
    if not path.is_file():
        raise FileNotFoundError(
            f'{path} of the feature cache is missing: write it again with `{TOOL}`, '
            'which keeps what is there.'
        )
    if path.stat().st_size != size:
        reason = f'{path.stat().st_size:,} bytes, not {size:,}'
        raise ValueError(_damage(path, reason))


def _damage(path: Path, reason: str) -> str:
    return (
        f'{path} of the feature cache is truncated or damaged ({reason}): run '
        f'`{TOOL}`, which writes damaged files again and keeps the others.'
    )
