"""A model's ``encoder``, handed to the parts and the transforms that need it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

from mmengine.config import ConfigDict
from mmengine.registry import Registry

from pacl_mmseg.registry import MODELS, TRANSFORMS, typed
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
_TOWERS = ('backbone', 'decode_head.text_encoder')


def hand_over(model: Mapping) -> ConfigDict:
    """A segmentor's config in which each part says what ``encoder`` says.

    Parts are those whose type has ``encoder_keys``, the arguments of theirs that it
    fills. Where the backbone is none of them, the data preprocessor prepares images
    for another encoder: it gets what it does not say itself, and no precision.

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
    own_images = 'backbone' in parts
    if encoder is None:
        order = [*_TOWERS, 'data_preprocessor'] if own_images else _TOWERS
        _check_equal({place: parts[place] for place in order if place in parts})
        return model
    for key in encoder:
        check_name('key of model.encoder', key, ENCODER_KEYS)
    if not parts.keys() & set(_TOWERS):
        raise ValueError(
            'model.encoder reaches no part: neither the backbone nor '
            'decode_head.text_encoder takes an open_clip model.'
        )
    for place, part in parts.items():
        if place in _TOWERS or own_images:
            _give(encoder, part, MODELS, f'model.{place}')
        elif 'model' not in part:
            images = {key: encoder[key] for key in encoder if key != 'dtype'}
            _give(images, part, MODELS, f'model.{place}')
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
    handed = hand_over(model)
    parts = _parts(handed.get('module', handed))
    said = next((parts[place] for place in _TOWERS if place in parts), None)
    loader = copy.deepcopy(loader)
    if said is None:
        return loader
    encoder = {key: said.get(key, _DEFAULTS[key]) for key in IDENTITY}
    for name, part in typed(loader):
        prepares_images = 'pretrained' in _keys(part, TRANSFORMS)
        if prepares_images and 'backbone' not in parts and 'model' in part:
            continue  # for another encoder
        _give(encoder, part, TRANSFORMS, name)
    return loader


def tower_configs(model: Mapping) -> list[Mapping]:
    """The parts of a segmentor's config that keep a tower of an open_clip model."""
    parts = _parts(model)
    return [parts[place] for place in _TOWERS if place in parts]


def _parts(model: Mapping) -> dict[str, dict]:
    head = model.get('decode_head')
    found = {
        'data_preprocessor': model.get('data_preprocessor'),
        'backbone': model.get('backbone'),
        # Stock segmentors may have several heads.
        'decode_head.text_encoder': head.get('text_encoder')
        if isinstance(head, Mapping)
        else None,
    }
    return {place: part for place, part in found.items() if _keys(part, MODELS)}


def _keys(part: Any, registry: Registry) -> tuple[str, ...]:
    """The arguments of a part that an encoder fills."""
    kind = part.get('type') if isinstance(part, Mapping) else None
    if not inspect.isclass(kind):
        kind = kind and registry.get(kind)
    return getattr(kind, 'encoder_keys', ())


def _give(encoder: Mapping, part: dict, registry: Registry, place: str) -> None:
    for key in _keys(part, registry):
        wanted = encoder.get(key, _DEFAULTS[key])
        if part.get(key, wanted) != wanted:
            raise ValueError(
                f'{place} says {key}={part[key]!r}, but the encoder of the model has '
                f'{wanted!r}: set model.encoder.{key}, and leave it out of {place}.'
            )
        if key in encoder:
            part[key] = encoder[key]


def _check_equal(parts: Mapping[str, Mapping]) -> None:
    """Refuse unequal encoders of the parts of a segmentor without ``encoder``."""
    first = next(iter(parts), None)
    for place, part in parts.items():
        for key in set(IDENTITY) & set(_keys(part, MODELS)):
            said, wanted = (p.get(key, _DEFAULTS[key]) for p in (part, parts[first]))
            if said != wanted:
                raise ValueError(
                    f'model.{place} has {key}={said!r}, but model.{first} '
                    f'{wanted!r}: both need the same open_clip model.'
                )
