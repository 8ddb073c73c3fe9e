"""Text banks on disk: never encoded twice, never wrong, never in the way."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger

from pacl_mmseg.models.text_encoders import OpenCLIPTextEncoder, build_text_bank
from pacl_mmseg.prompts import Vocabulary

NAMES = Vocabulary.from_list(['cat', 'dog, puppy', 'grass'])
TEMPLATES = ('a photo of a {}.', 'art of the {}.')


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv('PACL_CACHE_DIR', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


@pytest.fixture
def encoder(tiny_clip) -> OpenCLIPTextEncoder:
    return OpenCLIPTextEncoder(tiny_clip)


@contextmanager
def encodings(encoder):
    """The number of texts of every call of the encoder."""
    calls = []
    handle = encoder.register_forward_hook(
        lambda _, texts, __: calls.append(len(*texts))
    )
    yield calls
    handle.remove()


@contextmanager
def logged(caplog):
    """Messages at or above INFO of MMEngine's logger, which hands none to pytest."""
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO, logger.name):
        yield caplog.records
    logger.removeHandler(caplog.handler)


def uncached(encoder, names=NAMES, templates=TEMPLATES):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PACL_CACHE_DIR', '')
        return build_text_bank(encoder, names, templates).embeddings


def test_a_second_start_encodes_no_text(cache, encoder, tiny_clip):
    with encodings(encoder) as calls:
        first = build_text_bank(encoder, NAMES, TEMPLATES)
    assert calls == [8]
    assert torch.equal(first.embeddings, uncached(encoder))
    again = OpenCLIPTextEncoder(tiny_clip)
    with encodings(again) as calls:
        second = build_text_bank(again, NAMES, TEMPLATES)
    assert calls == []
    assert torch.equal(second.embeddings, first.embeddings)
    assert second.embeddings.dtype == torch.float32
    assert second.class_of.tolist() == [0, 1, 1, 2]
    assert second.num_classes == 3
    # The classes of the same names are not in the file, so they may differ.
    names = Vocabulary.from_list(['cat, dog', 'puppy, grass'])
    with encodings(again) as calls:
        third = build_text_bank(again, names, TEMPLATES)
    assert calls == []
    assert third.class_of.tolist() == [0, 0, 1, 1]


def test_many_prompts_are_encoded_in_parts(cache, tiny_clip, capsys):
    whole = uncached(OpenCLIPTextEncoder(tiny_clip))
    encoder = OpenCLIPTextEncoder(tiny_clip, batch_size=7)
    with encodings(encoder) as calls:
        bank = build_text_bank(encoder, NAMES, TEMPLATES)
    assert calls == [6, 2]  # whole names, at most seven prompts
    torch.testing.assert_close(bank.embeddings, whole)
    assert '2/2' in capsys.readouterr().err  # progress


@pytest.mark.parametrize(
    'changed',
    ['order of names', 'templates', 'weights', 'precision', 'heads', 'activation'],
)
def test_whatever_changes_the_embeddings_has_its_own_file(
    cache, encoder, tiny_clip, changed
):
    build_text_bank(encoder, NAMES, TEMPLATES)
    names, templates, options = NAMES, TEMPLATES, {}
    match changed:
        case 'order of names':
            names = Vocabulary.from_list(['dog, puppy', 'cat', 'grass'])
        case 'templates':
            templates = TEMPLATES[:1]
        case 'weights':
            options = dict(init_seed=1)
        case 'precision':
            options = dict(dtype='bfloat16')
        case 'heads':  # of the same weights
            tiny_clip['text_cfg']['heads'] = 4
        case 'activation':
            tiny_clip['quick_gelu'] = True
    other = OpenCLIPTextEncoder(tiny_clip, **options)
    expected = uncached(other, names, templates)
    assert not torch.equal(expected, uncached(encoder))
    for _ in range(2):
        bank = build_text_bank(other, names, templates)
        assert torch.equal(bank.embeddings, expected)
    assert len(list(cache.glob('*.npz'))) == 2


def test_a_trained_encoder_leaves_no_file(cache, tiny_clip):
    encoder = OpenCLIPTextEncoder(tiny_clip, frozen=False)
    before = build_text_bank(encoder, NAMES, TEMPLATES).embeddings
    with torch.no_grad():
        encoder.text.ln_final.weight.mul_(torch.rand(16))
    after = build_text_bank(encoder, NAMES, TEMPLATES).embeddings
    assert not torch.allclose(before, after)
    assert not cache.exists()


