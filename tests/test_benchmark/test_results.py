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
from pacl_mmseg.benchmark.results import (
    config_sha256,
    encoders,
    file_sha256,
    images_per_second,
    write_json,
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


def test_a_file_is_written_as_a_whole(tmp_path):
    path = tmp_path / 'result.json'
    write_json(path, dict(mIoU=1.5))
    with pytest.raises(TypeError):
        write_json(path, dict(mIoU=object()))
    assert json.loads(path.read_text()) == dict(mIoU=1.5)
    assert [file.name for file in tmp_path.iterdir()] == ['result.json']
