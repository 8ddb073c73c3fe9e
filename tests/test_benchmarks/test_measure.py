"""What the benchmarks share, and their count of φ's products, against known numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'benchmarks'))


def test_jobs_take_turns_after_a_warm_up():
    from measure import medians

    calls = []
    jobs = {name: lambda name=name: calls.append(name) for name in 'ab'}
    seconds = medians(jobs, 'cpu', repeat=2, steps=3)
    assert ''.join(calls) == 'aaabbb' * 3
    assert [*seconds] == ['a', 'b'] and min(seconds.values()) >= 0


def test_products_of_phi():
    from compatibility import multiply_adds

    # As docs/pretraining.md states.
    large = multiply_adds(4096)
    assert large['forward'] == pytest.approx(2.4e12, rel=0.05)
    assert large['backward'] == pytest.approx(4.8e12, rel=0.05)
    # Comparing tokens with one another, 196 x 196 x 512 each, would not pay.
    assert multiply_adds(1) == dict(forward=2 * 196 * 512, backward=5 * 196 * 512)
