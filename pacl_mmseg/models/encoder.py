"""A model's ``encoder``, handed to the parts and the transforms that need it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from mmengine.config import ConfigDict
from mmengine.registry import Registry

from pacl_mmseg.registry import MODELS, TRANSFORMS, kind_of, walk
from pacl_mmseg.utils.names import check_name

# What says which one it is, and what of it else may be said.
IDENTITY = ('model', 'pretrained', 'init_seed')
ENCODER_KEYS = (*IDENTITY, 'dtype', 'compile')
_DEFAULTS = dict(
    model='ViT-B-16-quickgelu',
    pretrained=None,
    init_seed=0,
    dtype='float32',
    compile=False,
)


def hand_over(model: Mapping) -> ConfigDict:
    """A segmentor's config in which each part says what ``encoder`` says.

    Parts are those, at any depth, whose type has ``encoder_keys``, the arguments of
    theirs that it fills; of a tower, ``encoder_tower`` says which it is. Without vision
    tower the data preprocessor prepares images for another encoder: it gets what it
    does not say itself, but no precision.

    Args:
        model: Config of a segmentor, with ``encoder`` or without, as stock ones are, or
            of the wrapper of one for augmented tests.

    Returns:
        A copy without ``encoder``, which a stock segmentor takes too.

    Raises:
        ValueError: ``encoder`` has an unknown key or reaches no part, a part says
            something else, or, without ``encoder``, parts name unequal ones.
    """
    model = ConfigDict(copy.deepcopy(dict(model)))
    if 'module' in model:
        model.module = hand_over(model.module)
        return model
    encoder = model.pop('encoder', None)
    parts = _parts(model)
    towers = [_attribute(part, 'encoder_tower') for part in parts.values()]
    if encoder is None:
        _check_equal(parts, 'visual' in towers)
        return model
    if not isinstance(encoder, Mapping) or 'model' not in encoder:
        raise ValueError(
            'model.encoder is a dict that names an open_clip `model`, as in '
            f"dict(model='ViT-B-16-quickgelu', pretrained='openai'), not {encoder!r}."
        )
    for key in encoder:
        check_name('key of model.encoder', key, ENCODER_KEYS)
    if not any(towers):
        raise ValueError(
            'model.encoder reaches no part: neither backbone nor text encoder takes an '
            'open_clip model.'
        )
    for (place, part), tower in zip(parts.items(), towers, strict=True):
        if tower or 'visual' in towers:
            _give(encoder, part, MODELS, place)
        elif 'model' not in part:
            known = ('model', 'pretrained')
            part.update({key: encoder[key] for key in known if key in encoder})
    return model


def hand_to_transforms(loader: Any, model: Any) -> Any:
    """A data loader's config whose transforms say the encoder of the model.

    Args:
        loader: Config of a data loader or dataset, None, or one that is built.
        model: Config of the segmentor or of its wrapper. One that is built says
            nothing to transforms.

    Returns:
        A copy. A transform that says nothing, for a model without an open_clip model,
        is left as it is.

    Raises:
        ValueError: A transform says something else; or as :func:`hand_over`.
    """
    if not isinstance(model, Mapping) or not isinstance(loader, Mapping):
        return loader
    towers = tower_configs(hand_over(model))
    if not towers:
        return loader
    encoder = {key: towers[0].get(key, _DEFAULTS[key]) for key in IDENTITY}
    has_vision = _attribute(towers[0], 'encoder_tower') == 'visual'
    loader = copy.deepcopy(loader)
    for _, part in walk(loader):
        keys = _attribute(part, 'encoder_keys', TRANSFORMS) or ()
        if 'pretrained' in keys and 'model' in part and not has_vision:
            continue  # prepares images for another encoder
        _give(encoder, part, TRANSFORMS, kind_of(part))
    return loader


def tower_configs(model: Mapping) -> list[dict]:
    """Parts of a segmentor's config that keep a tower of open_clip, vision first."""
    parts = _parts(model).values()
    towers = [(_attribute(part, 'encoder_tower'), part) for part in parts]
    order = ('visual', 'text')
    return [part for name in order for tower, part in towers if tower == name]


def _parts(model: Mapping) -> dict[str, dict]:
    """What an encoder fills, by its place."""
    return {
        path: part
        for path, part in walk(model, 'model')
        if _attribute(part, 'encoder_keys')
    }


def _attribute(part: Any, name: str, registry: Registry = MODELS) -> Any:
    """An attribute of a part's type; None if it has no type, or that none."""
    kind = part.get('type') if isinstance(part, Mapping) else None
    if isinstance(kind, str):
        kind = registry.get(kind)
    return getattr(kind, name, None)


def _give(encoder: Mapping, part: dict, registry: Registry, place: str) -> None:
    for key in _attribute(part, 'encoder_keys', registry) or ():
        wanted = encoder.get(key, _DEFAULTS[key])
        if part.get(key, wanted) != wanted:
            raise ValueError(
                f"{place} says {key}={part[key]!r}, but the model's encoder has "
                f'{wanted!r}: leave {key} out of {place}; in a ZeroShotSegmentor '
                f'model.encoder.{key} sets it for all.'
            )
        if key in encoder:
            part[key] = encoder[key]


def _check_equal(parts: Mapping[str, Mapping], has_vision: bool) -> None:
    """Refuse unequal encoders of the parts of a segmentor without ``encoder``."""
    concerned = [
        (place, part, _attribute(part, 'encoder_keys'))
        for place, part in parts.items()
        if has_vision or _attribute(part, 'encoder_tower')
    ]
    for key in IDENTITY:
        said = [
            (p, part.get(key, _DEFAULTS[key])) for p, part, k in concerned if key in k
        ]
        for place, value in said:
            if value != said[0][1]:
                raise ValueError(
                    f'{place} has {key}={value!r}, but {said[0][0]} {said[0][1]!r}: '
                    'both need the same open_clip model.'
                )
