"""The config of any method on any benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from pacl_mmseg.apis.config import apply_options, load_config
from pacl_mmseg.benchmark.methods import METHODS
from pacl_mmseg.benchmark.protocols import REAL_BENCHMARKS, apply_protocol
from pacl_mmseg.engine.runner import unformatted
from pacl_mmseg.paths import CONFIGS
from pacl_mmseg.utils.names import check_name

SMALL_WORLD = 'small_world'
BENCHMARKS = (*REAL_BENCHMARKS, SMALL_WORLD)


def compose(
    method: str,
    benchmark: str,
    protocol: str = 'sclip',
    options: Mapping[str, Any] | None = None,
) -> Config:
    """The config of a method on a benchmark.

    ``compose('pacl', benchmark)`` tests what ``configs/pacl_<benchmark>.py`` does.

    Args:
        method: One of :data:`METHODS`.
        benchmark: One of :data:`BENCHMARKS`. ``'small_world'`` has the protocol of its
            own configs.
        protocol: One of :data:`~pacl_mmseg.benchmark.protocols.PROTOCOLS`.
        options: Changes after that, as ``--cfg-options`` makes them.

    Raises:
        ValueError: Unknown name; the message suggests the nearest.
    """
    check_name('method', method, METHODS)
    check_name('benchmark', benchmark, BENCHMARKS)
    if benchmark == SMALL_WORLD:
        return load_config(str(CONFIGS / SMALL_WORLD / f'{method}.py'), options)
    bases = [
        CONFIGS / '_base_' / 'models' / f'{method}_vitb16.py',
        CONFIGS / '_base_' / 'datasets' / f'{benchmark}.py',
        CONFIGS / '_base_' / 'default_runtime.py',
    ]
    cfg = Config.fromstring(f'_base_ = {[str(path) for path in bases]}\n', '.py')
    cfg = unformatted(cfg)
    apply_protocol(cfg, protocol, benchmark)
    apply_options(cfg, options)
    return cfg
