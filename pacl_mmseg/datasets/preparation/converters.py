"""The converter of each benchmark that needs one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pacl_mmseg.datasets.preparation.ade20k_full import convert_ade847
from pacl_mmseg.datasets.preparation.cityscapes import convert_cityscapes
from pacl_mmseg.datasets.preparation.coco import convert_coco_object, convert_coco_stuff
from pacl_mmseg.datasets.preparation.layout import Layout, dataset_config
from pacl_mmseg.datasets.preparation.pascal_context import (
    convert_context,
    convert_context459,
)
from pacl_mmseg.datasets.preparation.writing import Summary

CONVERTERS: dict[str, Callable[..., Summary]] = dict(
    context59=convert_context,
    context60=convert_context,
    coco_object=convert_coco_object,
    coco_stuff171=convert_coco_stuff,
    cityscapes=convert_cityscapes,
    ade847=convert_ade847,
    pc459=convert_context459,
)
"""Benchmarks whose official download is not what their config loads."""


def prepare_benchmark(
    benchmark: str, source: str | Path | None = None, **options: Any
) -> Summary:
    """Convert a benchmark's official download to what its config loads.

    Only the validation split is converted. See the converter in :data:`CONVERTERS` for
    what it raises.

    Args:
        benchmark: One of :data:`CONVERTERS`.
        source: Where the official annotations lie, if not where ``docs/datasets.md``
            puts them.
        **options: ``nproc`` and ``overwrite``, as for
            :func:`~pacl_mmseg.datasets.preparation.writing.write_images`.

    Raises:
        ValueError: There is no such benchmark, or nothing to convert.
    """
    layout = Layout.of(dataset_config(benchmark))
    if benchmark not in CONVERTERS:
        raise ValueError(f'{benchmark} is loaded as downloaded: nothing to convert.')
    return CONVERTERS[benchmark](layout, source and Path(source), **options)
