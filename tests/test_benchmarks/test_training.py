"""The benchmark of training steps, on the small world."""

from __future__ import annotations

import statistics
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


def test_it_measures_steps_that_train(training):
    cfg = load_config(
        str(ROOT / 'configs' / 'small_world' / 'pacl.py'),
        {'model.encoder.pretrained': None, 'model.encoder.dtype': 'bfloat16'},
    )
    model = training.MODELS.build(cfg.model).train()
    jobs = training.jobs_of(model, cfg, 4)
    before = [p.clone() for p in model.neck.parameters()]
    jobs['encoders']()
    for _ in range(training.CAPTION_SETS + 1):  # batches have no end
        assert jobs['step']()['loss'].isfinite()
    assert not any(map(torch.equal, before, model.neck.parameters()))
