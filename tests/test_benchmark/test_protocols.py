"""Protocols: what the authors' repositories say, written to configs and read back."""

from __future__ import annotations

import copy
import functools
import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from pacl_mmseg.benchmark import (
    PROTOCOLS,
    apply_augmentation,
    apply_protocol,
    compose,
    read_protocol,
)
from pacl_mmseg.benchmark.protocol_docs import with_tables
from pacl_mmseg.benchmark.protocols import REAL_BENCHMARKS, format_protocol
from pacl_mmseg.registry import MODELS

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'


@functools.cache
def _config_of(benchmark: str) -> Config:
    return compose('clip', benchmark)


def config_of(benchmark: str, protocol: str) -> Config:
    config = copy.deepcopy(_config_of(benchmark))  # composing takes half a second
    apply_protocol(config, protocol, benchmark)
    return config


@pytest.mark.parametrize('benchmark', REAL_BENCHMARKS)
def test_what_is_written_is_read_back(benchmark):
    config = config_of(benchmark, 'sclip')
    for protocol in [*PROTOCOLS, *reversed(PROTOCOLS)]:  # over any other one
        apply_protocol(config, protocol, benchmark)
        read = read_protocol(config)
        assert protocol in [read['protocol'], *read['same_as']]
        assert read['differs'] == {}
        assert json.loads(json.dumps(read))['protocol'] == read['protocol']


@pytest.mark.parametrize('benchmark', REAL_BENCHMARKS)
def test_the_configs_are_the_default_protocol(benchmark):
    config = Config.fromfile(CONFIGS / f'pacl_{benchmark}.py')
    assert read_protocol(config)['protocol'] == 'sclip'
    composed = compose('pacl', benchmark)
    assert read_protocol(composed) == read_protocol(config)
    for cfg in (composed, config):  # a background rule may be written out in full
        cfg.model.test_cfg.pop('background', None)
    for key in ('benchmark', 'model', 'test_dataloader', 'test_evaluator', 'tta_model'):
        assert composed[key] == config[key]


def test_what_is_there_counts_and_not_what_was_asked_for():
    config = config_of('voc21', 'clearclip')
    config.model.decode_head.logit_scale = 40.0
    config.test_dataloader.dataset.pipeline[1].scale = (2048, 512)
    read = read_protocol(config)
    assert (read['protocol'], read['nearest']) == ('custom', 'clearclip')
    assert read['differs'] == dict(short_side=448, logit_scale=50.0)
    assert 'short_side 512 for 448' in format_protocol(read)


def test_a_subset_never_passes_for_the_whole():
    config = config_of('voc20', 'sclip')
    assert read_protocol(config)['subset'] is None
    for indices, words in ((5, 'the first 5 images'), ([3, 9], '2 chosen images')):
        config.test_dataloader.dataset.indices = indices
        text = format_protocol(read_protocol(config))
        assert text.startswith(f'protocol sclip, {words} alone\n')


def test_same_settings_under_two_names():
    read = read_protocol(config_of('ade20k', 'naclip'))
    assert (read['protocol'], read['same_as']) == ('sclip', ['naclip'])
    assert 'sclip (here the same as naclip)' in format_protocol(read)


def test_augmentation_is_another_protocol():
    config = config_of('voc20', 'sclip')
    apply_augmentation(config)
    read = read_protocol(config)
    assert (read['protocol'], read['nearest']) == ('custom', 'sclip')
    assert read['differs'] == dict(tta=False)
    assert read['short_side'] == 336


def test_augmentation_gets_the_protocols_size():
    config = config_of('voc20', 'clearclip')
    apply_augmentation(config)
    assert read_protocol(config)['short_side'] == 448


def test_the_hash_is_of_the_names():
    config = config_of('voc20', 'clearclip')
    names = 'pacl_mmseg/prompts/voc20_clearclip.txt'
    lines = (CONFIGS.parent / names).read_text().splitlines()
    del config.model.decode_head['dataset_name']
    config.model.decode_head.vocabulary = lines
    given = read_protocol(config)
    named = read_protocol(config_of('voc20', 'clearclip'))
    assert given['names_sha256'] == named['names_sha256']
    assert given['differs'] == dict(names='voc20_clearclip')
    lines[0] += ', jet'
    config.model.decode_head.vocabulary = lines
    assert read_protocol(config)['names_sha256'] != named['names_sha256']


@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_models_are_built_and_segment_as_written(protocol, tiny_clip):
    options = {
        'model.encoder.model': dict(tiny_clip, _delete_=True),
        'model.encoder.pretrained': None,
        'model.decode_head.templates': 'plain',
    }
    config = compose('clip', 'voc21', protocol, options)
    model = MODELS.build(config.model).eval()
    with torch.no_grad():
        (sample,) = model.predict(torch.rand(1, 3, 228, 300))
    labels = sample.pred_sem_seg.data
    assert labels.shape == (1, 228, 300)
    assert labels.max() <= 20


def test_a_config_of_another_kind_reads_too():
    read = read_protocol(Config.fromfile(CONFIGS / 'small_world' / 'probe.py'))
    assert read['protocol'] == 'custom'
    assert read['names'] is None and read['templates'] is None
    assert 'mode whole' in format_protocol(read)


def test_bad_names_are_answered_with_the_nearest():
    config = config_of('voc20', 'sclip')
    with pytest.raises(ValueError, match="no protocol 'clearklip'.*'clearclip'"):
        apply_protocol(config, 'clearklip', 'voc20')
    with pytest.raises(ValueError, match="no benchmark .*'voc22'.*Did you mean 'voc2"):
        apply_protocol(config, 'sclip', 'voc22')
    with pytest.raises(ValueError, match="no method 'maskclp'.*'maskclip'"):
        compose('maskclp', 'voc20')


def test_models_without_the_settings_are_refused():
    probe = Config.fromfile(CONFIGS / 'small_world' / 'probe.py')
    with pytest.raises(ValueError, match='of a ZeroShot.*this config has a'):
        apply_protocol(probe, 'sclip', 'voc20')


def test_the_documentation_has_the_tables_of_the_protocols():
    text = (CONFIGS.parent / 'docs' / 'protocols.md').read_text()
    assert with_tables(text) == text
    changed = text.replace('| 336 |', '| 337 |', 1)
    assert with_tables(changed) == text


def test_squares_come_and_go():
    """A preset exchanges a step of the pipelines; the next one brings it back."""
    config = config_of('voc21', 'sclip')
    before = copy.deepcopy(config.test_dataloader.dataset.pipeline)
    apply_protocol(config, 'clippy', 'voc21')
    kinds = [step.type for step in config.test_dataloader.dataset.pipeline]
    assert kinds == [
        *('LoadImageFromFile', 'LoadSegmentationMask', 'SquareImageAndMask'),
        'PackSegInputs',
    ]
    config.test_dataloader.dataset.pipeline[2].update(size=336, image='squash')
    read = read_protocol(config)
    assert (read['nearest'], read['differs']) == (
        'clippy',
        dict(short_side=224, square='crop'),
    )
    apply_protocol(config, 'sclip', 'voc21')
    assert config.test_dataloader.dataset.pipeline == before


def test_squares_are_mirrored_whole():
    config = config_of('voc21', 'clippy')
    apply_augmentation(config)
    read = read_protocol(config)
    assert (read['nearest'], read['differs']) == ('clippy', dict(tta=False))
