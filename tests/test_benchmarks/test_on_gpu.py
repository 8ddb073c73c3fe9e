"""The script for a GPU, on made parts: each has its time, and none loses another's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STEP = dict(
    batch_size=4,
    seconds=dict(step=0.5, encoders=0.4, apart=1.0),
    peak_memory=2e9,
    hours=3.0,
)
WRITE = f'import sys; open(sys.argv[-1], "w").write({json.dumps(json.dumps(STEP))})'


@pytest.fixture
def on_gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'benchmarks'))
    import on_gpu

    parts = {
        'step': (20, ['-c', WRITE]),
        # Nor is what it has started waited for.
        'phi': (3, ['-c', 'import os; os.system("echo begun; sleep 60")']),
        'noun prompts': (20, ['-c', WRITE]),
        'evaluation': (20, ['-c', 'raise SystemExit("broken")']),
        'tests': (20, ['-c', 'print("= 7 passed =")']),
    }
    assert parts.keys() == on_gpu.PARTS.keys()
    monkeypatch.setattr(on_gpu, 'PARTS', parts)
    monkeypatch.setattr(
        on_gpu, 'MACHINE', 'print(\'{"device": "A GPU", "torch": "2.9"}\')'
    )
    return on_gpu


def test_a_part_that_fails_or_hangs_loses_no_other(on_gpu, tmp_path):
    file = tmp_path / 'gpu.json'
    record = on_gpu.measure('cpu', 60, file)
    assert json.loads(file.read_text()) == record
    status = {name: part['status'] for name, part in record['parts'].items()}
    assert status.pop('phi') == 'out of time'
    assert status.pop('evaluation') == 'failed'
    assert set(status.values()) == {'ok'}
    assert record['parts']['phi']['output'] == ['begun']
    assert record['parts']['evaluation']['output'] == ['broken']
    assert record['parts']['step']['result'] == STEP
    rows = on_gpu.table(record).splitlines()
    assert rows[0] == '| A GPU, torch 2.9 | measured |'
    assert '| step / encoders, batch 4 | 1.250 |' in rows
    assert '| samples/s | 8 |' in rows
    assert rows[-3] == '| tests on the device | 7 passed |'
    assert rows[-2].startswith('| phi | out of time after')
    assert rows[-1].startswith('| evaluation | failed after')
    (nouns,) = [row for row in rows if 'noun prompts' in row]
    assert nouns.endswith('| 2.00 |')

    page = tmp_path / 'page.md'
    page.write_text(f'before\n{on_gpu.BEGIN}nothing yet\n{on_gpu.END}after\n')
    for _ in range(2):
        on_gpu.fill(page, record)
        expected = f'before\n{on_gpu.BEGIN}{on_gpu.table(record)}{on_gpu.END}after\n'
        assert page.read_text() == expected
    page.write_text('no place')
    with pytest.raises(ValueError, match='has no <!-- on_gpu -->'):
        on_gpu.fill(page, record)


def test_the_time_for_all_bounds_each(on_gpu, tmp_path):
    record = on_gpu.measure('cpu', 0, tmp_path / 'gpu.json')
    assert all(part['seconds'] < 5 for part in record['parts'].values())


def test_the_page_has_a_place_for_the_table(on_gpu):
    page = (ROOT / 'docs' / 'pretraining.md').read_text()
    assert page.index(on_gpu.BEGIN) < page.index(on_gpu.END)
