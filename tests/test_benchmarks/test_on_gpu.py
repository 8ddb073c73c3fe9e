"""The script for a GPU, on made parts: each has its time, and none loses another's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
STEP = dict(
    batch_size=4, seconds=dict(step=0.5, encoders=0.4), peak_memory=2e9, hours=3.0
)


@pytest.fixture
def on_gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'benchmarks'))
    import on_gpu

    parts = {
        'step': f"echo '{json.dumps(STEP)}' > $FILE",
        # Nor is what it has started waited for.
        'phi': 'echo begun; sleep 60; echo over',
        'evaluation': 'echo broken; exit 3',
        'tests': 'echo "= 7 passed ="',
    }
    assert parts.keys() == on_gpu.SECONDS.keys() == on_gpu.commands('cuda').keys()
    monkeypatch.setattr(on_gpu, 'commands', lambda device: parts)
    monkeypatch.setitem(on_gpu.SECONDS, 'phi', 1)
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
    assert rows[0] == f'| CPU, torch {torch.__version__} | measured |'
    assert '| step / encoders, batch 4 | 1.250 |' in rows
    assert '| samples/s | 8 |' in rows
    assert rows[-3] == '| tests on the device | 7 passed |'
    assert rows[-2].startswith('| phi | out of time after')
    assert rows[-1].startswith('| evaluation | failed after')
    page = f'before\n{on_gpu.BEGIN}nothing yet\n{on_gpu.END}after\n'
    table = on_gpu.table(record)
    for _ in range(2):
        page = on_gpu.filled(page, record)
        assert page == f'before\n{on_gpu.BEGIN}{table}{on_gpu.END}after\n'


def test_the_time_for_all_bounds_each(on_gpu, tmp_path):
    record = on_gpu.measure('cpu', 0, tmp_path / 'gpu.json')
    assert all(part['seconds'] < 5 for part in record['parts'].values())


def test_the_page_has_a_place_for_the_table(on_gpu):
    page = on_gpu.PAGE.read_text()
    assert page.index(on_gpu.BEGIN) < page.index(on_gpu.END)
