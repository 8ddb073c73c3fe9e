"""Settings that could not be in force in a run, found before anything is built."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from numbers import Real
from typing import Any

import mmseg.registry
from mmengine.config import Config
from mmengine.registry import Registry
from mmengine.runner import LogProcessor, Runner
from torch.utils.data import DataLoader

from pacl_mmseg.registry import walk
from pacl_mmseg.utils import check_name, did_you_mean

_LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
# What takes the parts that need no type.
_UNTYPED = {
    **dict.fromkeys(_LOADERS, DataLoader),
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
_ENVIRONMENT = ('cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit')


def check_config(config: Config) -> None:
    """Compare every part of a config with the arguments of what it builds.

    A type that is not registered is left to MMEngine; so are arguments of what takes
    any, unless they are nearly those that it names. Values are looked at where PyTorch
    and MMEngine take wrong ones without a word, or refuse them in other words.

    Raises:
        ValueError: A setting is misspelt, or cannot be in force. The message says
            where, and the nearest one, or the remedy.
    """
    _check_values(config)
    # Not what a config only names for itself.
    used = {k: v for k, v in config.items() if k in (*_RUNNER, 'tta_model')}
    for path, part in walk(used):
        kind, (parent, _, name) = part.get('type'), path.rpartition('.')
        if kind is None and parent == 'default_hooks':
            raise ValueError(
                f'{path} has no type, which a new hook needs.'
                + did_you_mean(name, config.default_hooks.keys() - {name})
            )
        if 'init_cfg' in path.split('.'):  # MMEngine takes it apart in its own way
            continue
        untyped = kind is None and path in _UNTYPED
        takers = [_UNTYPED[path]] if untyped else _registered(kind)
        problems = [_problem(path, part, taker) for taker in takers]
        if problems and all(problems):
            raise ValueError(problems[0])


def _check_values(config: Config) -> None:
    for name in config.get('env_cfg') or ():
        check_name('env_cfg setting', name, _ENVIRONMENT)
    for name in _LOADERS:
        loader = config.get(name) or {}
        ahead = loader.get('persistent_workers') or loader.get('prefetch_factor')
        if loader.get('num_workers') == 0 and ahead:
            raise ValueError(
                f'{name}.num_workers=0 leaves no worker to keep, or to load ahead: add '
                f'{name}.persistent_workers=False {name}.prefetch_factor=None.'
            )
    iterations = (config.get('train_cfg') or {}).get('max_iters', 1)
    if not isinstance(iterations, int) or iterations < 1:
        raise ValueError(
            f'train_cfg.max_iters is {iterations!r}: give a whole number from 1.'
        )
    optimizer = (config.get('optim_wrapper') or {}).get('optimizer') or {}
    for name in ('lr', 'weight_decay'):
        if not isinstance(optimizer.get(name, 0), Real):
            raise ValueError(
                f'optim_wrapper.optimizer.{name} is {optimizer[name]!r}: give a number.'
            )


@functools.cache  # looking in all registries takes a while
def _registered(kind: Any) -> list:
    """All that a type may mean; its registry depends on who builds it."""
    if not isinstance(kind, str):
        return [kind] if inspect.isclass(kind) or inspect.isfunction(kind) else []
    registries = [r for r in vars(mmseg.registry).values() if isinstance(r, Registry)]
    found = [registry.get(kind) for registry in registries]
    return [taker for taker in found if taker is not None]


def _problem(path: str, part: Mapping, taker: Any) -> str | None:
    """Why it cannot be built of this part, or None."""
    if taker.__module__.startswith(_LAYERS):
        return None
    known, takes_any = _arguments(taker)
    for name in part.keys() - {*known, *_BUILDERS}:
        near = did_you_mean(name, known, 0.8 if takes_any else 0.6)
        if near or not takes_any:
            return f'{path}: {taker.__qualname__} has no option {name!r}.{near}'
    return None


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
