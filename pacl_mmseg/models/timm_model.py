"""Building timm's vision towers: by name and tag, or from a local file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import timm
import torch
from timm.data import resolve_data_config
from timm.models import get_pretrained_cfg, split_model_name_tag
from torch import nn

from pacl_mmseg.models.open_clip_weights import read_weights
from pacl_mmseg.utils.hub import hub
from pacl_mmseg.utils.names import check_name, did_you_mean

PREFIX = 'timm/'


def is_timm(model: str | Mapping | None) -> bool:
    """Whether a model's name says that it is one of timm."""
    return isinstance(model, str) and model.startswith(PREFIX)


def timm_preprocess_config(model: str, pretrained: str | None) -> dict[str, Any]:
    """What images timm's weights were trained with; see ``preprocess_config``.

    timm crops less than the whole short side where it evaluates classifiers; that is
    left out.
    """
    data = resolve_data_config(pretrained_cfg=timm_record(model, pretrained))
    height, width = data['input_size'][1:]
    return dict(
        size=height if height == width else (height, width),
        mode='RGB',
        mean=data['mean'],
        std=data['std'],
        interpolation=data['interpolation'],
        resize_mode='shortest',
        fill_color=0,
    )


def build_timm(
    model: str, pretrained: str | None = None, init_seed: int = 0, **options: Any
) -> nn.Module:
    """Build a timm model whose weights all come from one place, with its classifier.

    Args:
        model: ``'timm/NAME'`` or ``'timm/NAME.TAG'``, of ``timm.list_pretrained()``.
            The tag decides how images are normalised.
        pretrained: That tag, whose weights are fetched; the path of a local file of
            them, in timm's layout or one that timm converts, such as DINO's own; or
            None for random weights.
        init_seed: Seed of the random weights.
        options: Other arguments of the model.

    Raises:
        ValueError: Unknown model or tag, two tags, or a file of which nobody says how
            its images are normalised; or a model that does not take the options.
        RuntimeError: The weights cannot be fetched, or do not fit.
    """
    record = timm_record(model, pretrained)
    name = '.'.join(filter(None, (record['architecture'], record.get('tag'))))
    is_file = _is_file(pretrained)
    if record.get('fixed_input_size'):  # a transformer: any size, if it can
        options['dynamic_img_size'] = True
    source = {}
    if is_file:
        try:
            # Read here, with nothing executed, whatever the version of timm.
            weights = read_weights(os.path.expanduser(pretrained))
        except Exception as error:  # damaged files raise nearly anything
            raise _misfit(model, pretrained, error) from error
        source = dict(pretrained_cfg_overlay=dict(state_dict=weights))
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(init_seed)
            # Without num_classes: so timm wants every weight to be there.
            with nullcontext() if is_file or pretrained is None else hub():
                trunk = timm.create_model(
                    name, pretrained=pretrained is not None, **source, **options
                )
    except TypeError as error:
        raise ValueError(
            f'{model} cannot be built for images of any size: {error}.'
        ) from error
    except Exception as error:  # network, hub and file errors of many types
        if is_file:
            raise _misfit(model, pretrained, error) from error
        url = record.get('url') or f'hf.co/{record.get("hf_hub_id")}'
        raise RuntimeError(
            f'The {pretrained!r} weights of {model} could not be fetched '
            f'({type(error).__name__}); download them on a machine with internet '
            f'access ({url}) and set `pretrained` to the path of the file.'
        ) from error
    for key in ('pretrained_cfg', 'default_cfg'):
        setattr(trunk, key, record)  # without the file's tensors
    if not all(value.isfinite().all() for value in trunk.parameters()):
        raise RuntimeError(f'{pretrained} of {model} holds values that are not finite.')
    return trunk


def timm_record(model: str, pretrained: str | None) -> dict[str, Any]:
    """What timm records of a model's weights: where they are, their images, ...

    Raises:
        ValueError: As :func:`build_timm`.
    """
    if not is_timm(model):
        raise ValueError(
            f'{model} is no name of a timm model; those begin with {PREFIX!r}, as in '
            "'timm/vit_base_patch16_224.dino'. Of an open_clip model the backbone is a "
            'PACLBackbone or CLIPResNet.'
        )
    name, tag = split_model_name_tag(model.removeprefix(PREFIX))
    if not timm.is_model(name):
        raise ValueError(
            f'timm has no model {name!r}; timm.list_models() has all.'
            + did_you_mean(name, timm.list_models())
        )
    found = timm.list_pretrained(f'{name}.*')
    tags = list(dict.fromkeys(split_model_name_tag(entry)[1] for entry in found))
    if tag:
        check_name(f'pretrained tag of {name}', tag, tags)
    if pretrained is not None and not _is_file(pretrained):
        check_name(f'file or pretrained tag of {name}', pretrained, tags)
        if tag not in ('', pretrained):
            raise ValueError(
                f'{model} names the weights {tag!r}, but pretrained={pretrained!r}: '
                'name the same ones.'
            )
        tag = pretrained
    records = {
        each: get_pretrained_cfg(f'{name}.{each}'.rstrip('.')).to_dict()
        for each in tags or ['']
    }
    if _is_file(pretrained) and not tag:
        normalised = {(tuple(r['mean']), tuple(r['std'])) for r in records.values()}
        if len(normalised) > 1:
            raise ValueError(
                f"timm's weights of {name} differ in how images are normalised: name "
                f"those that {pretrained} holds, as in '{model}.{tags[0]}'; there are "
                f'{", ".join(tags)}.'
            )
    return records[tag or tags[0]] if tags else records['']


def _is_file(pretrained: str | None) -> bool:
    return pretrained is not None and os.path.isfile(os.path.expanduser(pretrained))


def _misfit(model: str, path: str, error: Exception) -> RuntimeError:
    lines = [line.strip() for line in str(error).splitlines()]
    # PyTorch names what is wrong in the second line.
    reason = ' '.join(lines[:2])[:300].rstrip('.') or type(error).__name__
    return RuntimeError(
        f'{path} does not hold weights of {model}: {reason}. Give the weights file '
        'that belongs to this model, or the model that belongs to the file.'
    )