@pytest.mark.parametrize(
    'damage',
    [
        *('empty', 'truncated', 'garbage', 'one bit'),
        *('not finite', 'not of unit length', 'too short', 'float64', 'another name'),
    ],
)
def test_a_damaged_file_is_replaced(cache, encoder, damage, caplog):
    bank = build_text_bank(encoder, NAMES, TEMPLATES)
    (path,) = cache.glob('*.npz')
    whole = path.read_bytes()
    values = bank.embeddings.numpy().tobytes()
    flipped = values[:100] + bytes([values[100] ^ 1]) + values[101:]
    good = bank.embeddings.numpy()
    wrong = {
        'not finite': dict(embeddings=np.full_like(good, np.nan)),
        'not of unit length': dict(embeddings=2 * good),
        'too short': dict(embeddings=good[:-1]),
        'float64': dict(embeddings=good.astype(np.float64)),
        'another name': dict(embedding=good),
    }
    if damage in wrong:
        np.savez(path, **wrong[damage])
    broken = (
        path.read_bytes()
        if damage in wrong
        else {
            'empty': b'',
            'truncated': whole[: len(whole) // 2],
            'garbage': b'\x80garbage' * 100,
            'one bit': whole.replace(values, flipped),
        }[damage]
    )
    assert broken != whole
    path.write_bytes(broken)
    with encodings(encoder) as calls, logged(caplog) as records:
        for _ in range(2):
            again = build_text_bank(encoder, NAMES, TEMPLATES)
            assert torch.equal(again.embeddings, bank.embeddings)
    assert calls == [8]
    assert f'{path} is damaged, and is written anew' in records[0].message
    assert sorted(file.suffix for file in cache.iterdir()) == ['.npz']


@pytest.mark.parametrize('place', ['a file', 'not writable'])
def test_an_unusable_folder_costs_a_warning(
    encoder, place, tmp_path, monkeypatch, caplog
):
    (tmp_path / 'file').touch()
    folder = {'a file': tmp_path / 'file', 'not writable': '/proc/none'}[place]
    monkeypatch.setenv('PACL_CACHE_DIR', str(folder))
    with logged(caplog) as records, encodings(encoder) as calls:
        bank = build_text_bank(encoder, NAMES, TEMPLATES)
    assert torch.equal(bank.embeddings, uncached(encoder))
    assert calls == [8]
    (warning,) = [r for r in records if r.levelno >= logging.WARNING]
    assert str(folder) in warning.message
    assert 'set PACL_CACHE_DIR' in warning.message


def test_a_full_disk_costs_a_warning_and_no_second_encoding(
    cache, encoder, monkeypatch, caplog
):
    cache.mkdir()
    with encodings(encoder) as calls:
        build_text_bank(encoder, NAMES, TEMPLATES)
        (path,) = cache.glob('*.npz')
        path.unlink()
        part = cache / f'.{os.getpid()}.{path.name}'
        part.symlink_to('/dev/full')  # where every write fails
        with logged(caplog) as records:
            bank = build_text_bank(encoder, NAMES, TEMPLATES)
    assert calls == [8, 8]
    assert torch.equal(bank.embeddings, uncached(encoder))
    assert [r.levelname for r in records] == ['INFO', 'WARNING']
    assert not path.exists()


def test_an_empty_setting_keeps_nothing_and_is_silent(
    encoder, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv('PACL_CACHE_DIR', '')
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with logged(caplog) as records:
        build_text_bank(encoder, NAMES, TEMPLATES)
    assert [record.message for record in records] == [
        'Encoding 8 prompts (4 names x 2 templates)'
    ]
    assert not list(tmp_path.iterdir())


def test_the_default_folder_is_in_the_users_cache(encoder, tmp_path, monkeypatch):
    monkeypatch.delenv('PACL_CACHE_DIR', raising=False)
    monkeypatch.setenv('HOME', str(tmp_path))
    build_text_bank(encoder, NAMES, TEMPLATES)
    folder = tmp_path / '.cache' / 'pacl_mmseg' / 'text_banks'
    assert len(list(folder.glob('*.npz'))) == 1
