"""Settings that no part of a run would take, found before anything is built."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import mmseg.registry
from mmengine.config import Config
from mmengine.registry import Registry
from mmengine.runner import LogProcessor, Runner
from torch.utils.data import DataLoader

from pacl_mmseg.registry import walk
from pacl_mmseg.utils import did_you_mean

# What takes the parts that need no type.
_UNTYPED = {
    **dict.fromkeys(('train_dataloader', 'val_dataloader'), DataLoader),
    'test_dataloader': DataLoader,
    'randomness': Runner.set_randomness,
    'log_processor': LogProcessor,
}
# What MMEngine takes out of a part before it builds it.
_BUILDERS = (
    *('type', '_scope_', 'constructor', 'paramwise_cfg', 'num_batch_per_epoch'),
    *('convert_to_iter_based', 'epoch_length', 'priority'),
)
# Where layers come from, which MMCV builds in ways of its own.
_LAYERS = ('torch.nn', 'mmcv.cnn', 'mmcv.ops', 'mmengine.utils')
_RUNNER = inspect.signature(Runner).parameters
_FOUND: dict[str, list] = {}  # looking in all registries takes a while
_NEAR = 0.8  # as alike as a name and its misspelling are


def check_config(config: Config) -> None:
    """Compare every part of a config with the arguments of what it builds.

    A type that is not registered is left to MMEngine, unless it is a misspelt one; so
    are arguments of what takes any.

    Raises:
        ValueError: A setting is misspelt. The message says where, and the nearest one.
    """
    if config.get('default_scope', 'mmseg') != 'mmseg':
        return  # other registries
    hooks = config.get('default_hooks') or {}
    for name, hook in hooks.items():
        if isinstance(hook, dict) and 'type' not in hook:
            known = [n for n, other in hooks.items() if other is not hook]
            raise ValueError(
                f'default_hooks.{name} has no type, which a new hook needs.'
                + did_you_mean(name, known)
            )
    # Not what a config only names for itself.
    used = {k: v for k, v in config.items() if k in (*_RUNNER, 'tta_model')}
    for path, part in walk(used):
        kind = part.get('type')
        if kind is None and path not in _UNTYPED:
            continue
        if 'init_cfg' in path.split('.'):  # MMEngine takes it apart in its own way
            continue
        takers = [_UNTYPED[path]] if kind is None else _registered(kind)
        problems = [_problem(path, part, taker) for taker in takers]
        if problems and all(problems):
            raise ValueError(problems[0])
        if not problems and isinstance(kind, str):
            near = did_you_mean(kind.rpartition('.')[2], _names(), _NEAR)
            if near:
                raise ValueError(f'{path}.type: there is no {kind!r}.{near}')


def _registries() -> list[Registry]:
    return [r for r in vars(mmseg.registry).values() if isinstance(r, Registry)]


def _registered(kind: Any) -> list:
    """All that a type may mean; its registry depends on who builds it."""
    if not isinstance(kind, str):
        return [kind] if inspect.isclass(kind) or inspect.isfunction(kind) else []
    if kind not in _FOUND:
        found = [registry.get(kind) for registry in _registries()]
        found = [taker for taker in found if taker is not None]
        if not found:  # yet
            return []
        _FOUND[kind] = found
    return _FOUND[kind]


def _names() -> set[str]:
    families = [registry for r in _registries() for registry in (r, r.parent) if r]
    return {name for registry in families for name in registry.module_dict}


def _problem(path: str, part: Mapping, taker: Any) -> str | None:
    """Why it cannot be built of this part, or None."""
    if taker.__module__.startswith(_LAYERS):
        return None
    known, takes_any = _arguments(taker)
    for name in part.keys() - {*known, *_BUILDERS}:
        near = did_you_mean(name, known, _NEAR if takes_any else 0.6)
        if near or not takes_any:
            return f'{path}: {taker.__qualname__} has no option {name!r}.{near}'
    return None


@functools.cache
def _arguments(taker: Any) -> tuple[set[str], bool]:
    """Arguments of a function or class, and whether it takes others too."""
    if inspect.isclass(taker):
        functions = [c.__init__ for c in taker.__mro__ if '__init__' in vars(c)]
    else:
        functions = [taker]
    known: set[str] = set()
    for function in functions:
        own = inspect.signature(function).parameters
        known.update(own)
        if not any(p.kind is p.VAR_KEYWORD for p in own.values()):
            return known, False
    return known, True
