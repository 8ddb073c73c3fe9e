"""tools/quickstart.py. That its cells run: test_benchmark.py and the docs' table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pacl_mmseg.datasets.small_world import render_scene

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def quickstart(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    import quickstart

    return quickstart


def test_the_readmes_table(quickstart):
    figures = dict(
        clip=(7.3, 4.7, 17.3),
        maskclip=(26.6, 18.3, 46.0),
        pacl=(74.4, 51.7, 85.2),
        probe=(86.4, 86.2, 94.6),
    )
    records = {
        method: dict(metrics=dict(zip(quickstart.COLUMNS, values, strict=True)))
        for method, values in figures.items()
    }
    assert quickstart.table(records) in (ROOT / 'docs' / 'small_world.md').read_text()


def test_cells(quickstart, tmp_path):
    cells = {cell.name: cell for cell in quickstart.cells(tmp_path)}
    assert list(cells) == list(quickstart.METHODS)
    assert cells['clip'].weights is None
    assert cells['pacl'].checkpoint.endswith('iter_150.pth')
    assert cells['pacl'].missing(fetch=False) == []


def test_pictures(quickstart, tmp_path):
    for method in ('clip', 'pacl'):
        folder = tmp_path / 'masks' / method
        folder.mkdir(parents=True)
        for index in range(2):
            mask = render_scene(index, split='test').mask
            Image.fromarray(mask).save(folder / f'{index:06d}.png')
    path = quickstart.draw_grid(tmp_path, scenes=2)
    with Image.open(path) as picture:
        assert len(np.unique(np.asarray(picture.convert('L')))) > 10
    assert [file.name for file in tmp_path.glob('*.png')] == ['grid.png']
