"""benchmarks/ablations.py and the configs that it compares."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner

from pacl_mmseg.registry import MODELS

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / 'configs' / 'small_world'
NAMES = sorted(path.stem for path in (CONFIGS / 'ablations').glob('*.py'))


@pytest.fixture
def ablations(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'benchmarks'))
    import ablations

    return ablations


def flat(node: object, path: str = '') -> dict[str, object]:
    """Every leaf of a config by its dotted path."""
    if isinstance(node, (dict, list)):
        items = node.items() if isinstance(node, dict) else enumerate(node)
        leaves = {}
        for key, value in items:
            leaves |= flat(value, f'{path}.{key}')
        return leaves
    return {path: node}


def test_every_config_is_a_row_that_changes_one_thing(ablations):
    assert sorted([*NAMES, 'pacl']) == sorted(ablations.ROWS)
    cfg = Config.fromfile(CONFIGS / 'pacl.py')
    baseline = flat(cfg.to_dict())
    seen = set()
    for name in NAMES:
        row = flat(Config.fromfile(CONFIGS / 'ablations' / f'{name}.py').to_dict())
        changed = {
            (key, row.get(key))
            for key in baseline.keys() | row.keys()
            if baseline.get(key) != row.get(key)
            and not key.startswith('.train_pipeline')  # only read through the loader
        }
        # A batch size comes with its iterations, a learnt factor with its optimizer.
        assert 1 <= len(changed) <= 4, (name, changed)
        assert frozenset(changed) not in seen, name
        seen.add(frozenset(changed))


@pytest.mark.parametrize('name', [n for n in NAMES if not n.startswith('stride')])
def test_config_trains(ablations, name):
    cfg = ablations.config_of(name, seed=3)
    assert cfg.randomness.seed == cfg.train_dataloader.dataset.seed == 3
    torch.manual_seed(0)
    loader = copy.deepcopy(cfg.train_dataloader)
    loader.update(batch_size=6, num_workers=0, persistent_workers=False)
    loader.dataset.dataset.num_scenes = 12
    batches = iter(Runner.build_dataloader(loader, seed=0))
    model = MODELS.build(cfg.model).train()
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    trained = {k: v.clone() for k, v in model.named_parameters() if v.requires_grad}
    for _ in range(2):
        losses = model.train_step(next(batches), optimizer)
        assert losses['loss'].isfinite()
    for key, value in model.named_parameters():
        if value.requires_grad:
            assert not torch.equal(value, trained[key]), key
        else:
            assert key not in trained


@pytest.fixture
def small(ablations, monkeypatch):
    """The script, on a few scenes."""
    original = ablations.config_of

    def smaller(name: str, seed: int) -> Config:
        cfg = original(name, seed)
        cfg.train_cfg.max_iters = 2
        cfg.train_dataloader.batch_size = 4
        cfg.train_dataloader.dataset.dataset.num_scenes = 16
        for split in ('val', 'test'):
            cfg[f'{split}_dataloader'].dataset.num_scenes = 3
        for loader in ('train', 'val', 'test'):
            cfg[f'{loader}_dataloader'].update(num_workers=0, persistent_workers=False)
        return cfg

    monkeypatch.setattr(ablations, 'config_of', smaller)
    return ablations


def test_runs_are_resumed_and_failures_reported(small, tmp_path, capsys):
    arguments = ['--only', 'stride_4', 'pacl', '--seeds', '1', '--work-dir']
    # The first row needs the weights of the second.
    with pytest.raises(SystemExit, match='stride_4, seed 1: FileNotFoundError: '):
        small.main([*arguments, str(tmp_path)])
    file = tmp_path / 'pacl' / 'seed1' / 'result.json'
    record = json.loads(file.read_text())
    assert record['seed'] == 1
    for split, key in small.COLUMNS.values():
        assert record[split][key] >= 0
    written = file.stat().st_mtime_ns
    capsys.readouterr()
    small.main([*arguments, str(tmp_path)])
    assert file.stat().st_mtime_ns == written
    baseline, stride = (tmp_path / 'table.md').read_text().splitlines()[2:]
    assert baseline.startswith('| none: the baseline |  | 1 |')
    assert stride.startswith('| token stride at test (8) | 4 | 1 |')
    assert stride in capsys.readouterr().out


def test_table(ablations):
    def record(name: str, seed: int, value: float) -> dict:
        values = {key: value for _, key in ablations.COLUMNS.values()}
        return dict(name=name, seed=seed, train=values, val=values, test=values)

    records = [record('captions', seed, value) for seed, value in enumerate((1, 2, 6))]
    records.append(record('stride_2', 0, 50.04))
    del records[-1]['train']
    head, rule, captions, stride = ablations.table(records).splitlines()
    assert head.count('|') == rule.count('|') == captions.count('|')
    # Mean 3; deviations -2, -1, 3: variance 14 / 2.
    columns = len(ablations.COLUMNS)
    assert captions == '| texts (noun prompts) | captions | 3 |' + columns * (
        ' 3.0 ± 2.6 |'
    )
    assert stride.endswith('| 2 | 1 |' + (columns - 1) * ' 50.0 |' + '  |')
    assert ablations.table([]).splitlines() == [head, rule]
