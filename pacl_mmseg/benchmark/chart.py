"""Measured results beside published ones, as a chart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pacl_mmseg.benchmark.methods import METHODS
from pacl_mmseg.utils import whole_file

if TYPE_CHECKING:
    from matplotlib.artist import Artist

COLUMNS = 5  # of panels


def draw_chart(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A panel per benchmark: bars of the measured mIoU, diamonds where published.

    A diamond is filled where the figure is comparable: same protocol, weights, images.

    Args:
        path: PNG file to write, as a whole.
        rows: From :func:`pacl_mmseg.benchmark.tables.table_row`.
    """
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    rows = [row for row in rows if row['mIoU'] is not None]
    benchmarks = list(dict.fromkeys(row['benchmark'] for row in rows))
    methods = list(dict.fromkeys(row['method'] for row in rows))
    columns = max(1, min(len(benchmarks), COLUMNS))
    lines = max(1, math.ceil(len(benchmarks) / columns))
    size = (max(6.4, columns * (0.7 + 0.34 * len(methods))), 0.6 + 2.6 * lines)
    figure, panels = pyplot.subplots(
        lines, columns, figsize=size, layout='constrained', squeeze=False
    )
    for axes in panels.flat[len(benchmarks) :]:
        axes.set_axis_off()
    legend: dict[str, Artist] = {}
    for axes, benchmark in zip(panels.flat, benchmarks, strict=False):
        axes.set_title(benchmark, fontsize=10)
        axes.set_xticks([])
        axes.set_xlim(-0.7, max(len(methods), 3) - 0.3)
        axes.spines[['top', 'right']].set_visible(False)
        for row in (row for row in rows if row['benchmark'] == benchmark):
            place = methods.index(row['method'])
            bar = axes.bar(place, row['mIoU'], 0.8, color=f'C{place}')
            axes.bar_label(bar, fmt='%.1f', label_type='center', fontsize=7)
            legend[METHODS[row['method']].title] = bar
            if row['published_mIoU'] is not None:
                comparable = row['difference'] is not None
                title = 'published' if comparable else 'published, not comparable'
                legend[title] = axes.scatter(
                    place,
                    row['published_mIoU'],
                    marker='D',
                    color='black' if comparable else 'white',
                    edgecolor='black',
                    zorder=3,
                )
    protocols = dict.fromkeys(
        ' '.join([row['protocol'], row['notes'].get('mIoU', '')]).strip()
        for row in rows
    )
    panels[0, 0].set_ylabel('mIoU, %')
    figure.supxlabel(f'protocol: {", ".join(protocols)}', fontsize=8)
    if legend:
        figure.legend(
            legend.values(),
            legend.keys(),
            loc='outside upper center',
            ncols=4,
            frameon=False,
            fontsize=8,
        )
    with whole_file(path) as part:
        figure.savefig(part, dpi=150)
    pyplot.close(figure)
