"""Settings that PyTorch and MMEngine take without a word, or refuse in other words."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

from pacl_mmseg.utils import check_name

ENVIRONMENT = ('cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit')
NUMBERS = ('lr', 'weight_decay')


def check_settings(cfg: Mapping[str, Any], env_cfg: Mapping[str, Any]) -> None:
    """Look at a config before anything is built.

    Args:
        cfg: All of it; its parts may be missing, or objects.
        env_cfg: The part ``env_cfg``.

    Raises:
        ValueError: A setting that cannot be in force, or would be ignored.
    """
    for name in env_cfg:
        check_name('env_cfg setting', name, ENVIRONMENT)
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = _part(cfg, name)
        ahead = loader.get('persistent_workers') or loader.get('prefetch_factor')
        if loader.get('num_workers') == 0 and ahead:
            raise ValueError(
                f'{name}.num_workers=0 leaves no worker to keep, or to load ahead: add '
                f'{name}.persistent_workers=False {name}.prefetch_factor=None.'
            )
    iterations = _part(cfg, 'train_cfg').get('max_iters', 1)
    if not isinstance(iterations, int) or iterations < 1:
        raise ValueError(
            f'train_cfg.max_iters is {iterations!r}: give a whole number from 1.'
        )
    optimizer = _part(_part(cfg, 'optim_wrapper'), 'optimizer')
    for name in NUMBERS:
        if not isinstance(optimizer.get(name, 0), Real):
            raise ValueError(
                f'optim_wrapper.optimizer.{name} is {optimizer[name]!r}: give a number.'
            )


def _part(cfg: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = cfg.get(name)
    return part if isinstance(part, Mapping) else {}
