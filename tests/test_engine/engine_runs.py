"""Runs of a config, here or in processes of their own, and what they leave."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from mmengine.config import Config

from pacl_mmseg.registry import RUNNERS

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name('train_worker.py')


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


def worker(config: Path, *options: object) -> subprocess.CompletedProcess:
    """Train in a process of its own."""
    return _process(sys.executable, WORKER, config, *options)


def torchrun(config: Path, processes: int, *options: object):
    """Train in several processes; a job that hangs is an error here."""
    launch = ('-m', 'torch.distributed.run', '--standalone')
    number = f'--nproc_per_node={processes}'
    return _process(sys.executable, *launch, number, WORKER, config, *options)


def _process(*command: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
    )


def curve(work_dir: str | Path, name: str) -> list[float]:
    """A scalar at every step of the latest run, from MMEngine's own log."""
    (path,) = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))[-1:]
    rows = map(json.loads, path.read_text().splitlines())
    return [row[name] for row in rows if name in row]
