"""The registries this package adds its types to: MMSegmentation's own.

Registering into ``mmseg``'s registries, not a scope of our own, lets every
type be named without a prefix in any MMSeg config. A config needs one line::

    custom_imports = dict(imports=['pacl_mmseg'], allow_failed_imports=False)

Collate functions go into MMEngine's ``FUNCTIONS``; MMSegmentation has none of its own.

MMEngine marks what a config inherits as ``pacl_mmseg::file`` with
``_scope_='pacl_mmseg'``, and looks for its types in registries of that scope. Ours are
empty, but children of MMSeg's, where the types are found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import mmseg.registry
from mmengine.registry import FUNCTIONS, Registry
from mmseg.registry import (
    DATA_SAMPLERS,
    DATASETS,
    HOOKS,
    LOOPS,
    METRICS,
    MODELS,
    RUNNERS,
    TRANSFORMS,
)

__all__ = [
    'DATASETS',
    'DATA_SAMPLERS',
    'FUNCTIONS',
    'HOOKS',
    'LOOPS',
    'METRICS',
    'MODELS',
    'RUNNERS',
    'TRANSFORMS',
    'kind_of',
    'register_at_root',
    'walk',
]

for _registry in vars(mmseg.registry).values():
    if isinstance(_registry, Registry):
        Registry(
            _registry.name,
            parent=_registry,
            scope='pacl_mmseg',
            locations=['pacl_mmseg'],
        )


def register_at_root() -> None:
    """Add this package's types to MMEngine's own registries, too.

    There they are found without a prefix whatever the scope, such as mmpretrain's.
    """
    for registry in vars(mmseg.registry).values():
        for name, kind in getattr(registry, 'module_dict', {}).items():
            if kind.__module__.startswith('pacl_mmseg.'):
                registry.parent.register_module(name, force=True, module=kind)


def walk(node: Any, path: str = '') -> Iterator[tuple[str, dict]]:
    """Every dict in a config, outermost first, and its path as options write it."""
    if isinstance(node, dict):
        yield path, node
        children = node.items()
    else:
        children = enumerate(node) if isinstance(node, (list, tuple)) else ()
    for name, child in children:
        yield from walk(child, f'{path}.{name}' if path else str(name))


def kind_of(part: Mapping | None) -> str:
    """The type of a part of a config, without its scope; 'None' if it has none."""
    kind = (part or {}).get('type')
    return getattr(kind, '__name__', str(kind)).split('.')[-1]
