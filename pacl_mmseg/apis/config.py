"""Reading a config as the tools do."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction
from mmengine.runner import Runner

from pacl_mmseg.apis.checking import check_config
from pacl_mmseg.engine.runner import unformatted
from pacl_mmseg.models.encoder import hand_over
from pacl_mmseg.models.segmentors.decoding import Decoding
from pacl_mmseg.paths import CONFIGS, find_shipped
from pacl_mmseg.registry import kind_of
from pacl_mmseg.utils.names import did_you_mean

# Options of ``test_cfg`` that MMSeg's segmentors take.
MMSEG_DECODING = ('mode', 'crop_size', 'stride')
# What MMEngine's runner, MMSeg's tools and its inference look for in a config.
_READ = (
    *inspect.signature(Runner).parameters,
    *('runner_type', 'tta_model', 'tta_pipeline', 'find_unused_parameters', 'sync_bn'),
    *('model_wrapper_cfg', 'compile', 'custom_imports', 'test_pipeline'),
)


def load_config(path: str | Path, options: Mapping[str, Any] | None = None) -> Config:
    """Read a config file and apply ``--cfg-options`` to it.

    Args:
        path: Config file, or ``package::file``; see
            :func:`~pacl_mmseg.paths.find_shipped`.
        options: See :func:`apply_options`.

    Raises:
        FileNotFoundError: There is no such file; the message has the nearest names.
        ValueError: It is no config; or see :func:`apply_options`.
    """
    path = find_shipped(str(path))
    if '::' not in path and not Path(path).is_file():
        raise FileNotFoundError(f'There is no config {path}.{_nearest(path)}')
    try:
        config = unformatted(Config.fromfile(path))
    except (SyntaxError, NameError, LookupError, AttributeError, TypeError) as error:
        reason = f'{type(error).__name__}: {error}'
        raise ValueError(f'{path} cannot be read as a config: {reason}') from error
    apply_options(config, options)
    return config


def _nearest(path: str) -> str:
    """Ask whether one of the configs beside a missing one, or shipped, was meant."""
    known = [*Path(path).parent.glob('*.py')]
    shipped = (file.relative_to(CONFIGS.parent) for file in CONFIGS.rglob('*.py'))
    known += [file for file in shipped if '_base_' not in file.parts]
    stems = get_close_matches(Path(path).stem, {file.stem for file in known})
    alike = {str(file) for file in known if file.stem in stems}
    nearest = get_close_matches(path, alike, cutoff=0)
    return f' Did you mean {" or ".join(nearest)}?' if nearest else ''


def apply_options(config: Config, options: Mapping[str, Any] | None) -> None:
    """Change settings of a config, in place.

    Args:
        config: Any config.
        options: Dotted keys and their new values.

    Raises:
        ValueError: A key begins with what nothing reads, which would go unnoticed; or
            as :func:`check_encoder` and
            :func:`~pacl_mmseg.apis.checking.check_config`.
    """
    for key in options or {}:
        first = key.split('.')[0]
        if first == 'encoder':
            raise ValueError(f'--cfg-options {key}: its name is model.{key}.')
        if first in config and first not in _READ:
            raise ValueError(
                f'--cfg-options {key}: {first} is a variable of the config file, which '
                'has been used already: change what it went into, such as '
                'train_cfg.max_iters or train_dataloader.dataset.pipeline.'
            )
        if first not in _READ:
            raise ValueError(
                f'--cfg-options {key}: the config has no {first!r}.'
                + did_you_mean(first, _READ)
            )
    config.merge_from_dict(dict(options or {}))
    check_encoder(config)
    check_config(config)


def read_options(words: Sequence[str] | None) -> dict[str, Any]:
    """Read what stands behind ``--cfg-options``.

    As MMEngine's ``DictAction``: numbers, ``true``, ``None``, lists as ``[a, b]`` or
    ``a,b``, tuples as ``(a, b)``, nested. But that one deletes blanks and separates at
    commas in braces, so that no command, path or template with blanks gets through.
    Here what has blanks or braces is a text as it stands, and what is in quotes a text,
    whatever it is; so are quoted texts in lists.

    Args:
        words: ``key=value`` each.

    Returns:
        Dotted keys and values, for :func:`apply_options`.

    Raises:
        ValueError: A word has no ``=``, or a list is neither plain nor Python's.
    """
    options = {}
    for word in words or ():
        key, equals, text = word.partition('=')
        if not equals:
            raise ValueError(
                f'--cfg-options {word}: it has no "="; write key=value, no blank beside'
                ' the "=", and quotes around what has blanks.'
            )
        try:
            options[key] = _read_value(text.strip())
        except (ValueError, AssertionError) as error:
            raise ValueError(f'--cfg-options {word}: {error}.') from None
    return options


def _read_value(text: str) -> Any:
    plain = text.replace(', ', ',')
    if not set(' {"\'') & set(plain):
        return DictAction._parse_iterable(plain)
    if text[:1] in ('[', '(', '"', "'"):
        with suppress(SyntaxError, ValueError):
            value = ast.literal_eval(text)
            alone = text[0] == '(' and not isinstance(value, tuple)
            return (value,) if alone else value  # as MMEngine
        raise ValueError(
            'its brackets or quotes do not match, or a text in it that has blanks, '
            "braces or quotes has no quotes around it, as in \"['a b', '{}.']\""
        )
    return text


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
    if kind_of(model) == 'EncoderDecoder':
        foreign = ['encoder'] if model.get('encoder') else []
        own = {option.name for option in fields(Decoding)} - set(MMSEG_DECODING)
        foreign += [f'test_cfg.{k}' for k in model.get('test_cfg') or () if k in own]
        if foreign:
            raise ValueError(
                f"MMSeg's EncoderDecoder does not take {', '.join(foreign)}: inherit "
                'from configs/pacl_voc20_stock.py, where data_preprocessor, backbone '
                'and decode_head.text_encoder say model and pretrained themselves, or '
                'use a ZeroShotSegmentor.'
            )
    hand_over(model)
