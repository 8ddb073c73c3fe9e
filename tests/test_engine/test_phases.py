"""Times of a step's phases: complete, averaged, and gone when they are not wanted."""

from __future__ import annotations

from itertools import count

import pytest
import torch
from engine_runs import curve, run
from mmengine.optim import OptimWrapper
from mmengine.structures import BaseDataElement

from pacl_mmseg.engine import PhaseTimer, phases
from pacl_mmseg.registry import MODELS

IN_MODEL = ['copy', 'vision', 'text', 'embedder', 'phi', 'objective']


@pytest.fixture
def model(tiny_model):
    return MODELS.build(tiny_model).train()


@pytest.fixture
def optim_wrapper(model) -> OptimWrapper:
    trained = [p for p in model.parameters() if p.requires_grad]
    return OptimWrapper(torch.optim.SGD(trained, lr=0.1), accumulative_counts=2)


@pytest.fixture
def batch() -> dict:
    samples = [BaseDataElement(metainfo=dict(caption=text)) for text in ('a', 'b')]
    images = [torch.zeros(3, 32, 32, dtype=torch.uint8) for _ in samples]
    return dict(inputs=images, data_samples=samples)


def test_phases_of_a_step(model, optim_wrapper, batch, monkeypatch):
    # A clock that only ticks where it is read: each phase takes one tick unless
    # another one is read within it.
    ticks = count()
    monkeypatch.setattr(phases.time, 'perf_counter', lambda: float(next(ticks)))
    with PhaseTimer(model, optim_wrapper) as timer:
        for _ in range(4):
            with timer.phase('data'):
                pass
            model.train_step(batch, optim_wrapper)
        times = timer.read()
        names = ['data', *IN_MODEL, 'backward', 'optimizer']
        assert list(times) == names  # in order; nothing is reduced in one process
        # Gradients of two iterations make one step of the optimizer.
        assert times == dict.fromkeys(names, 1.0) | dict(optimizer=0.5)
        assert timer.read() == {}
        model.eval()
        model.test_step(dict(inputs=batch['inputs']))
        assert timer.read() == {}


def test_nothing_stays_behind(model, optim_wrapper, batch):
    def hooks() -> int:
        return sum(
            len(module._forward_hooks) + len(module._forward_pre_hooks)
            for module in model.modules()
        )

    before = hooks()
    timer = PhaseTimer(model, optim_wrapper)
    assert hooks() == before + 2 * len(IN_MODEL)
    timer.remove()
    timer.remove()
    assert hooks() == before
    assert 'backward' not in vars(optim_wrapper)
    model.train_step(batch, optim_wrapper)
    assert timer.read() == {}


def test_without_an_optimizer(model, batch):
    with PhaseTimer(model) as timer:
        data = model.data_preprocessor(batch, True)
        model(**data, mode='loss')
        assert list(timer.read()) == IN_MODEL


def test_an_error_within_a_phase_is_not_counted(model, batch):
    with PhaseTimer(model) as timer:
        with pytest.raises(AttributeError):
            model.backbone(None)
        assert timer.read() == {}


def test_phases_in_the_log(config):
    config.default_hooks.pretrain.phases = True
    config.default_hooks.logger.interval = 3
    runner = run(config)
    for name in ('data', *IN_MODEL, 'backward', 'optimizer'):
        values = curve(config.work_dir, f'phase_{name}')
        assert len(values) == 2 and min(values) >= 0, name
    assert 'backward' not in vars(runner.optim_wrapper)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA events')
def test_on_a_gpu(model, optim_wrapper, batch):
    model.cuda()
    with PhaseTimer(model, optim_wrapper) as timer:
        for _ in range(4):
            model.train_step(batch, optim_wrapper)
        times = timer.read()
    assert list(times) == [*IN_MODEL, 'backward', 'optimizer']
    assert min(times.values()) > 0
