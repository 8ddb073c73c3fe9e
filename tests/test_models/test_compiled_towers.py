"""Compiled towers against uncompiled ones."""

from __future__ import annotations

import copy
import os
import shutil

import pytest
import torch
from torch._inductor import config as inductor

from pacl_mmseg.models import OpenCLIPTextEncoder, PACLBackbone

SENTENCE = 'two dogs on a meadow and a cow behind them'
TEXTS = ['a cat', SENTENCE, 'sky', SENTENCE + ' or not']


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def images():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def warnings(caplog) -> list[str]:
    """Those of this package."""
    return [r.message for r in caplog.records if r.name.startswith('pacl_mmseg')]


def graphs() -> int:
    return torch._dynamo.utils.counters['stats']['unique_graphs']


@pytest.mark.skipif(
    not shutil.which(os.environ.get('CXX', 'g++')), reason='needs a C++ compiler'
)
def test_compiled_equals_uncompiled(tiny_clip, images, caplog):
    backbone = PACLBackbone(tiny_clip, compile=True)
    torch.testing.assert_close(backbone(images), PACLBackbone(tiny_clip)(images))
    assert graphs() == 1  # for both layers
    assert not warnings(caplog)


@pytest.mark.parametrize('kind', [PACLBackbone, OpenCLIPTextEncoder])
def test_one_graph_and_every_copy_its_own_weights(tiny_clip, images, kind):
    """With a backend that only traces, which takes no time."""
    tiny_clip['text_cfg'].update(layers=2, width=64)
    inputs = images if kind is PACLBackbone else TEXTS
    plain, compiled = kind(tiny_clip), kind(tiny_clip, compile=True)
    compiled._run_block.options['backend'] = 'aot_eager'
    expected = torch.stack([*plain(inputs)])
    torch.testing.assert_close(torch.stack([*compiled(inputs)]), expected)
    assert graphs() == 1  # for both layers, and for texts of any length
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    assert compiled.fingerprint() == plain.fingerprint()
    other = copy.deepcopy(compiled)
    with torch.no_grad():
        for weight in other.parameters():
            weight += 0.01 * torch.randn_like(weight)
    assert not torch.allclose(torch.stack([*other(inputs)]), expected, atol=1e-3)
    torch.testing.assert_close(torch.stack([*compiled(inputs)]), expected)


def test_without_a_compiler_it_runs_uncompiled(tiny_clip, images, caplog):
    backbone = PACLBackbone(tiny_clip, compile=True, batch_size=2)
    missing = {'cpp.cxx': ('/no/such/compiler',), 'force_disable_caches': True}
    with inductor.patch(missing):
        maps = backbone(images)
    torch.testing.assert_close(maps, PACLBackbone(tiny_clip)(images))
    (warning,) = warnings(caplog)
    assert 'inline architecture (random weights, seed 0) runs uncompiled' in warning
