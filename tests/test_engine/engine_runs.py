"""Runs of a config, here or in processes of their own, and what they leave."""

from __future__ import annotations

import json
import time
from pathlib import Path

import accidents  # noqa: F401
import torch
from mmengine.config import Config
from processes import Done, ranks, script

from pacl_mmseg.registry import RUNNERS

ROOT = Path(__file__).resolve().parents[2]


def run(config: Config):
    # MMEngine names runs by the second, and two with one name would share state.
    config.experiment_name = f'run{time.monotonic_ns()}'
    config.visualizer.name = config.experiment_name
    runner = RUNNERS.build(config)
    assert runner.train() is runner.model
    return runner


def weights(path: str | Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)['state_dict']


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def write(config: Config, path: Path) -> Path:
    config.dump(path)
    return path


def train(config: Config, processes: int = 1, patience: float = 30) -> list[Done]:
    """Train by tools/train.py in processes of their own.

    Args:
        config: With the work directory.
        processes: How many.
        patience: As of :func:`processes.ranks`.
    """
    folder = Path(config.work_dir).with_name(f'processes{time.monotonic_ns()}')
    folder.mkdir()
    path = write(config, folder / 'config.py')
    launcher = ['--launcher', 'pytorch'] if processes > 1 else []
    return ranks(_train, processes, [str(path), *launcher], patience=patience)


def _train(arguments: list[str]) -> None:
    torch.set_num_threads(1)
    script('train.py', arguments)


def curve(work_dir: str | Path, name: str) -> list[float]:
    """A scalar at every step of the latest run, from MMEngine's own log."""
    (path,) = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))[-1:]
    rows = map(json.loads, path.read_text().splitlines())
    return [row[name] for row in rows if name in row]


def log_of(work_dir: str | Path) -> str:
    return ''.join(path.read_text() for path in Path(work_dir).glob('*/*.log'))
