"""Weights files of CLIP, in the layouts that are about, into open_clip models."""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping

import torch
from open_clip.convert import convert_state_dict
from open_clip.factory import load_checkpoint
from open_clip.model import (
    CustomTextCLIP,
    convert_to_custom_text_state_dict,
    resize_pos_embed,
    resize_text_pos_embed,
)
from open_clip.transformer import QuickGELU
from safetensors.torch import load_file
from torch import Tensor, nn

# What OpenAI's own files hold beside weights; other files do not.
_OPENAI = ('input_resolution', 'context_length', 'vocab_size')
# The names of Hugging Face's `transformers.CLIPModel`, and open_clip's.
_TRANSFORMERS = {
    'text_model.': 'text.',
    'vision_model.': 'visual.',
    'encoder.layers.': 'transformer.resblocks.',
    'embeddings.token_embedding': 'token_embedding',
    'embeddings.position_embedding.weight': 'positional_embedding',
    'embeddings.class_embedding': 'class_embedding',
    'embeddings.patch_embedding': 'conv1',
    'pre_layrnorm': 'ln_pre',  # sic
    'post_layernorm': 'ln_post',
    'final_layer_norm': 'ln_final',
    'layer_norm': 'ln_',
    'mlp.fc1': 'mlp.c_fc',
    'mlp.fc2': 'mlp.c_proj',
    'self_attn': 'attn',
    'visual_projection.weight': 'visual.proj',
    'text_projection.weight': 'text.text_projection',
}


def load_weights(clip: CustomTextCLIP, path: str) -> None:
    """Load a weights file into an open_clip model.

    Read are open_clip's own files (``.bin``, ``.pt``, ``.safetensors``, checkpoints of
    its training, big_vision's ``.npz``), OpenAI's TorchScript archives and state dicts,
    and those of ``transformers.CLIPModel``. Nothing in a file is executed.

    Raises:
        ValueError: The weights are of another model, or not finite; the message names
            them.
    """
    if path.endswith(('.npz', '.npy')):
        load_checkpoint(clip, path)
        return
    weights = read_weights(path)
    if any(key in weights for key in _OPENAI):
        weights = {k: v for k, v in weights.items() if k not in _OPENAI}
        if not any(isinstance(module, QuickGELU) for module in clip.modules()):
            warnings.warn(
                f"{path} holds OpenAI's weights, which were trained with QuickGELU; "
                'this model has another activation. The name of theirs ends in '
                '-quickgelu; of an inline architecture, set quick_gelu=True.',
                stacklevel=2,
            )
    if any(key.startswith(('text_model.', 'vision_model.')) for key in weights):
        weights = _from_transformers(weights)
    weights = convert_state_dict(clip, weights)
    if 'positional_embedding' in weights:  # the text tower beside the vision tower
        weights = convert_to_custom_text_state_dict(weights)
    own = clip.state_dict()
    for key in ('logit_scale', 'logit_bias'):  # scalars, or vectors of one
        if key in weights and key in own and own[key].numel() == weights[key].numel():
            weights[key] = weights[key].reshape(own[key].shape)
    for tower, resize in (
        ('visual', resize_pos_embed),
        ('text', resize_text_pos_embed),
    ):
        key = f'{tower}.positional_embedding'
        widths = [values[key].shape[-1:] for values in (weights, own) if key in values]
        if len(widths) == 2 and widths[0] == widths[1]:
            resize(weights, clip)
    for key in [k for k in weights if k.endswith('.position_ids') and k not in own]:
        del weights[key]  # 0, 1, 2, ..., in older files
    _check(weights, own)
    clip.load_state_dict(weights)


def load_projection(text: nn.Module, path: str) -> None:
    """Load the last linear map of a text tower of transformers.

    Args:
        text: That tower, open_clip's ``HFTextEncoder`` with ``hf_proj_type='linear'``.
        path: ``linear.weight (D, width)``, as ``sentence_transformers.models.Dense``
            writes it, in a file as of :func:`read_weights`.

    Raises:
        ValueError: The tower has no such map, or the file another one.
    """
    own = getattr(text, 'proj', None)
    if not isinstance(own, nn.Linear):
        raise ValueError(
            'projection is the last linear map of a text tower of transformers with '
            "hf_proj_type='linear', and this tower has none: leave it out."
        )
    try:
        weights = read_weights(path)
        weights = {k.removeprefix('linear.'): v for k, v in weights.items()}
        _check(weights, own.state_dict())
    except ValueError as error:
        raise ValueError(
            f"{path} does not hold this text tower's projection: {error}."
        ) from error
    own.load_state_dict(weights)


