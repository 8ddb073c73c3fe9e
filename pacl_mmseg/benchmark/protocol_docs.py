"""The tables of docs/protocols.md, made from the protocols.

python -m pacl_mmseg.benchmark.protocol_docs docs/protocols.md
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from pacl_mmseg.benchmark.protocols import PROTOCOLS, REAL_BENCHMARKS, own_settings
from pacl_mmseg.benchmark.tables import markdown_table
from pacl_mmseg.utils.files import whole_file

COLUMNS = ('benchmark', 'short side', 'window / stride', 'names', 'logit scale')
# Shown in columns of their own.
SHOWN = ('short_side', 'mode', 'window', 'window_stride', 'names', 'logit_scale')


def with_tables(text: str) -> str:
    """The documentation with the first table below each preset's heading made anew."""
    for name in PROTOCOLS:
        text = re.sub(rf'(?<=### `{name}`\n\n)(\|.*\n)+', table(name), text)
    return text


def table(protocol: str) -> str:
    """A preset's settings on every benchmark, as Markdown."""
    rows = []
    for benchmark in REAL_BENCHMARKS:
        p = PROTOCOLS[protocol].settings(benchmark)
        windows = f'{p["window"]} / {p["window_stride"]}'
        rows.append(
            [
                *(benchmark, str(p['short_side'])),
                windows if p['mode'] == 'slide' else 'whole image',
                *(p['names'], f'{p["logit_scale"]:g}'),
                _background(p['background']),
                ', '.join(_others(p)),
            ]
        )
    return markdown_table([*COLUMNS, 'background', 'also'], rows)


def _background(rule: dict[str, Any]) -> str:
    name = '-' if rule['rule'] == 'none' else rule['rule']
    return f'{name} {rule["threshold"] or ""}'.strip()


def _others(settings: dict[str, Any]) -> list[str]:
    """Settings without a column that are not those of most benchmarks."""
    usual = own_settings('ade20k')
    return [
        f'{key} {_in_words(value)}'
        for key, value in settings.items()
        if key not in (*SHOWN, 'background') and value != usual[key]
    ]


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        return ' '.join(f'{key} {_in_words(item)}' for key, item in value.items())
    return '/'.join(map(str, value)) if isinstance(value, tuple) else str(value)


if __name__ == '__main__':
    path = Path(sys.argv[1])
    text = with_tables(path.read_text(encoding='utf-8'))
    with whole_file(path) as part:
        part.write_text(text, encoding='utf-8')
