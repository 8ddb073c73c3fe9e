"""Trained models as people share them: a folder of tensors, settings and a card."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from mmengine.config import Config
from mmengine.registry import Registry
from safetensors.torch import save_file
from torch import Tensor, nn

from pacl_mmseg.apis.config import apply_options
from pacl_mmseg.apis.inference import init_model
from pacl_mmseg.models import ZeroShotSegmentor
from pacl_mmseg.models.encoder import ENCODER_KEYS
from pacl_mmseg.models.frozen import FrozenModule
from pacl_mmseg.models.open_clip_weights import read_weights
from pacl_mmseg.registry import MODELS, TRANSFORMS, kind_of, walk
from pacl_mmseg.utils.hub import hub

HUB = 'hf-hub:'
WEIGHTS, SETTINGS, CARD = 'model.safetensors', 'config.json', 'README.md'
_FORMAT = 1
_MOST_BYTES = 2**20  # of the settings
_ENCODER = re.compile(r'encoder\d*\.safetensors')
# Texts that are shown or encoded, never a name of a file, class or model.
_FREE_TEXT = ('templates', 'vocabulary')
# What MMEngine does with these is to read pickled files, or to import modules.
_REFUSED_KEYS = ('init_cfg', 'custom_imports', 'checkpoint', 'data_root', 'clip')
# Of a tokenizer: what open_clip itself goes by. The rest is for transformers, which
# can be told to run what it downloads.
_TOKENIZER_KEYS = ('clean', 'context_length', 'language', 'strip_sep_token')
# Names of files, addresses and modules have other characters. Towers of timm and of
# Hugging Face have one slash more.
_PLAIN_TEXT = re.compile(r'[\w+-][\w .+-]*')
_HUB_NAME = re.compile(r'[\w-][\w.-]*/[\w-][\w.-]*')


def export(
    config: str | Path | Config,
    checkpoint: str | os.PathLike,
    folder: str | os.PathLike,
    name: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write what ``Segmenter(folder)`` loads, also from the Hugging Face hub.

    Args:
        config, checkpoint, cfg_options: See :func:`init_model`.
        folder: New or empty.
        name: Of the model, for its card; by default the folder's.

    Returns:
        ``model.safetensors``, the trained parts; ``config.json``; ``README.md``, the
        model card; and where weights of the encoder are a file, these as
        ``encoder.safetensors``, further ones as ``encoder2.safetensors``.

    Raises:
        ValueError: It is the config of something else than a
            :class:`ZeroShotSegmentor`, has no trained part, or has what a folder
            cannot hold.
        FileExistsError: There is something in the folder.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f'{folder} is not empty: give another folder.')
    model = init_model(config, os.fspath(checkpoint), 'cpu', cfg_options)
    if not isinstance(model, ZeroShotSegmentor):
        raise ValueError(
            f'A {type(model).__name__} cannot be exported, only a ZeroShotSegmentor.'
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            f'The model of this config has no trained part, so nothing of {checkpoint} '
            'would be exported: give the config that it was trained by.'
        )
    settings = dict(format=_FORMAT, model=model.cfg.model, pipeline=steps_of(model.cfg))
    try:
        settings = json.loads(json.dumps(settings))
    except TypeError as error:
        raise ValueError(
            f'The config has what JSON cannot hold ({error}): write types as texts.'
        ) from error
    settings['model'].pop('pretrained', None)  # None, from MMSeg's init_model
    encoders: dict[str, dict[str, Tensor]] = {}
    for part, key in _weights(settings['model']):
        path = os.path.expanduser(part[key])
        if os.path.isfile(path):
            file = f'encoder{len(encoders) + 1 if encoders else ""}.safetensors'
            encoders[file] = read_weights(path)
            part[key] = file
    check_settings(settings)
    weights = model.state_dict()
    for place, module in model.named_modules():
        if isinstance(module, FrozenModule) and module.frozen:
            # Without where its weights lay here.
            module.description = re.sub(r'[^\s(]*[/\\]', '', module.description)
            weights[f'{place}._extra_state'] = module.get_extra_state()
    folder.mkdir(parents=True, exist_ok=True)
    _save(weights, folder / WEIGHTS)
    for file, tensors in encoders.items():
        _save(tensors, folder / file)
    text = json.dumps(settings, indent=1, ensure_ascii=False)
    (folder / SETTINGS).write_text(text + '\n', encoding='utf-8')
    card = _card(name or folder.resolve().name, model)
    (folder / CARD).write_text(card, encoding='utf-8')
    return [folder / file for file in (WEIGHTS, *encoders, SETTINGS, CARD)]


def steps_of(config: Config) -> list[dict]:
    """What a config does with a test image once that is loaded."""
    steps = config.get('test_pipeline') or config.test_dataloader.dataset.pipeline
    return [step for step in steps if not kind_of(step).startswith('Load')]


def download(address: str) -> Path:
    """Fetch an exported model from the Hugging Face hub, or find it in its cache.

    Args:
        address: ``hf-hub:user/name``, or ``hf-hub:user/name@revision``.

    Returns:
        The folder that has it.

    Raises:
        ValueError: It is no such address.
        RuntimeError: It cannot be fetched.
    """
    repository, _, revision = address.removeprefix(HUB).partition('@')
    if not _HUB_NAME.fullmatch(repository):
        raise ValueError(f'{address} is no address such as hf-hub:user/name.')
    try:
        with hub():

            def fetch(file: str) -> str:
                return hf_hub_download(repository, file, revision=revision or None)

            settings = fetch(SETTINGS)
            for file in [WEIGHTS, *_encoders(_read_settings(Path(settings)))]:
                fetch(file)
    except ValueError:
        raise
    except Exception as error:  # network, hub and file errors of many types
        raise RuntimeError(
            f'{address} could not be fetched ({type(error).__name__}): look whether '
            'there is such a model and a connection, or download its folder on another '
            'machine and give that.'
        ) from error
    return Path(settings).parent


def read_exported(folder: Path, own: bool = False) -> tuple[Config, Path]:
    """The config and the weights file in a folder; nothing there is executed.

    Args:
        folder: What :func:`export` wrote.
        own: It is in the cache of the hub, which is made of links. Else a link is
            refused, since it may lead anywhere.

    Raises:
        ValueError: A file is missing, or a link, or the settings name what is not of
            this package.
    """
    settings = _read_settings(folder / SETTINGS, own)
    model = settings['model']
    for file in (WEIGHTS, *_encoders(settings)):
        _check_file(folder / file, own)
    for part, key in _weights(model):
        if _ENCODER.fullmatch(part[key]):
            part[key] = str(folder / part[key])
    config = Config(
        dict(model=model, test_pipeline=settings['pipeline']), format_python_code=False
    )
    apply_options(config, None)
    return config, folder / WEIGHTS


def check_settings(settings: Any) -> None:
    """Complain about settings that do more than name parts of this package.

    MMEngine imports and calls whatever a ``type`` names, and unpickles what an
    ``init_cfg`` points to.

    Raises:
        ValueError: The message names what is not allowed.
    """
    if not isinstance(settings, dict) or settings.get('format') != _FORMAT:
        raise ValueError(
            f'{SETTINGS} is not of format {_FORMAT}, which this version of pacl-mmseg '
            'reads: export the model anew.'
        )
    if settings.keys() != {'format', 'model', 'pipeline'} or not (
        isinstance(settings['model'], dict)
        and kind_of(settings['model']) == 'ZeroShotSegmentor'
        and isinstance(settings['pipeline'], list)
    ):
        raise ValueError(
            f'{SETTINGS} does not have the model, a ZeroShotSegmentor, and pipeline '
            'that pacl export writes.'
        )
    _check_part(settings['model'], 'model', MODELS)
    for index, step in enumerate(settings['pipeline']):
        if not isinstance(step, dict) or kind_of(step) == 'None':
            raise ValueError(f'{SETTINGS}: pipeline.{index} has no type.')
        _check_part(step, f'pipeline.{index}', TRANSFORMS)


def _check_part(value: Any, place: str, registry: Registry) -> None:
    last = place.split('.')[-1]
    if isinstance(value, dict):
        if 'type' in value:
            _check_type(value['type'], place, registry)
        for key, child in value.items():
            if key in _REFUSED_KEYS or not re.fullmatch(r'[a-z]\w*', key):
                raise ValueError(f'{SETTINGS}: {place}.{key} is not allowed here.')
            if key == 'pretrained' and set(value) - {*ENCODER_KEYS, 'vision', 'text'}:
                raise ValueError(f'{SETTINGS}: {place}.{key} is not of an encoder.')
            if key == 'tokenizer_kwargs' and {*(child or ())} - {*_TOKENIZER_KEYS}:
                raise ValueError(
                    f'{SETTINGS}: {place}.{key} has more than '
                    f'{", ".join(_TOKENIZER_KEYS)}, which alone are allowed here.'
                )
            if key not in _FREE_TEXT:
                _check_part(child, f'{place}.{key}', registry)
    elif isinstance(value, list):
        for child in value:
            _check_part(child, place, registry)
    elif isinstance(value, str):
        hosted = last.startswith('hf_') or value.startswith('timm/')
        if not _PLAIN_TEXT.fullmatch(value) and not (
            hosted and _HUB_NAME.fullmatch(value)
        ):
            raise ValueError(
                f'{SETTINGS}: {place} is {value[:80]!r}, which is no plain name.'
            )


def _check_type(name: Any, place: str, registry: Registry) -> None:
    if place.endswith('.dense_attention'):  # one of a table, built by no registry
        return
    # Not `registry.get`, which imports what is not registered.
    kind = _registered(name, registry)
    module = kind.__module__.split('.')[0] if kind else None
    stock = registry is TRANSFORMS and name in ('Resize', 'PackSegInputs')
    layer = place.endswith('act_cfg') and module == 'torch'
    if module != 'pacl_mmseg' and not stock and not layer:
        raise ValueError(
            f'{SETTINGS}: {place} is of type {str(name)[:80]!r}, but only parts of '
            'pacl-mmseg are loaded from a shared model.'
        )


def _registered(name: Any, registry: Registry | None) -> type | None:
    while registry is not None and isinstance(name, str):
        if name in registry.module_dict:
            return registry.module_dict[name]
        registry = registry.parent
    return None


def _read_settings(path: Path, own: bool = True) -> dict[str, Any]:
    _check_file(path, own)
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f'{path} is too large for the settings of a model.')
    try:
        settings = json.loads(path.read_text(encoding='utf-8'))
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path} is damaged: it is no JSON.') from error
    check_settings(settings)
    return _tuples(settings)


def _tuples(value: Any) -> Any:
    """Lists of numbers as tuples, which JSON lacks and sizes have to be."""
    if isinstance(value, dict):
        return {key: _tuples(child) for key, child in value.items()}
    if isinstance(value, list):
        numbers = all(isinstance(child, (int, float)) for child in value)
        return (tuple if numbers else list)(map(_tuples, value))
    return value


def _encoders(settings: Mapping) -> list[str]:
    """Names of the files of frozen weights."""
    names = [part[key] for part, key in _weights(settings['model'])]
    return [name for name in names if _ENCODER.fullmatch(name)]


def _weights(model: Mapping) -> list[tuple[dict, str]]:
    """Parts of a model, and by which of their keys they name a file or tag of weights.

    ``projection`` is that of an :class:`OpenCLIPTextEncoder`.
    """
    return [
        (part, key)
        for _, part in walk(model)
        for key in ('pretrained', 'projection')
        if isinstance(part.get(key), str)
    ]


def _check_file(path: Path, own: bool) -> None:
    if not path.is_file():
        raise ValueError(
            f'{path.parent} has no {path.name}: give a folder that pacl export wrote.'
        )
    if path.is_symlink() and not own:
        raise ValueError(f'{path} is a link: copy the file that it leads to there.')


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    # Of their own memory, as that format wants them.
    own = {k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}
    save_file(own, path)


def _card(name: str, model: nn.Module) -> str:
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    head = model.decode_head
    described = model.backbone.description
    encoder = described.replace('inline architecture', 'an architecture of its own')
    mode = getattr(head.compatibility, 'mode', kind_of(model.cfg.model.decode_head))
    return f"""---
library_name: pacl-mmseg
pipeline_tag: image-segmentation
tags: [open-vocabulary, semantic-segmentation, clip, pacl]
---

# {name}

Segments images by any words: {trained:,} trained parameters on a frozen encoder,
{encoder}, in pacl-mmseg, an MMSegmentation plugin for Patch Aligned Contrastive
Learning ([CVPR 2023](https://arxiv.org/abs/2212.04994)).

```python
from pacl_mmseg import Segmenter

segmenter = Segmenter('hf-hub:USER/{name}')  # or the path of this folder
result = segmenter('photo.jpg', ['cat, kitten', 'sofa', 'background'])
result.save('out')
```

- `{WEIGHTS}`: the trained parts, and the fingerprint of the encoder, which has
  to be the same. `{SETTINGS}`: the settings (pooling of patches: {mode}).
- To be added by who trained it: the data, the licence, and what was measured, as
  `tools/test.py` and `tools/benchmark.py` write it.
"""
