"""The converter of each benchmark that needs one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pacl_mmseg.datasets.preparation.ade20k_full import ade847_jobs
from pacl_mmseg.datasets.preparation.cityscapes import cityscapes_jobs
from pacl_mmseg.datasets.preparation.coco import (
    coco_object_jobs,
    coco_stuff_jobs,
    remove_other_masks,
)
from pacl_mmseg.datasets.preparation.layout import Layout
from pacl_mmseg.datasets.preparation.pascal_context import context459_jobs, context_jobs
from pacl_mmseg.datasets.preparation.writing import Job, Summary, write_images

CONVERTERS: dict[str, Callable[[Layout, Path | None], list[Job]]] = dict(
    context59=context_jobs,
    context60=context_jobs,
    coco_object=coco_object_jobs,
    coco_stuff171=coco_stuff_jobs,
    cityscapes=cityscapes_jobs,
    ade847=ade847_jobs,
    pc459=context459_jobs,
)
"""What to draw of which files, of benchmarks whose official download is not what their
config loads."""


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
        ValueError: There is no such benchmark, or nothing to convert, or what is there
            was drawn from another source.
    """
    layout = Layout(benchmark)
    if benchmark not in CONVERTERS:
        raise ValueError(f'{benchmark} is loaded as downloaded: nothing to convert.')
    jobs = CONVERTERS[benchmark](layout, source and Path(source))
    if benchmark == 'coco_object':
        remove_other_masks(layout.masks, options.get('overwrite', False))
    return write_images(jobs, **options)
