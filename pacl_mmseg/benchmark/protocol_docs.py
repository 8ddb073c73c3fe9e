"""The tables of docs/protocols.md, made from the protocols.

python -m pacl_mmseg.benchmark.protocol_docs docs/protocols.md
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from pacl_mmseg.benchmark.protocols import (
    PROTOCOLS,
    REAL_BENCHMARKS,
    in_words,
    own_settings,
)
from pacl_mmseg.benchmark.results import write_text
from pacl_mmseg.benchmark.tables import markdown_table

COLUMNS = (
    *('benchmark', 'short side', 'window / stride', 'names', 'logit scale'),
    *('background', 'also'),
)
# Shown in columns of their own; others are where they are not those of most benchmarks.
SHOWN = (
    *('short_side', 'mode', 'window', 'window_stride', 'names', 'logit_scale'),
    'background',
)


def with_tables(text: str) -> str:
    """The documentation with the first table below each preset's heading made anew."""
    for name in PROTOCOLS:
        text = re.sub(rf'(?<=### `{name}`\n\n)(\|.*\n)+', table(name), text)
    return text


def table(protocol: str) -> str:
    """A preset's settings on every benchmark, as Markdown."""
    usual, rows = own_settings('ade20k'), []
    for benchmark in REAL_BENCHMARKS:
        p = PROTOCOLS[protocol].settings(benchmark)
        windows = f'{p["window"]} / {p["window_stride"]}'
        rule, threshold = p['background']['rule'], p['background']['threshold']
        others = (
            f'{key} {in_words(value)}'
            for key, value in p.items()
            if key not in SHOWN and value != usual[key]
        )
        rows.append(
            [
                *(benchmark, str(p['short_side'])),
                windows if p['mode'] == 'slide' else 'whole image',
                *(p['names'], f'{p["logit_scale"]:g}'),
                '-' if rule == 'none' else f'{rule} {threshold or ""}'.strip(),
                ', '.join(others),
            ]
        )
    return markdown_table(COLUMNS, rows)


if __name__ == '__main__':
    path = Path(sys.argv[1])
    write_text(path, with_tables(path.read_text(encoding='utf-8')))
