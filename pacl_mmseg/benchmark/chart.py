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
    from matplotlib.axes import Axes

COLUMNS = 5  # of panels
NEAR = 10  # percent: a published figure that would be written over


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
    for axes in panels[:, 0]:
        axes.set_ylabel('mIoU, %')
    bars: dict[str, Artist] = {}
    diamonds: dict[str, Artist] = {}
    for axes, benchmark in zip(panels.flat, benchmarks, strict=False):
        _style(axes, benchmark, len(methods))
        for row in (row for row in rows if row['benchmark'] == benchmark):
            place = methods.index(row['method'])
            title = METHODS[row['method']].title
            bars[title] = axes.bar(place, row['mIoU'], 0.8, color=f'C{place}')
            if row['published_mIoU'] is not None:
                title, diamond = _diamond(axes, place, row)
                diamonds[title] = diamond
            # Above the bar, and above a diamond that would be in the way.
            above = (row['published_mIoU'] or 0) - row['mIoU']
            axes.annotate(
                f'{row["mIoU"]:.1f}',
                (place, row['mIoU'] + (above if 0 < above < NEAR else 0)),
                (0, 5),  # points
                textcoords='offset points',
                ha='center',
                fontsize=7,
            )
    legend = bars | dict(sorted(diamonds.items()))
    protocols = dict.fromkeys(
        ' '.join([row['protocol'], row['notes'].get('mIoU', '')]).strip()
        for row in rows
    )
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


def _style(axes: Axes, title: str, bars: int) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xticks([])
    axes.set_xlim(-0.7, max(bars, 3) - 0.3)
    axes.margins(y=0.12)
    axes.spines[['top', 'right']].set_visible(False)


def _diamond(axes: Axes, place: int, row: Mapping[str, Any]) -> tuple[str, Artist]:
    """Mark a published figure; returns its name in the legend and itself."""
    comparable = row['difference'] is not None
    (diamond,) = axes.plot(
        place,
        row['published_mIoU'],
        marker='D',
        color='black',
        markerfacecolor='black' if comparable else 'white',
        markersize=5,
        linestyle='',
    )
    return 'published' if comparable else 'published, not comparable', diamond
