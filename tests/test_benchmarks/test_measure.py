"""What the benchmarks share, and operations and memory of φ, against known numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pacl_mmseg.ops import compatibility

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'benchmarks'))


def test_added_bytes():
    from measure import added_bytes

    kept = []

    def job():
        first = torch.zeros(1000, dtype=torch.uint8)
        second = torch.zeros(3000, dtype=torch.uint8)
        del first, second
        kept.append(torch.zeros(2000, dtype=torch.uint8))

    assert added_bytes(job, 'cpu') == 4000
    assert added_bytes(kept.clear, 'cpu') == 0


def test_jobs_take_turns_after_a_warm_up():
    from measure import medians

    calls = []
    jobs = {name: lambda name=name: calls.append(name) for name in 'ab'}
    seconds = medians(jobs, 'cpu', repeat=2, steps=3)
    assert ''.join(calls) == 'aaabbb' * 3
    assert [*seconds] == ['a', 'b'] and min(seconds.values()) >= 0


def test_operations_and_memory_of_phi():
    from compatibility import Step

    images, tokens, dim, texts = 4, 5, 6, 8
    step = Step(
        compatibility,
        torch.randn(images, tokens, dim, requires_grad=True),
        torch.randn(texts, dim),
    )
    # Of the products that tests/test_ops counts, each with an addition.
    project = images * tokens * dim * texts
    assert step.operations() == dict(forward=2 * 2 * project, backward=2 * 5 * project)
    # At least one copy of the weights of tokens, float32.
    assert step.extra_memory('cpu') >= 4 * images * tokens * texts