def read_weights(path: str) -> dict[str, Tensor]:
    """The tensors of a file, by the names that it gives them; nothing is executed.

    Args:
        path: A state dict, or one in ``'state_dict'`` or ``'model'``, as PyTorch,
            TorchScript or safetensors write it.

    Raises:
        ValueError: It holds something else.
    """
    try:
        if path.endswith('.safetensors'):
            content = load_file(path)
        elif _is_torchscript(path):
            content = _read_torchscript(path)
        else:
            content = torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            'it is damaged, or holds Python objects, which are not loaded: save its '
            'state dict alone'
        ) from error
    for key in ('state_dict', 'model'):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise ValueError('it holds no state dict')
    for key, value in content.items():
        if not isinstance(value, Tensor):
            raise ValueError(f'{key} is no tensor, but of type {type(value).__name__}')
    return {key.removeprefix('module.'): value for key, value in content.items()}


class _Scripted:
    """What stands for any module in a TorchScript archive: its attributes."""


def _is_torchscript(path: str) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith('/constants.pkl') for name in archive.namelist())


def _read_torchscript(path: str) -> dict[str, Tensor]:
    """Parameters and buffers of a TorchScript archive, whose code is left out.

    ``torch.jit.load`` would compile that code, and run part of it. Without it the
    archive is what ``torch.save`` writes, of modules in place of a dict, and is read
    with ``weights_only``, which makes nothing but tensors, lists of numbers and
    :class:`_Scripted`.
    """
    plain = io.BytesIO()
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(plain, 'w') as target:
        for entry in source.infolist():
            parts = entry.filename.split('/')
            if parts[-1] == 'constants.pkl' or 'code' in parts:
                continue
            if entry.compress_type:  # PyTorch's never are, and small ones may be huge
                raise ValueError('its tensors are compressed')
            target.writestr(entry.filename, source.read(entry))
    plain.seek(0)
    names = torch.serialization.get_unsafe_globals_in_checkpoint(plain)
    stand_ins = {'__torch__.': _Scripted, 'torch.jit._pickle.': _itself}
    known = [(s, n) for n in names for k, s in stand_ins.items() if n.startswith(k)]
    plain.seek(0)
    with torch.serialization.safe_globals(known):
        root = torch.load(plain, map_location='cpu', weights_only=True)
    return dict(_tensors(root))


def _itself(value: object, *_: object) -> object:
    """What stands for PyTorch's functions that make a list of numbers of one."""
    return value


def _tensors(module: object, prefix: str = '') -> Iterator[tuple[str, Tensor]]:
    attributes = dict(vars(module))
    vars(module).clear()  # so that one that contains itself ends
    for name, value in attributes.items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, _Scripted):
            yield from _tensors(value, f'{prefix}{name}.')


def _from_transformers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    converted: dict[str, Tensor] = {}
    for key, value in weights.items():
        for theirs, ours in _TRANSFORMERS.items():
            key = key.replace(theirs, ours)
        projects = key in ('visual.proj', 'text.text_projection')
        converted[key] = value.T if projects else value
    for key in [key for key in converted if '.attn.q_proj.' in key]:
        parts = [converted.pop(key.replace('.q_', f'.{p}_'), None) for p in 'qkv']
        if all(part is not None for part in parts):
            converted[key.replace('q_proj.', 'in_proj_')] = torch.cat(parts)
    return converted


def _check(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Complain, by name, about what would not fit."""
    shapes = [
        f'{key} {tuple(weights[key].shape)} in place of {tuple(value.shape)}'
        for key, value in own.items()
        if key in weights and weights[key].shape != value.shape
    ]
    found = {
        'lacks': [f'{k} {tuple(v.shape)}' for k, v in own.items() if k not in weights],
        'has unknown': [
            f'{k} {tuple(v.shape)}' for k, v in weights.items() if k not in own
        ],
        'has in another shape': shapes,
        'has values that are not finite in': [
            key for key, value in weights.items() if not value.isfinite().all()
        ],
    }
    problems = [
        f'it {what} {", ".join(keys[:3])}'
        + (f' and {len(keys) - 3} more' if len(keys) > 3 else '')
        for what, keys in found.items()
        if keys
    ]
    if problems:
        raise ValueError('; '.join(problems))
