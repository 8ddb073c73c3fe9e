"""Results on whole images: a line per benchmark, methods side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pacl_mmseg.benchmark.methods import CLASSIFICATION, CLASSIFIERS
from pacl_mmseg.benchmark.protocols import subset_in_words
from pacl_mmseg.benchmark.results import write_json, write_text
from pacl_mmseg.benchmark.tables import markdown_table

FILES = 'results.md and results.json'
# What is tabulated of the metrics; results.json has all.
SHOWN = {
    'accuracy/top1': 'top-1',
    **{
        f'{way}/retrieval/Recall@{k}': f'{title} R@{k}'
        for way, title in dict(i2t='image to text', t2i='text to image').items()
        for k in (1, 5, 10)
    },
}
COMPARED = ('pacl', 'clip')


def table_row(
    method: str, benchmark: str, record: Mapping[str, Any] | None, failure: str | None
) -> dict[str, Any]:
    """One result; arguments as of :func:`pacl_mmseg.benchmark.tables.table_row`."""
    return dict(method=method, benchmark=benchmark, record=record, failure=failure)


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table in Markdown, with the mean over the sets of :data:`CLASSIFICATION`."""
    benchmarks = dict.fromkeys(row['benchmark'] for row in rows)
    methods = list(dict.fromkeys(row['method'] for row in rows))
    metrics = {
        (row['benchmark'], row['method']): (row['record'] or {}).get('metrics', {})
        for row in rows
    }
    found: list[tuple[str, str, list[float | None]]] = []
    for benchmark in benchmarks:
        own = [metrics[benchmark, method] for method in methods]
        keys = [key for key in SHOWN if any(key in values for values in own)]
        for key in keys or ['']:
            values = [values.get(key) for values in own]
            found.append((benchmark, SHOWN.get(key, ''), values))
    sets = [values for benchmark, _, values in found if benchmark in CLASSIFICATION]
    if len(sets) > 1 and all(None not in values for values in sets):
        means = [sum(values) / len(sets) for values in zip(*sets, strict=True)]
        found.append((f'mean of these {len(sets)}', 'top-1', means))
    header = ['benchmark', 'metric', *(CLASSIFIERS[m].title for m in methods)]
    compared = {*COMPARED} <= {*methods}
    lines = []
    for *name, values in found:
        cells = ['-' if value is None else f'{value:.2f}' for value in values]
        if compared:
            ours, clip = (values[methods.index(method)] for method in COMPARED)
            cells.append('-' if None in (ours, clip) else f'{ours - clip:+.2f}')
        lines.append([*name, *cells])
    text = markdown_table(header + ['difference'] * compared, lines, left=2)
    notes = [
        f'{row["benchmark"]} {row["method"]} failed: {row["failure"]}'
        if row['failure']
        else f'{row["benchmark"]} {row["method"]}: on '
        f'{subset_in_words(row["record"]["protocol"])} alone'
        for row in rows
        if row['failure'] or (row['record'] and row['record']['protocol']['subset'])
    ]
    # Of the encoders; another one (--encoder) gives another table.
    weights = [(row['record'] or {}).get('protocol', {}).get('weights') for row in rows]
    if any(weights):
        notes.append(f'weights: {", ".join(dict.fromkeys(filter(None, weights)))}')
    return '\n'.join([text, *(f'- {note}' for note in notes), *[''] * bool(notes)])


def write_tables(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``results.md`` and ``results.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / 'results.json', list(rows))
    write_text(folder / 'results.md', markdown(rows))
