"""Building open_clip models: by name and tag, from a local file, or inline."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any

import open_clip
import torch
from open_clip.hf_configs import arch_dict
from open_clip.model import CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP
from open_clip.tokenizer import HFTokenizer

from pacl_mmseg.models.open_clip_weights import load_weights
from pacl_mmseg.models.timm_model import is_timm, timm_preprocess_config
from pacl_mmseg.utils.hub import hub
from pacl_mmseg.utils.names import check_name, did_you_mean

# Its table of text towers lacks T5, whose names are those of mT5, which it has.
arch_dict.setdefault('t5', arch_dict['mt5'])

# What open_clip knows of an architecture and no part here goes by, and why.
_WITHOUT_EFFECT = dict(
    patch_dropout='every patch is encoded',
    output_tokens='tokens are taken from the blocks',
    output_dict='towers run apart',
    cast_dtype='dtype says the precision',
    init_logit_bias='scores are cosines',
)


def model_config(model: str | Mapping) -> dict[str, Any]:
    """The architecture of an open_clip model.

    Args:
        model: A name of ``open_clip.list_models()``, or the architecture itself as a
            dict of ``embed_dim``, ``vision_cfg`` and ``text_cfg`` (what open_clip's
            ``model_configs/*.json`` hold).

    Raises:
        ValueError: The name is unknown; the message gives the nearest one. Or the
            architecture lacks a part, or has a setting that nothing here goes by.
    """
    if isinstance(model, Mapping):
        config = {k: dict(v) if isinstance(v, Mapping) else v for k, v in model.items()}
        config.pop('custom_text', None)  # here towers always are apart
        _check_architecture(config)
        return config
    if is_timm(model):
        raise ValueError(
            f'{model} is a vision tower alone: name it in model.encoder.vision, with a '
            'backbone of type TimmTower, and an open_clip model for the texts in '
            'model.encoder.text.'
        )
    config = open_clip.get_model_config(model)
    if config is None:
        raise ValueError(
            f'open_clip has no model {model!r}; open_clip.list_models() has all.'
            + did_you_mean(model, open_clip.list_models())
        )
    return config


def preprocess_config(
    model: str | Mapping, pretrained: str | None = None
) -> dict[str, Any]:
    """The image preprocessing that the encoder was trained with.

    Returns:
        ``size`` (pixels), ``mean`` and ``std`` (RGB, in 0..1), ``interpolation``
        and ``resize_mode``, as open_clip's ``PreprocessCfg`` names them. A tag's own
        values win over open_clip's defaults. Of a timm model, timm's.
    """
    if is_timm(model):
        return timm_preprocess_config(model, pretrained)
    values = vars(open_clip.transform.PreprocessCfg()).copy()
    values['size'] = model_config(model)['vision_cfg'].get('image_size', 224)
    if isinstance(model, str) and pretrained is not None:
        tag = open_clip.get_pretrained_cfg(model, pretrained)
        values.update({k: v for k, v in tag.items() if k in values and v is not None})
    return values


def build_open_clip(
    model: str | Mapping, pretrained: str | None = None, init_seed: int = 0
) -> CustomTextCLIP:
    """Build an open_clip model with separate ``visual`` and ``text`` towers.

    Args:
        model: Model name, or an inline architecture (see :func:`model_config`).
        pretrained: A pretrained tag of that model, the path of a local weights file,
            or None for random weights.
        init_seed: Seed of the random weights, so that two processes that build the
            same model without weights get the same one.

    Raises:
        ValueError: Unknown model or tag.
        RuntimeError: The weights cannot be fetched or do not fit the architecture; or
            the text tower is one of ``transformers``, which is not installed.
    """
    config = model_config(model)
    name = model if isinstance(model, str) else 'the inline architecture'
    is_file = pretrained is not None and os.path.isfile(os.path.expanduser(pretrained))
    if pretrained is not None and not is_file:
        _check_tag(model, pretrained)
        try:
            with hub():
                return open_clip.create_model(
                    model, pretrained=pretrained, force_custom_text=True
                )
        except Exception as error:  # network, hub and file errors of many types
            # open_clip's own says no more than that.
            kind = type(error).__name__
            reason = '' if type(error) is RuntimeError else f' ({kind})'
            raise RuntimeError(
                f'The {pretrained!r} weights of {name} could not be fetched{reason}; '
                'on a machine with internet access run `python -c "import open_clip; '
                f'open_clip.create_model({name!r}, pretrained={pretrained!r})"` and '
                'copy its cache, or give a local weights file: as pretrained '
                '(--pretrained), in a config as model.encoder.pretrained.'
            ) from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(init_seed)
        if isinstance(model, str):
            clip = open_clip.create_model(
                model, force_custom_text=True, pretrained_text=False
            )
        else:
            try:
                clip = CustomTextCLIP(**config)
            except OSError as error:  # of transformers: the hub, a folder, its files
                text = config['text_cfg'].get('hf_model_name')
                raise RuntimeError(
                    f'The text tower {text} could not be had ({type(error).__name__}): '
                    'download it on a machine with internet access, and set '
                    "text_cfg's hf_model_name and hf_tokenizer_name to its folder."
                ) from error
    if is_file:
        try:
            load_weights(clip, os.path.expanduser(pretrained))
        except Exception as error:  # damaged files raise nearly anything
            reason = str(error).strip() or type(error).__name__
            raise RuntimeError(
                f'{pretrained} does not hold weights of {name}: '
                f'{reason.splitlines()[0].rstrip(".")}. Give the weights file that '
                'belongs to this model, or the model that belongs to the file.'
            ) from error
    return clip


def build_tokenizer(model: str | Mapping) -> Callable[[list[str]], torch.Tensor]:
    """The tokenizer of an open_clip model.

    Returns:
        What makes token ids, int64 ``(N, context length)``, of N texts.

    Raises:
        ValueError: The name is unknown.
    """
    config = model_config(model)
    if isinstance(model, str):
        return open_clip.get_tokenizer(model)
    text = config['text_cfg']
    options = dict(text.get('tokenizer_kwargs') or {})
    options['context_length'] = text.get('context_length', 77)
    if text.get('hf_tokenizer_name'):
        mode = text.get('tokenizer_mode')
        return HFTokenizer(text['hf_tokenizer_name'], tokenizer_mode=mode, **options)
    return open_clip.SimpleTokenizer(**options)


def check_named(transform: object, model: str | Mapping | None) -> None:
    """Complain about a data transform that was not told for which model it works."""
    if model is None:
        raise ValueError(
            f'{type(transform).__name__} prepares data for an open_clip model: run the '
            "config by runner_type='ContrastivePretrainRunner', which gives it that of "
            'model.encoder, or set its `model`.'
        )


def describe(model: str | Mapping, pretrained: str | None, init_seed: int) -> str:
    """One short phrase that names an encoder, for logs and error messages."""
    name = model if isinstance(model, str) else 'inline architecture'
    if pretrained is not None:
        return f'{name} ({os.path.normpath(pretrained)})'
    own = name.startswith(('hf-hub:', 'local-dir:'))  # such a name brings weights along
    return name if own else f'{name} (random weights, seed {init_seed})'


def _check_architecture(config: Mapping) -> None:
    parts = {
        'an architecture': (config, inspect.signature(CustomTextCLIP).parameters),
        'vision_cfg': (config.get('vision_cfg'), CLIPVisionCfg.__dataclass_fields__),
        'text_cfg': (config.get('text_cfg'), CLIPTextCfg.__dataclass_fields__),
    }
    for part, (settings, known) in parts.items():
        if not isinstance(settings, Mapping) or 'embed_dim' not in config:
            raise ValueError(
                'An inline architecture is a dict of embed_dim, vision_cfg and '
                f'text_cfg, the last two dicts; this one has {", ".join(config)}.'
            )
        for key, value in settings.items():
            check_name(f'key of {part}', key, known)
            if value and key in _WITHOUT_EFFECT:
                raise ValueError(
                    f'{key}={value!r} of {part} would have no effect here, where '
                    f'{_WITHOUT_EFFECT[key]}: leave it out.'
                )


def _check_tag(model: str | Mapping, pretrained: str) -> None:
    if not isinstance(model, str):
        raise ValueError(
            f'{pretrained} is not a file: an inline architecture takes the path of a '
            'local weights file, or None for random weights.'
        )
    tags = open_clip.list_pretrained_tags_by_model(model)
    if pretrained.lower().replace('-', '_') not in tags:
        check_name(f'file or pretrained tag of {model}', pretrained, tags)
