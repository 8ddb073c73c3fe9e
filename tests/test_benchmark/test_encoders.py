"""Methods on other encoders than ViT-B/16."""

import pytest

from pacl_mmseg.apis.checking import check_config
from pacl_mmseg.benchmark import (
    ENCODERS,
    METHODS,
    compose,
    format_protocol,
    read_protocol,
)
from pacl_mmseg.benchmark.protocols import REAL_BENCHMARKS
from pacl_mmseg.benchmark.tables import table_row
from pacl_mmseg.models.encoder import hand_over

SIZES = dict(
    vitb16=(768, 512), vitl14=(1024, 768), rn50=(2048, 1024), dino_vitb16=(768, 512)
)


@pytest.mark.parametrize('encoder', ENCODERS)
def test_every_benchmark_takes_every_encoder(encoder):
    for benchmark in REAL_BENCHMARKS if encoder == 'vitl14' else ['voc20', 'ade20k']:
        cfg = compose('pacl', benchmark, encoder=encoder)
        neck = cfg.model.neck
        assert (neck.in_channels, neck.out_channels) == SIZES[encoder]
        own = compose('pacl', benchmark)
        assert cfg.model.test_cfg == own.model.test_cfg
        assert cfg.model.decode_head == own.model.decode_head
        assert cfg.test_dataloader == own.test_dataloader
        hand_over(cfg.model)


def test_training_free_methods_keep_what_makes_them():
    model = compose('sclip', 'voc21', encoder='vitl14').model
    assert model.encoder.model == 'ViT-L-14-quickgelu'
    assert model.backbone == compose('sclip', 'voc21').model.backbone
    clip = compose('clip', 'voc21', encoder='rn50').model.backbone
    assert clip == dict(type='CLIPResNet', output='projection')
    with pytest.raises(ValueError, match="no encoder 'vitl16'.*mean 'vitl14'"):
        compose('clip', 'voc21', encoder='vitl16')
    with pytest.raises(ValueError, match='small_world has its own encoder: leave'):
        compose('clip', 'small_world', encoder='vitl14')


@pytest.mark.parametrize('encoder', ['rn50', 'dino_vitb16'])
def test_an_encoder_runs_what_it_has_parts_for(encoder):
    able = dict(rn50='clip, pacl', dino_vitb16='pacl')[encoder] + ', clippy, nms05'
    for method in METHODS:
        if method in able.split(', '):
            check_config(compose(method, 'voc21', encoder=encoder))
            continue
        with pytest.raises(ValueError, match=f'{encoder} runs {able}, and {method} ru'):
            compose(method, 'voc21', encoder=encoder)


def test_a_result_says_its_encoder():
    protocol = read_protocol(compose('pacl', 'ade20k', encoder='dino_vitb16'))
    assert protocol['weights'] == 'timm/vit_base_patch16_224.dino (dino)'
    assert (protocol['protocol'], protocol['nearest']) == ('custom', 'sclip')
    assert protocol['differs'] == dict(interpolate_offset=0.1)
    line = 'protocol custom (sclip, but no interpolate_offset where it has 0.1)'
    assert line in format_protocol(protocol)
    protocol = read_protocol(compose('pacl', 'ade20k', encoder='vitl14'))
    assert protocol['weights'] == 'ViT-L-14-quickgelu (openai)'
    assert (protocol['protocol'], protocol['token_stride']) == ('sclip', 14)
    with pytest.raises(ValueError, match="sets 'stride' of a PACLBackbone.*TimmTower"):
        compose('pacl', 'ade20k', 'pacl_paper', encoder='dino_vitb16')
    assert table_row('pacl', 'ade20k', None, 'why', 'vitl14')['failure'] == 'why'
