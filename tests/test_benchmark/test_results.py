"""The record of an evaluation. That tools/test.py writes one: tests/test_tools."""

from __future__ import annotations

import hashlib
import json
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.logging import MessageHub
from torch import nn

from pacl_mmseg.benchmark import compose, describe_test
from pacl_mmseg.benchmark.grid import Cell
from pacl_mmseg.benchmark.results import (
    config_sha256,
    encoders,
    file_sha256,
    images_per_second,
    read_result,
    write_result,
)
from pacl_mmseg.registry import MODELS


def test_the_hash_is_of_what_decides_the_numbers(tmp_path):
    config = compose('clip', 'small_world')
    before = config_sha256(config)
    config.dump(tmp_path / 'config.py')
    again = Config.fromfile(tmp_path / 'config.py')
    again.work_dir, again.launcher, again.train_dataloader = 'elsewhere', 'slurm', None
    assert config_sha256(again) == before
    again.model.decode_head.logit_scale = 41.0
    assert config_sha256(again) != before
    config.test_dataloader.dataset.num_scenes = 7
    assert config_sha256(config) != before


def test_description_before_a_test(tmp_path):
    checkpoint = tmp_path / 'weights.pth'
    checkpoint.write_bytes(b'weights')
    description = describe_test(compose('pacl', 'small_world'), str(checkpoint))
    assert description['checkpoint'] == dict(
        file=str(checkpoint), sha256=hashlib.sha256(b'weights').hexdigest()
    )
    assert description['protocol']['names'] == 'small_world'
    with pytest.raises(FileNotFoundError, match='There is no checkpoint'):
        file_sha256(tmp_path / 'no.pth')


def timed_runner(seconds: list[float], images: int, batch: int, processes: int):
    hub = MessageHub.get_instance(f'test_speed_{images}_{seconds}')
    for value in seconds:
        hub.update_scalar('test/time', value)
    loader = SimpleNamespace(dataset=range(images), batch_size=batch)
    return SimpleNamespace(
        message_hub=hub, test_dataloader=loader, world_size=processes
    )


def test_speed_leaves_out_the_first_batch():
    # 8 images in the slow first round of two processes; the other 14 take 2 seconds.
    runner = timed_runner([9.0, 1.0, 1.0], images=22, batch=4, processes=2)
    assert images_per_second(runner) == 7.0
    assert images_per_second(timed_runner([2.0], 3, 4, 1)) == 1.5
    assert images_per_second(timed_runner([], 3, 4, 1)) is None


def test_fingerprints_of_all_frozen_encoders(tiny_model):
    model = MODELS.build(tiny_model)
    wrapped = nn.ModuleDict(dict(module=model))  # what several processes make of names
    found = encoders(wrapped)
    assert set(found) == {'backbone', 'decode_head.text_encoder'}
    assert found['backbone']['sha256'] == model.backbone.fingerprint()
    assert 'random weights' in found['backbone']['name']


def test_a_damaged_result_is_noticed(tmp_path):
    path = tmp_path / 'result.json'
    record = dict(metrics=dict(mIoU=45.21), versions=dict(pacl_mmseg='0.1.0'))
    write_result(path, dict(record, dilations=(8, 16)))
    assert read_result(path) == dict(record, dilations=[8, 16])
    text = path.read_text()
    for damaged in ('', text[:50], text.replace('45.21', '46.21'), '[]', '{}', '3'):
        path.write_text(damaged)
        with pytest.raises(ValueError, match=f'{path} (is damaged|was changed)'):
            read_result(path)
    path.write_bytes(b'\xff\x00')
    with pytest.raises(ValueError, match=f'{path} is damaged'):
        read_result(path)
    with pytest.raises(FileNotFoundError):
        read_result(tmp_path / 'none.json')


def test_a_result_of_the_version_before_is_refused_by_name(tmp_path):
    path = tmp_path / 'voc20' / 'clip' / '0123abcd' / 'result.json'
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(OLD_RESULT, indent=2))
    sentence = 'is of an earlier version .0.1.0., whose results have no checksum'
    with pytest.raises(ValueError, match=sentence):
        read_result(path)
    cell = Cell('voc20/clip', compose('clip', 'voc20'), tmp_path)
    with pytest.warns(UserWarning, match=f'Not taken up: {path} {sentence}'):
        assert cell.record() is None


# As the version before wrote it, shortened.
OLD_RESULT = {
    'method': {'dense_attention': None, 'output': 'projection', 'neck': None},
    'protocol': {'protocol': 'sclip', 'same_as': ['naclip'], 'benchmark': 'voc20'},
    'config_sha256': '52a3f1ad0d1c',
    'checkpoint': None,
    'metrics': {'aAcc': 70.1, 'mIoU': 41.8, 'present_classes/mIoU': 60.2},
    'images': 1449,
    'images_per_s': 3.2,
    'peak_memory_mb': 2048,
    'encoders': {'backbone': {'name': 'ViT-B-16-quickgelu', 'sha256': 'abc'}},
    'versions': {'torch': '2.9.0', 'pacl_mmseg': '0.1.0'},
    'device': 'CPU',
    'processes': 1,
    'date': '2026-11-01T00:00:00+00:00',
}
