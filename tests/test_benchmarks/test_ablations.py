"""benchmarks/ablations.py and the configs that it compares."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner

from pacl_mmseg.registry import MODELS

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / 'configs' / 'small_world'
NAMES = sorted(path.stem for path in (CONFIGS / 'ablations').glob('*.py'))
FUTURE = sorted(path.stem for path in (CONFIGS / 'future').glob('*.py'))
BIRDS = sorted(path.stem for path in (CONFIGS / 'birds').glob('*.py'))
OTHERS = ['clippy_exact', 'pacl_selfsup']


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
    rows = [*NAMES, *FUTURE, *BIRDS, *OTHERS, 'pacl']
    assert sorted(rows) == sorted(ablations.ROWS)
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


@pytest.mark.parametrize(
    'name',
    [
        n
        for n in (*NAMES, *FUTURE, *BIRDS, *OTHERS)
        if not n.startswith(('stride', 'video'))
    ],
)
def test_config_trains(ablations, name):
    cfg = ablations.training(name, 3, Path()).config
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


def test_cells_of_a_row(ablations, tmp_path):
    val, test = ablations.cells('stride_4', 1, tmp_path)
    assert (val.name, test.name) == ('stride_4/seed1/val', 'stride_4/seed1/test')
    assert val.config.test_dataloader.dataset.split == 'val'
    assert test.config.test_dataloader.dataset.split == 'test'
    assert val.config.model.backbone.stride == 4
    # The baseline's weights; those of another seed are others.
    (own, _), (other, _) = (ablations.cells('pacl', seed, tmp_path) for seed in (1, 2))
    assert val.checkpoint == test.checkpoint == own.checkpoint != other.checkpoint
    assert val.folder != own.folder


def test_tables(ablations, tmp_path):
    def cell(name: str, seed: int, split: str, value: float) -> SimpleNamespace:
        columns = [*ablations.COLUMNS.values(), *ablations.VIDEO_COLUMNS.values()]
        metrics = {key: value for _, key in columns}
        return SimpleNamespace(
            name=f'{name}/seed{seed}/{split}', record=lambda: dict(metrics=metrics)
        )

    cells = [
        cell('captions', seed, split, value)
        for seed, value in enumerate((1, 2, 6))
        for split in ('val', 'test')
    ]
    cells.append(cell('stride_2', 0, 'test', 50.04))
    videos = [cell('video', 0, split, 7) for split in ('val', 'test')]
    first, second = ablations.tables([*cells, *videos]).split('\n\n')
    head, rule, captions, stride = first.splitlines()
    assert head.count('|') == rule.count('|') == captions.count('|')
    # Mean 3; deviations -2, -1, 3: variance 14 / 2.
    words = [word.strip() for word in captions.split('|')[1:-1]]
    columns = len(ablations.COLUMNS)
    assert words == ['texts (noun prompts)', 'captions', '3', *['3.0 ± 2.6'] * columns]
    words = [word.strip() for word in stride.split('|')[3:-1]]
    assert words == ['1', '', *['50.0'] * (columns - 1)]
    columns = len(ablations.VIDEO_COLUMNS)
    words = [word.strip() for word in second.splitlines()[2].split('|')[2:-1]]
    assert words == ['no', '1', *['7.0'] * columns]
    assert ablations.tables([]) == ''
