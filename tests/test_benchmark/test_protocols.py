"""Protocols: what the authors' repositories say, written to configs and read back."""

from __future__ import annotations

import copy
import functools
import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config, ConfigDict

from pacl_mmseg.benchmark import PROTOCOLS, apply_protocol, compose, read_protocol
from pacl_mmseg.benchmark.protocols import REAL_BENCHMARKS, format_protocol
from pacl_mmseg.registry import MODELS

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'

# As the authors' configs/cfg_*.py have it: short side, slide_crop, slide_stride,
# logit_scale, prob_thd (None: without a background class).
AUTHORS = {
    'sclip': {
        'voc20': (336, 224, 112, 40, None),
        'voc21': (336, 224, 112, 65, 0.1),
        'context59': (336, 224, 112, 40, None),
        'context60': (336, 224, 112, 50, 0.1),
        'coco_object': (336, 224, 112, 50, 0.1),
        'coco_stuff171': (448, 224, 112, 40, None),
        'ade20k': (336, 224, 112, 40, None),
        'cityscapes': (560, 224, 112, 40, None),
    },
    'clearclip': {
        'voc20': (448, 448, 224, 50, None),
        'voc21': (448, 448, 224, 50, 0.5),
        'context59': (448, 448, 224, 50, None),
        'context60': (448, 448, 224, 50, 0.15),
        'coco_object': (448, 448, 224, 50, 0.4),
        'coco_stuff171': (448, 448, 224, 50, None),
        'ade20k': (448, 448, 224, 50, None),
        'cityscapes': (448, 224, 224, 50, None),
    },
    'naclip': {  # slide_crop=0: the whole image
        'voc20': (336, None, None, 40, None),
        'voc21': (336, None, None, 40, 0.1),
        'context59': (336, 224, 112, 40, None),
        'context60': (336, 224, 112, 40, 0.1),
        'coco_object': (336, 224, 112, 40, 0.1),
        'coco_stuff171': (336, 224, 112, 40, None),
        'ade20k': (336, 224, 112, 40, None),
        'cityscapes': (560, 224, 112, 40, None),
    },
}


@functools.cache
def _config_of(benchmark: str) -> Config:
    return compose('clip', benchmark)


def config_of(benchmark: str, protocol: str) -> Config:
    config = copy.deepcopy(_config_of(benchmark))  # composing takes half a second
    apply_protocol(config, protocol, benchmark)
    return config


@pytest.mark.parametrize('protocol', AUTHORS)
def test_presets_are_the_authors_configs(protocol):
    for benchmark, values in AUTHORS[protocol].items():
        side, window, stride, scale, threshold = values
        read = read_protocol(config_of(benchmark, protocol))
        assert read['short_side'] == side
        assert (read['window'], read['window_stride']) == (window, stride)
        assert read['mode'] == ('whole' if window is None else 'slide')
        assert read['logit_scale'] == scale
        assert read['background']['threshold'] == threshold
        assert read['background']['rule'] == ('probability' if threshold else 'none')
        assert read['area_threshold'] == (
            0.1 if (protocol, benchmark) == ('sclip', 'voc21') else None
        )
        assert (read['template_count'], read['pamr']) == (80, None)


def test_what_sets_the_other_presets_apart():
    pamr = read_protocol(config_of('ade20k', 'naclip_pamr'))
    assert pamr['pamr'] == dict(steps=10, dilations=(8, 16))
    dinoiser = read_protocol(config_of('context60', 'dinoiser'))
    assert dinoiser['average'] == 'probabilities'
    assert dinoiser['logit_scale'] == 100
    assert dinoiser['background']['rule'] == 'names'
    paper = read_protocol(config_of('voc21', 'pacl_paper'))
    assert paper['token_stride'] == 4
    assert paper['template_count'] == 7
    assert paper['background'] == dict(rule='entropy', threshold=1.5, names=False)


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
    for key in ('benchmark', 'model', 'test_dataloader', 'test_evaluator', 'tta_model'):
        assert composed[key] == config[key]
    assert composed.tta_pipeline == config.tta_pipeline


def test_what_is_there_counts_and_not_what_was_asked_for():
    config = config_of('voc21', 'clearclip')
    config.model.decode_head.logit_scale = 40.0
    config.test_dataloader.dataset.pipeline[1].scale = (2048, 512)
    read = read_protocol(config)
    assert (read['protocol'], read['nearest']) == ('custom', 'clearclip')
    assert read['differs'] == dict(short_side=448, logit_scale=50.0)
    assert 'clearclip, but short_side 512 for 448' in format_protocol(read)


def test_same_settings_under_two_names():
    read = read_protocol(config_of('ade20k', 'naclip'))
    assert (read['protocol'], read['same_as']) == ('sclip', ['naclip'])
    assert 'sclip (here the same as naclip)' in format_protocol(read)


def test_augmentation_is_another_protocol():
    config = config_of('voc20', 'sclip')
    config.test_dataloader.dataset.pipeline = config.tta_pipeline
    config.model = ConfigDict(type='SegTTAModel', module=config.model)
    read = read_protocol(config)
    assert (read['protocol'], read['nearest']) == ('custom', 'sclip')
    assert read['differs'] == dict(tta=False)
    assert read['short_side'] == 336


def test_augmentation_gets_the_protocols_size():
    config = config_of('voc20', 'clearclip')
    (resize,) = config.tta_pipeline[1].transforms[0]
    assert resize.scale == (2048, 448)


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
    assert 'whole image' in format_protocol(read)


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


@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_the_documentation_has_the_same_values(protocol):
    text = (CONFIGS.parent / 'docs' / 'protocols.md').read_text()
    _, _, section = text.partition(f'\n### `{protocol}`\n')
    table = section.partition('\n#')[0]
    for benchmark in REAL_BENCHMARKS:
        p = read_protocol(config_of(benchmark, protocol))
        background = p['background']
        rule = '-' if background['rule'] == 'none' else background['rule']
        cells = [
            benchmark,
            p['short_side'],
            f'{p["window"]} / {p["window_stride"]}' if p['window'] else 'whole image',
            p['names'],
            f'{p["logit_scale"]:g}',
            f'{rule} {background["threshold"] or ""}'.strip(),
        ]
        assert f'| {" | ".join(map(str, cells))} |' in table
