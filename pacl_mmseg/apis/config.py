"""Reading a config as the tools do."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from pacl_mmseg.engine.runner import unformatted
from pacl_mmseg.utils.names import did_you_mean

ENCODERS = ('PACLBackbone', 'OpenCLIPTextEncoder')
# What MMEngine's runner and MMSeg's tools look for in a config.
_RUNNER_KEYS = (
    *inspect.signature(Runner).parameters,
    *('runner_type', 'tta_model', 'tta_pipeline', 'find_unused_parameters', 'sync_bn'),
    *('model_wrapper_cfg', 'compile', 'custom_imports'),
)
# What of the encoder else it concerns, and in which keys.
PREPROCESSORS = {
    'CLIPDataPreProcessor': ('model', 'pretrained', 'dtype'),
    'CLIPResizeCrop': ('model', 'pretrained'),
    'TokenizeCaption': ('model',),
}


def load_config(path: str, options: Mapping[str, Any] | None = None) -> Config:
    """Read a config file and apply ``--cfg-options`` to it.

    Args:
        path: Config file, or ``package::file``.
        options: See :func:`apply_options`.
    """
    config = unformatted(Config.fromfile(path))
    apply_options(config, options)
    return config


def apply_options(config: Config, options: Mapping[str, Any] | None) -> None:
    """Change settings of a config, in place.

    Configs of this package state the CLIP model once, as ``encoder = dict(model=...,
    pretrained=...)``, and hand it to every part that needs it. An option that changes
    ``encoder`` afterwards, such as ``encoder.pretrained=weights.pt``, is passed on to
    those parts here, so that it too is stated once.

    Args:
        config: Any config.
        options: Dotted keys and their new values.

    Raises:
        ValueError: A key begins with what is neither in the config nor known to
            MMEngine, which would go unnoticed.
    """
    if not options:
        return
    for key in options:
        first = key.split('.')[0]
        known = {*config.keys(), *_RUNNER_KEYS}
        if first not in known:
            raise ValueError(
                f'--cfg-options {key}: the config has no {first!r}.'
                + did_you_mean(first, sorted(known))
            )
    config.merge_from_dict(dict(options))
    changed = {
        key.split('.')[1]: config.encoder[key.split('.')[1]]
        for key in options
        if key.startswith('encoder.')
    }
    for name, part in typed(config._cfg_dict):
        if name in ENCODERS:
            part.update(changed)
        elif name in PREPROCESSORS:
            part.update({k: changed[k] for k in PREPROCESSORS[name] if k in changed})


def typed(node: Any) -> Iterator[tuple[str, dict]]:
    """Every dict in a config, outermost first, and its type without a scope."""
    if isinstance(node, dict):
        yield kind_of(node), node
        children = node.values()
    else:
        children = node if isinstance(node, (list, tuple)) else ()
    for child in children:
        yield from typed(child)


def kind_of(part: Mapping | None) -> str:
    """The type of a part of a config, without its scope; 'None' if it has none."""
    return str((part or {}).get('type')).split('.')[-1]
