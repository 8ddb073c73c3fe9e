"""Reading a config as the tools do."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from pacl_mmseg.engine.runner import unformatted
from pacl_mmseg.models.encoder import hand_over
from pacl_mmseg.registry import kind_of
from pacl_mmseg.utils.names import did_you_mean

# What MMEngine's runner and MMSeg's tools look for in a config.
_RUNNER_KEYS = (
    *inspect.signature(Runner).parameters,
    *('runner_type', 'tta_model', 'tta_pipeline', 'find_unused_parameters', 'sync_bn'),
    *('model_wrapper_cfg', 'compile', 'custom_imports'),
)


def load_config(path: str, options: Mapping[str, Any] | None = None) -> Config:
    """Read a config file and apply ``--cfg-options`` to it.

    Args:
        path: Config file, or ``package::file``.
        options: See :func:`apply_options`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no config; or see :func:`apply_options`.
    """
    try:
        config = unformatted(Config.fromfile(path))
    except (SyntaxError, NameError, LookupError, AttributeError, TypeError) as error:
        reason = f'{type(error).__name__}: {error}'
        raise ValueError(f'{path} cannot be read as a config: {reason}') from error
    apply_options(config, options)
    return config


def apply_options(config: Config, options: Mapping[str, Any] | None) -> None:
    """Change settings of a config, in place.

    Args:
        config: Any config.
        options: Dotted keys and their new values.

    Raises:
        ValueError: A key begins with what is neither in the config nor known to
            MMEngine, which would go unnoticed; or as :func:`check_encoder`.
    """
    for key in options or {}:
        first = key.split('.')[0]
        if first == 'encoder':
            raise ValueError(f'--cfg-options {key}: its name is model.{key}.')
        known = {*config.keys(), *_RUNNER_KEYS}
        if first not in known:
            raise ValueError(
                f'--cfg-options {key}: the config has no {first!r}.'
                + did_you_mean(first, sorted(known))
            )
    config.merge_from_dict(dict(options or {}))
    check_encoder(config)


def check_encoder(config: Config) -> None:
    """Look whether a config's encoder would be in force in every part of its model.

    Raises:
        ValueError: It is said beside the model, or by parts, unequally.
    """
    if 'encoder' in config:
        raise ValueError(
            'The config has a top-level `encoder`, which no part of the model sees: '
            'write model = dict(encoder=dict(...)), and leave model, pretrained, '
            'dtype and compile out of its parts.'
        )
    model = config.get('model')
    if not isinstance(model, Mapping):
        return
    if model.get('encoder') and kind_of(model) == 'EncoderDecoder':
        raise ValueError(
            "model.encoder is for a ZeroShotSegmentor; in MMSeg's EncoderDecoder "
            'data_preprocessor, backbone and decode_head.text_encoder say model and '
            'pretrained themselves.'
        )
    hand_over(model)
