"""benchmarks/coherence.py, but for what it trains."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from pacl_mmseg.models.open_clip_model import build_open_clip

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'benchmarks'))
    import coherence

    return coherence


def test_encoders_differ_in_their_images_alone(study, tmp_path):
    (tmp_path / 'clip').mkdir()
    untrained = study.Encoder(seed=1, iterations=0, layer=3)
    weights = load_file(study.write_weights(untrained, tmp_path))
    shipped = load_file(ROOT / 'configs' / 'small_world' / 'clip.safetensors')
    architecture = study.pacl(tmp_path, 1).model.encoder.model
    random = build_open_clip(architecture, None, init_seed=1).visual.state_dict()
    assert weights.keys() == shipped.keys()
    for name, value in weights.items():
        part, _, rest = name.partition('.')
        expected = random[rest].half() if part == 'visual' else shipped[name]
        assert value.equal(expected), name


def test_every_layer_stop_and_seed_is_one_point(study, tmp_path):
    found = study.encoders([5, 6])
    assert len(set(found)) == len(found) == 3 + 3 + 2 * (3 + 2)
    worlds = {
        study.pretraining(seed, tmp_path).config.train_dataloader.dataset.dataset.seed
        for seed in (5, 6)
    }
    assert len({0, *worlds}) == 3  # none is the shipped one's
    birds = study.pretraining('birds', tmp_path).config.train_dataloader.dataset
    assert birds.dataset.type == 'SmallWorldBirds'


def test_rank_correlation_and_table(study, tmp_path):
    rows = [
        dict(encoder=encoder, auroc=[0.5 + index / 50, 0.5 + index / 40], mIoU=index**2)
        for index, encoder in enumerate(study.encoders([0, 1]))
    ]
    lines = study.correlations(rows).splitlines()
    assert '+1.00' in lines[2] and '16' in lines[2]
    rows.reverse()
    for index, row in enumerate(rows):
        row['mIoU'] = float(index)
    assert '-1.00' in study.correlations(rows).splitlines()[2]
    assert '0.500 ± 0.000' in study.table(rows)
    study.draw(rows, tmp_path / 'scatter.png')
    assert (tmp_path / 'scatter.png').stat().st_size > 5_000
