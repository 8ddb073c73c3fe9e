"""Tests of torch.compile with a way back."""

import copy
import logging
import pickle

import pytest
import torch
from torch import Tensor, nn

from pacl_mmseg.ops.compiled import compiled


@pytest.fixture(autouse=True)
def nothing_compiled_before() -> None:
    """What other tests compiled of a function would be tried first."""
    torch._dynamo.reset()


def double(values: Tensor) -> Tensor:
    """Twice the values."""
    if values.dim() != 1:
        raise ValueError('one dimension only')
    return 2 * values


def own_records(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What the module itself has logged; torch.compile logs much more."""
    return [r for r in caplog.records if r.name == 'pacl_mmseg.ops.compiled']


def test_compiles_once_and_computes_the_same():
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    fast = compiled(double, backend=backend)
    values = torch.arange(3.0)
    for _ in range(2):
        assert torch.equal(fast(values), 2 * values)
    assert len(graphs) == 1
    assert not fast.failed
    assert fast.__doc__ == 'Twice the values.'


def test_falls_back_for_good_with_one_warning(caplog):
    attempts = []

    def backend(graph, inputs):
        attempts.append(graph)
        raise RuntimeError('no compiler here\nand a long trace')

    fast = compiled(double, backend=backend)
    for size in (3, 4, 5):
        values = torch.arange(float(size))
        assert torch.equal(fast(values), 2 * values)
    assert fast.failed
    assert len(attempts) == 1
    (record,) = own_records(caplog)
    assert record.levelname == 'WARNING'
    assert record.message.startswith('double runs uncompiled, as torch.compile failed')
    assert 'no compiler here' in record.message
    assert 'long trace' not in record.message


def test_errors_of_the_function_are_its_own(caplog):
    fast = compiled(double, backend='eager')
    with pytest.raises(ValueError, match='one dimension only'):
        fast(torch.zeros(2, 2))
    assert not fast.failed and not own_records(caplog)
    assert torch.equal(fast(torch.ones(2)), torch.full((2,), 2.0))


def test_want_of_memory_is_not_a_reason_to_run_uncompiled(caplog):
    calls = []

    def backend(graph, inputs):
        def run(*inputs):
            calls.append(1)
            if len(calls) == 1:
                raise torch.OutOfMemoryError('no memory left')
            return graph.forward(*inputs)

        return run

    fast = compiled(double, backend=backend)
    with pytest.raises(torch.OutOfMemoryError):
        fast(torch.ones(2))
    assert not fast.failed and not own_records(caplog)
    assert torch.equal(fast(torch.ones(2)), torch.full((2,), 2.0))
    assert len(calls) == 2


class Model(nn.Module):
    """Holds a compiled method of its part."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Linear(2, 2)
        self.fast = compiled(self.part.forward, name='part', backend='eager')

    def forward(self, values: Tensor) -> Tensor:
        return self.fast(values)


def test_copies_compile_their_own_part():
    model = Model()
    values = torch.ones(1, 2)
    before = model(values)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.part.weight.zero_()
    torch.testing.assert_close(model(values), before)
    torch.testing.assert_close(other(values)[0], other.part.bias)
    loaded = pickle.loads(pickle.dumps(model))
    torch.testing.assert_close(loaded(values), before)


def test_inside_of_another_compilation():
    fast = compiled(double, backend='eager')
    outer = torch.compile(lambda x: fast(x) + 1, backend='eager', fullgraph=True)
    assert torch.equal(outer(torch.ones(2)), torch.full((2,), 3.0))
