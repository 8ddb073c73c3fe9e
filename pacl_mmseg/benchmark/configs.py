"""The config of any method on any benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config, ConfigDict

from pacl_mmseg.apis.config import apply_options, load_config
from pacl_mmseg.benchmark.methods import (
    CLASSIFIERS,
    ENCODERS,
    HAVE,
    IMAGE_LEVEL,
    METHODS,
    Method,
)
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
    encoder: str = ENCODERS[0],
) -> Config:
    """The config of a method on a benchmark.

    ``compose('pacl', benchmark)`` tests what ``configs/pacl_<benchmark>.py`` does.

    Args:
        method: One of :data:`METHODS`, or on whole images of :data:`CLASSIFIERS`.
        benchmark: One of :data:`BENCHMARKS` or :data:`IMAGE_LEVEL`; the latter and
            ``'small_world'`` have the protocols of their own configs.
        protocol: One of :data:`~pacl_mmseg.benchmark.protocols.PROTOCOLS`.
        options: Changes after that, as ``--cfg-options`` makes them.
        encoder: One of :data:`ENCODERS`, of a real benchmark.

    Raises:
        ValueError: Unknown name; the message suggests the nearest. Or the encoder lacks
            what the method takes of it.
    """
    check_name('encoder', encoder, ENCODERS)
    if benchmark in IMAGE_LEVEL:
        check_name('method for whole images', method, CLASSIFIERS)
        if benchmark.startswith(SMALL_WORLD):
            _check_own_encoder(encoder)
        _check_encoder(method, CLASSIFIERS, encoder)
        path = str(CONFIGS / IMAGE_LEVEL[benchmark])
        cfg = load_config(path, CLASSIFIERS[method].options)
        _use_encoder(cfg.model, encoder)
        apply_options(cfg, options)
        return cfg
    check_name('method', method, METHODS)
    check_name('benchmark', benchmark, BENCHMARKS)
    if benchmark == SMALL_WORLD:
        _check_own_encoder(encoder)
        return load_config(str(CONFIGS / SMALL_WORLD / f'{method}.py'), options)
    _check_encoder(method, METHODS, encoder)
    bases = [
        CONFIGS / '_base_' / 'models' / f'{method}_vitb16.py',
        CONFIGS / '_base_' / 'datasets' / f'{benchmark}.py',
        CONFIGS / '_base_' / 'default_runtime.py',
    ]
    cfg = Config.fromstring(f'_base_ = {[str(path) for path in bases]}\n', '.py')
    cfg = unformatted(cfg)
    _use_encoder(cfg.model, encoder)
    apply_protocol(cfg, protocol, benchmark)
    apply_options(cfg, options)
    return cfg


def _check_own_encoder(encoder: str) -> None:
    if encoder != ENCODERS[0]:
        raise ValueError(f'{SMALL_WORLD} has its own encoder: leave --encoder out.')


def _check_encoder(method: str, known: Mapping[str, Method], encoder: str) -> None:
    takes = known[method].takes
    if encoder not in HAVE[takes]:
        able = [name for name, other in known.items() if encoder in HAVE[other.takes]]
        raise ValueError(
            f'{method} takes {takes}, which {encoder} does not have: {encoder} runs '
            f'{", ".join(able)}, and {method} runs on {", ".join(HAVE[takes])}.'
        )


def _use_encoder(model: ConfigDict, encoder: str) -> None:
    """Put another encoder into a method's model, in place.

    As ``pacl_<encoder>.py`` has it, and over that what the method changes in PACL's
    backbone.
    """
    if encoder == ENCODERS[0]:
        return
    theirs, ours = (
        Config.fromfile(CONFIGS / '_base_' / 'models' / f'pacl_{name}.py').model
        for name in (encoder, ENCODERS[0])
    )
    changed = {k: v for k, v in model.backbone.items() if ours.backbone.get(k) != v}
    model.encoder = theirs.encoder
    model.backbone = ConfigDict(theirs.backbone, **changed)
    if model.get('neck'):
        sizes = ('in_channels', 'out_channels')
        model.neck.update({name: theirs.neck[name] for name in sizes})
