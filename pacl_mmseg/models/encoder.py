"""A model's ``encoder``, handed to the parts and the transforms that need it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

from mmengine.config import ConfigDict
from mmengine.registry import Registry

from pacl_mmseg.models.open_clip_model import build_open_clip
from pacl_mmseg.models.timm_model import is_timm
from pacl_mmseg.registry import MODELS, TRANSFORMS, kind_of, walk
from pacl_mmseg.utils.names import check_name

# What says which one it is, and what of it else may be said.
IDENTITY = ('model', 'pretrained', 'init_seed')
ENCODER_KEYS = (*IDENTITY, 'dtype', 'compile')
TOWERS = ('vision', 'text')
_DEFAULTS = dict(
    model='ViT-B-16-quickgelu',
    pretrained=None,
    init_seed=0,
    dtype='float32',
    compile=False,
)


def hand_over(model: Mapping) -> ConfigDict:
    """A segmentor's config in which each part says what ``encoder`` says.

    ``encoder`` names an open_clip model, whose towers serve both sides, or in
    ``vision`` and ``text`` one for each; see :func:`by_tower`.

    Parts are those, at any depth, whose type has ``encoder_keys``, the arguments of
    theirs that it fills, and ``encoder_tower``, of which tower. Without vision tower
    the data preprocessor prepares images for another encoder: it has to say their
    normalisation itself, and gets no precision.

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
    towers = {_tower(part): part for part in tower_configs(model)}
    if encoder is None:
        _check_equal(parts, towers)
        return model
    said = by_tower(encoder)
    if not towers:
        raise ValueError(
            'model.encoder reaches no part: neither backbone nor text encoder takes a '
            'model.'
        )
    if 'vision' in encoder and 'vision' not in towers:
        raise ValueError(
            'model.encoder.vision reaches no part: the backbone, '
            f'{kind_of(model.get("backbone"))}, is configured by itself.'
        )
    for place, part in parts.items():
        tower = _tower(part)
        if tower in towers:
            where = f'model.encoder.{tower}' if tower in encoder else 'model.encoder'
            _give(said[tower], part, MODELS, place, where)
        elif 'model' not in part:
            if not {'mean', 'std'} <= part.keys():
                raise ValueError(
                    f'{place} would normalise images as CLIP does, for a backbone of '
                    f'type {kind_of(model.get("backbone"))}: set its mean and std (of '
                    '0 to 255, RGB) to those that the backbone was trained with.'
                )
            known = ('model', 'pretrained')
            part.update(
                {key: said['text'][key] for key in known if key in said['text']}
            )
    return model


def by_tower(encoder: Any) -> dict[str, dict[str, Any]]:
    """What ``model.encoder`` says of each of :data:`TOWERS`.

    What stands beside ``vision`` and ``text`` is of the tower that does not say it. A
    tower with a ``model`` of its own also says its ``pretrained`` and ``init_seed``.

    Raises:
        ValueError: It is no such dict, has an unknown key, or says what is of no tower.
    """
    own = {tower: {} for tower in TOWERS}
    if isinstance(encoder, Mapping):
        own.update({tower: encoder.get(tower) or {} for tower in TOWERS})
    if not isinstance(encoder, Mapping) or not all(
        isinstance(said, Mapping) and ('model' in said or 'model' in encoder)
        for said in own.values()
    ):
        raise ValueError(
            'model.encoder is a dict that names an open_clip `model`, as in '
            "dict(model='ViT-B-16-quickgelu', pretrained='openai'), or one for each of "
            f'`vision` and `text`, not {encoder!r}.'
        )
    for key in encoder:
        check_name('key of model.encoder', key, (*ENCODER_KEYS, *TOWERS))
    shared = {key: value for key, value in encoder.items() if key not in TOWERS}
    towers = {}
    for tower, said in own.items():
        for key in said:
            check_name(f'key of model.encoder.{tower}', key, ENCODER_KEYS)
        taken = shared
        if 'model' in said:
            taken = {k: v for k, v in shared.items() if k not in IDENTITY}
        towers[tower] = {**taken, **said}
    for key in shared:
        if not any(
            key not in said and ('model' not in said or key not in IDENTITY)
            for said in own.values()
        ):
            raise ValueError(
                f'model.encoder.{key} is of no tower, as both say their own: leave it '
                'out, where it is inherited by encoder=dict(_delete_=True, vision=..., '
                f'text=...), or set model.encoder.vision.{key} or .text.{key}.'
            )
    return towers


