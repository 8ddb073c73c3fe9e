"""The benchmark of training steps, on the small world."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import pytest
import torch

from pacl_mmseg.apis.config import load_config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def training(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'benchmarks'))
    import training

    return training


def test_captions_are_as_long_as_stated(training):
    lengths = [len(caption.split()) for caption in training.make_captions(20_000)]
    assert statistics.mean(lengths) == pytest.approx(20.2, rel=0.02)
    assert statistics.stdev(lengths) == pytest.approx(16.3, rel=0.1)


def test_every_set_of_captions_is_another(training):
    sets = [training.make_captions(50, seed) for seed in range(training.CAPTION_SETS)]
    assert len({tuple(captions) for captions in sets}) == len(sets) >= 8


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_it_measures_steps_that_train(training, capsys):
    cfg = load_config(
        str(ROOT / 'configs' / 'small_world' / 'pacl.py'),
        {'model.encoder.pretrained': None, 'model.encoder.dtype': 'bfloat16'},
    )
    steps = training.Training(cfg, 4, torch.device('cpu'))
    before = [p.clone() for p in steps.model.neck.parameters()]
    batches = [next(steps.batches) for _ in range(training.CAPTION_SETS + 1)]
    assert len({batch['data_samples']['text_tokens'] for batch in batches}) == 8
    assert batches[0] is batches[-1]
    assert all(batch['inputs'] is batches[0]['inputs'] for batch in batches)
    training.measure(steps, repeat=1, steps=2)
    after = steps.model.neck.parameters()
    assert not any(map(torch.equal, before, after))
    assert steps.images.dtype == torch.bfloat16
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    phases = {row[0]: float(row[1]) for row in rows if row[-1].endswith('%')}
    assert [*phases] == [
        *('vision', 'text', 'embedder', 'phi', 'loss', 'backward', 'optimizer')
    ]
    assert min(phases.values()) > 0
