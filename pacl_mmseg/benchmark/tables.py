"""Measured results beside published ones, as tables."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pacl_mmseg.benchmark.chart import draw_chart
from pacl_mmseg.benchmark.configs import ENCODERS, compose
from pacl_mmseg.benchmark.protocols import format_protocol, read_method, subset_in_words
from pacl_mmseg.benchmark.results import write_json, write_text
from pacl_mmseg.datasets.preparation import OFFICIAL

FILES = 'results.md, results.json and chart.png'
# Key in a row, title of the column, format of its values.
COLUMNS = {
    'benchmark': ('benchmark', ''),
    'method': ('method', ''),
    'protocol': ('protocol', ''),
    'mIoU': ('mIoU', '.2f'),
    'present_classes_mIoU': ('mIoU, present classes', '.2f'),
    'patch_accuracy': ('patch accuracy', '.2f'),
    'published_mIoU': ('published mIoU', '.4g'),
    'difference': ('difference', '+.2f'),
    'images_per_s': ('images/s', '.2f'),
    'peak_memory_mb': ('peak memory, MB', 'd'),
}


@dataclass(frozen=True)
class Published:
    """One published figure, as ``published.csv`` has it.

    Args:
        method, benchmark: Names as here.
        mIoU: In percent.
        protocol: The preset it was measured under; empty where that is not known.
        weights: Of the image encoder, as :func:`read_protocol` names them.
        source: Where it is published.
        note: What to know before comparing.
    """

    method: str
    benchmark: str
    mIoU: float
    protocol: str
    weights: str
    source: str
    note: str

    def comparable(self, protocol: Mapping[str, Any]) -> bool:
        """Whether a result under that protocol should reproduce this figure."""
        names = [protocol['protocol'], *protocol['same_as']]
        return self.protocol in names and self.weights == protocol['weights']


def published_figures() -> list[Published]:
    """All published figures, those to be preferred first."""
    with Path(__file__).with_name('published.csv').open(newline='') as file:
        return [
            Published(**dict(row, mIoU=float(row['mIoU'])))
            for row in csv.DictReader(file)
        ]


def find_published(
    method: str, benchmark: str, protocol: Mapping[str, Any]
) -> Published | None:
    """The figure to put beside a result: a comparable one, or else any."""
    figures = [
        figure
        for figure in published_figures()
        if (figure.method, figure.benchmark) == (method, benchmark)
    ]
    figures.sort(key=lambda figure: not figure.comparable(protocol))  # stable
    return figures[0] if figures else None


def table_row(
    method: str,
    benchmark: str,
    record: Mapping[str, Any] | None,
    failure: str | None,
    encoder: str = ENCODERS[0],
) -> dict[str, Any]:
    """One line of the table: all columns, and ``record``, ``failure``, ``notes``.

    Args:
        method, benchmark: The cell.
        record: Its ``result.json``, if it has one.
        failure: Why it has none.
        encoder: One of :data:`~pacl_mmseg.benchmark.configs.ENCODERS`.
    """
    row = dict.fromkeys(COLUMNS) | dict(method=method, benchmark=benchmark)
    row |= dict(record=record, failure=failure, notes={})
    if record is None:
        return row
    metrics, protocol = record['metrics'], record['protocol']
    row |= dict(
        protocol=protocol['protocol'],
        mIoU=metrics.get('mIoU'),
        present_classes_mIoU=metrics.get('present_classes/mIoU'),
        patch_accuracy=metrics.get('patch_accuracy'),
        images_per_s=record['images_per_s'],
        peak_memory_mb=record['peak_memory_mb'],
    )
    row['notes']['protocol'] = f'{benchmark}: {format_protocol(protocol)}'
    images, official = record['images'], OFFICIAL.get(benchmark)
    complete = protocol['subset'] is None
    if not complete:
        row['notes']['mIoU'] = f'on {subset_in_words(protocol)} alone'
    elif official is not None and images != official.images:
        complete = False
        row['notes']['mIoU'] = f'on {images} images; the split has {official.images}'
    is_known = record['method'] == json.loads(
        json.dumps(read_method(compose(method, benchmark, encoder=encoder)))
    )
    if not is_known:
        row['notes']['method'] = f'with options that are not those of {method}'
    figure = find_published(method, benchmark, protocol)
    if figure is not None:
        row['published_mIoU'] = figure.mIoU
        row['notes']['published_mIoU'] = _published_note(figure, protocol)
        comparable = complete and is_known and figure.comparable(protocol)
        if comparable and row['mIoU'] is not None:
            row['difference'] = round(row['mIoU'] - figure.mIoU, 2)
    return row


def write_tables(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``results.json``, ``results.md`` and ``chart.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / 'results.json', list(rows))
    write_text(folder / 'results.md', markdown(rows))
    draw_chart(folder / 'chart.png', rows)


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table in Markdown, with footnotes; columns that nobody has are left out."""
    columns = [
        key
        for key in COLUMNS
        if key == 'mIoU' or any(row[key] is not None for row in rows)
    ]
    notes: dict[str, int] = {}
    table = [[COLUMNS[key][0] for key in columns]]
    for row in rows:
        cells = []
        for key in columns:
            note = row['notes'].get(key)
            mark = f' [{notes.setdefault(note, len(notes) + 1)}]' if note else ''
            cells.append(_cell(row, key) + mark)
        table.append(cells)
    lines = [markdown_table(table[0], table[1:])[:-1]]
    failed = [
        f'- {row["benchmark"]} {row["method"]}: {row["failure"]}'
        for row in rows
        if row['failure']
    ]
    if failed:
        lines += ['', 'Failed:', '', *failed]
    if notes:
        lines.append('')
        lines += [f'{number}. {note}' for note, number in notes.items()]
    return '\n'.join(lines) + '\n'


def markdown_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], left: int | None = None
) -> str:
    """A table in Markdown, its columns padded.

    Args:
        header: Titles of the columns.
        rows: Cells.
        left: How many of the first columns are set flush left, the others right; by
            default all.
    """
    widths = [max(map(len, cells)) for cells in zip(header, *rows, strict=True)]
    left = len(header) if left is None else left
    rule = ['-' * (width + 2) for width in widths]
    rule[left:] = ['-' * (width + 1) + ':' for width in widths[left:]]
    lines = [f'|{"|".join(rule)}|']
    for cells in (header, *rows):
        padded = [*map(str.ljust, cells[:left], widths[:left])]
        padded += map(str.rjust, cells[left:], widths[left:])
        lines.append(f'| {" | ".join(padded)} |')
    lines[:2] = reversed(lines[:2])
    return '\n'.join(lines) + '\n'


def _cell(row: Mapping[str, Any], key: str) -> str:
    if row[key] is None:
        return 'failed' if row['failure'] and key == 'mIoU' else '-'
    return format(row[key], COLUMNS[key][1])


def _published_note(figure: Published, protocol: Mapping[str, Any]) -> str:
    """Where a figure is from, and why it may not be compared."""
    sentence = figure.source
    if not figure.protocol:
        sentence += '; its protocol is not known in full'
    elif not figure.comparable(protocol):
        sentence += f'; measured under {figure.protocol} with {figure.weights}'
    return f'{sentence}; {figure.note}' if figure.note else sentence