def with_encoder(parts: Mapping, encoder: Mapping | None) -> ConfigDict:
    """:func:`hand_over` of a model's arguments; towers of one open_clip model share it.

    Args:
        parts: The model's arguments but ``encoder``.
        encoder: That one. None: each tower builds its own model.
    """
    parts = hand_over(dict(parts, encoder=encoder))
    towers = tower_configs(parts)
    named = [{k: tower.get(k, _DEFAULTS[k]) for k in IDENTITY} for tower in towers]
    same = all(other == named[0] for other in named)
    takes = (
        inspect.signature(MODELS.get(tower['type'])).parameters for tower in towers
    )
    if encoder is not None and same and all('clip' in known for known in takes):
        clip = build_open_clip(**named[0])
        for tower in towers:
            tower['clip'] = clip
    return parts


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
    towers = {_tower(part): part for part in tower_configs(hand_over(model))}
    if not towers:
        return loader
    loader = copy.deepcopy(loader)
    for _, part in walk(loader):
        tower = _attribute(part, 'encoder_tower', TRANSFORMS)
        if tower is None or (tower not in towers and 'model' in part):
            continue  # prepares data for another encoder
        source = towers.get(tower) or next(iter(towers.values()))
        encoder = {key: source.get(key, _DEFAULTS[key]) for key in IDENTITY}
        _give(encoder, part, TRANSFORMS, kind_of(part), 'model.encoder')
    return loader


def tower_configs(model: Mapping) -> list[dict]:
    """Parts of a segmentor's config that keep a tower, those of vision first."""
    parts = [part for part in _parts(model).values() if is_tower(part)]
    return sorted(parts, key=lambda part: TOWERS.index(_tower(part)))  # stable


def _parts(model: Mapping) -> dict[str, dict]:
    """What an encoder fills, by its place."""
    return {path: part for path, part in walk(model, 'model') if _tower(part)}


def _tower(part: Mapping) -> str | None:
    return _attribute(part, 'encoder_tower')


def is_tower(part: Any) -> bool:
    """Whether a part, or anything else in a config, is a tower with its weights."""
    return 'init_seed' in (_attribute(part, 'encoder_keys') or ())


def _attribute(part: Any, name: str, registry: Registry = MODELS) -> Any:
    """An attribute of a part's type; None if it has no type, or that none."""
    kind = part.get('type') if isinstance(part, Mapping) else None
    if isinstance(kind, str):
        kind = registry.get(kind)
    return getattr(kind, name, None)


def _give(
    encoder: Mapping, part: dict, registry: Registry, place: str, where: str
) -> None:
    for key in _attribute(part, 'encoder_keys', registry):
        wanted = encoder.get(key, _DEFAULTS[key])
        if part.get(key, wanted) != wanted:
            raise ValueError(
                f"{place} says {key}={part[key]!r}, but the model's encoder has "
                f'{wanted!r}: leave {key} out of {place}; in a ZeroShotSegmentor '
                f'{where}.{key} sets it for all.'
            )
        if key in encoder:
            part[key] = encoder[key]


def _check_equal(parts: Mapping[str, Mapping], towers: Mapping[str, Mapping]) -> None:
    """Refuse unequal encoders of the parts of a segmentor without ``encoder``.

    Texts under a tower of timm are of another model by nature.
    """
    apart = is_timm(towers.get('vision', {}).get('model'))
    first: dict[tuple[str | None, str], tuple[str, Any]] = {}
    for place, part in parts.items():
        if 'vision' not in towers and not is_tower(part):
            continue
        for key in set(IDENTITY) & set(_attribute(part, 'encoder_keys')):
            value = part.get(key, _DEFAULTS[key])
            group = (_tower(part) if apart else None, key)
            other, wanted = first.setdefault(group, (place, value))
            if value != wanted:
                raise ValueError(
                    f'{place} has {key}={value!r}, but {other} {wanted!r}: '
                    'both need the same open_clip model.'
                )
