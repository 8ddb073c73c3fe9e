"""Files given as checkpoints that are damaged, foreign, malicious, or of no use."""

from __future__ import annotations

import math
import os
import pickle
import random
import time
from pathlib import Path

import pytest
import torch
from engine_runs import run

from pacl_mmseg.engine.checkpoint import load_checkpoint_file
from pacl_mmseg.registry import RUNNERS


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def write_bad(kind: str, path: Path, bomb: Path) -> None:
    if kind == 'truncated':
        torch.save(dict(state_dict={'a': torch.zeros(1000)}), path)
        path.write_bytes(path.read_bytes()[:2000])
    elif kind == 'pickled':
        path.write_bytes(pickle.dumps(dict(state_dict=Bomb(bomb))))
    elif kind == 'bomb':
        torch.save(dict(state_dict=Bomb(bomb)), path)
    elif kind == 'text':
        path.write_text('epoch 1\n')
    elif kind == 'empty':
        path.write_bytes(b'')
    elif kind == 'a list':
        torch.save([torch.zeros(1)], path)
    elif kind == 'nan':
        torch.save(dict(state_dict={'a': torch.tensor([1.0, math.nan])}), path)


@pytest.mark.parametrize(
    ('kind', 'message'),
    [
        ('truncated', 'is truncated or damaged'),
        ('pickled', 'nothing in it was executed'),
        ('bomb', 'nothing in it was executed'),
        ('text', 'no checkpoint'),
        ('empty', 'no checkpoint'),
        ('a list', 'holds no state dict'),
        ('nan', r'not finite \(the first are a\): use an earlier checkpoint'),
    ],
)
def test_bad_files_end_in_one_sentence(tmp_path, kind, message):
    path = tmp_path / 'bad.pth'
    write_bad(kind, path, tmp_path / 'executed')
    with pytest.raises(RuntimeError, match=message) as error:
        load_checkpoint_file(path)
    assert str(error.value).startswith(f'{path} ')
    assert not (tmp_path / 'executed').exists()
    with pytest.raises(FileNotFoundError, match='There is no checkpoint'):
        load_checkpoint_file(tmp_path / 'none.pth')


def test_a_flipped_byte_never_changes_what_is_loaded(tmp_path):
    rng, path = random.Random(0), tmp_path / 'a.pth'
    saved = dict(
        meta=dict(iter=3, name='a'),
        state_dict={name: torch.randn(20, 5) for name in ('neck.a', 'neck.b')},
    )
    torch.save(saved, path)
    content, refused = path.read_bytes(), 0
    for place in rng.sample(range(len(content)), 400):
        flipped = bytearray(content)
        flipped[place] ^= rng.randrange(1, 256)
        path.write_bytes(flipped)
        try:
            loaded = load_checkpoint_file(path)
        except RuntimeError as error:
            assert str(error).startswith(f'{path} ')
            refused += 1
            continue
        assert loaded['meta'] == saved['meta']
        assert loaded['state_dict'].keys() == saved['state_dict'].keys()
        for name, value in saved['state_dict'].items():
            assert torch.equal(loaded['state_dict'][name], value)
    assert refused > 200  # the rest is padding


def build(config, **settings):
    config.update(settings)
    config.experiment_name = f'load{time.monotonic_ns()}'
    return RUNNERS.build(config)


def test_checkpoints_that_do_not_fit_are_refused(config, tmp_path):
    config.train_cfg.max_iters = 1
    run(config)
    path, other = Path(config.work_dir) / 'iter_1.pth', tmp_path / 'other.pth'
    checkpoint = torch.load(path, weights_only=True)

    torch.save(dict(state_dict={'some.weight': torch.zeros(1)}), other)
    with pytest.raises(RuntimeError, match=r'lacks 6 trained.*first is neck\.main\.0'):
        build(config, load_from=str(other)).load_or_resume()

    # Weights alone can be tested and started from, but not resumed.
    for kept in ({'state_dict'}, {'state_dict', 'meta', 'message_hub'}):
        torch.save({key: checkpoint[key] for key in kept}, other)
        build(config, load_from=str(other)).load_or_resume()
        resumed = dict(load_from=str(other), work_dir=str(tmp_path / 'new'))
        with pytest.raises(RuntimeError, match='no state of a training to resume'):
            build(config, resume=True, **resumed).train()
    build(config, resume=False).train()

    channels = config.model.neck.out_channels
    config.model.neck.out_channels = 7
    with pytest.raises(RuntimeError, match='in another shape.*another config'):
        build(config, load_from=str(path)).load_or_resume()
    config.model.neck.out_channels = channels
    config.model.backbone.init_seed = 1
    config.model.decode_head.text_encoder.init_seed = 1
    with pytest.raises(RuntimeError, match=r'seed 0\).*this config builds.*seed 1\)'):
        build(config).load_or_resume()


def test_an_untrained_embedder_is_not_tested(config):
    with pytest.raises(RuntimeError, match='give the checkpoint that holds them'):
        build(config).test()
