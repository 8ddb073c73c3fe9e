"""Models for single images; a checkpoint is somebody else's file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmseg.apis import inference_model

from pacl_mmseg.apis import Inferencer, init_model, set_vocabulary
from pacl_mmseg.registry import MODELS


@pytest.fixture
def config(tiny_model) -> Config:
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackSegInputs')]
    return Config(
        dict(
            model=tiny_model,
            test_pipeline=pipeline,
            visualizer=dict(type='SegLocalVisualizer', name='inference'),
            # As the small world's: its scenes are no files.
            test_dataloader=dict(dataset=dict(pipeline=pipeline[1:])),
        ),
        format_python_code=False,  # slow
    )


@pytest.fixture
def checkpoint(config, tmp_path) -> str:
    """Of other weights of the embedder than those that the config begins with."""
    torch.manual_seed(1)
    model = MODELS.build(config.model)
    path = tmp_path / 'weights.pth'
    trained = {k: v for k, v in model.state_dict().items() if k.startswith('neck.')}
    # What a training on captions has for classes is none of the model's.
    torch.save(dict(state_dict=trained, meta=dict(dataset_meta={})), path)
    return str(path)


class Program:
    """What a pickle may say: open a file, or do anything else."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return open, (str(self.trace), 'w')


IMAGE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)


@pytest.mark.parametrize('with_config', ['file', 'object'])
def test_a_model_of_a_config_and_a_checkpoint(
    config, checkpoint, with_config, tmp_path
):
    if with_config == 'file':
        config.dump(tmp_path / 'config.py')
        config = tmp_path / 'config.py'
    options = {'model.decode_head.logit_scale': 7.0}
    model = init_model(config, checkpoint, 'cpu', options)
    stored = torch.load(checkpoint, weights_only=True)['state_dict']
    assert len(stored) > 2
    for name, value in stored.items():
        assert torch.equal(model.state_dict()[name], value)
    assert model.decode_head.logit_scale == 7.0
    assert not model.training
    assert model.dataset_meta['classes'] == ('cat', 'dog', 'grass')
    result = inference_model(model, IMAGE).pred_sem_seg.data
    assert result.shape == (1, 40, 50)
    set_vocabulary(model, ['sky', 'sea'])
    assert inference_model(model, IMAGE).pred_sem_seg.data.max() <= 1
    if with_config == 'object':  # it is as it was
        assert 'logit_scale' not in config.model.decode_head


def test_the_inferencer_is_that_model(config, checkpoint):
    inferencer = Inferencer(config, checkpoint, device='cpu', show_progress=False)
    result = inferencer(IMAGE)['predictions']
    model = init_model(config, checkpoint, 'cpu')
    expected = inference_model(model, IMAGE).pred_sem_seg.data
    assert np.array_equal(result, expected[0].numpy())
    assert inferencer.visualizer.dataset_meta['classes'] == ('cat', 'dog', 'grass')


@pytest.mark.parametrize('make', [init_model, Inferencer])
@pytest.mark.parametrize('zipped', [True, False])
def test_nothing_in_a_checkpoint_is_executed(config, tmp_path, make, zipped):
    path, trace = tmp_path / 'evil.pth', tmp_path / 'trace'
    content = dict(state_dict={}, meta=dict(cfg=Program(trace)))
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(RuntimeError, match='nothing in it was executed'):
        make(config, str(path), device='cpu')
    assert not trace.exists()
    torch.load(path, weights_only=False)  # what this guards against
    assert trace.exists()


def test_the_config_within_a_checkpoint_is_not_run(checkpoint):
    with pytest.raises(ValueError, match='Give a config'):
        Inferencer(None, checkpoint, device='cpu')


def test_what_is_not_that_models(config, checkpoint, tmp_path):
    with pytest.raises(ValueError, match='trained parts: give the checkpoint'):
        init_model(config, device='cpu')
    with pytest.raises(FileNotFoundError, match='There is no checkpoint'):
        init_model(config, str(tmp_path / 'no.pth'), 'cpu')
    with pytest.raises(RuntimeError, match='another shape.*another config'):
        init_model(config, checkpoint, 'cpu', {'model.neck.out_channels': 7})
    with pytest.raises(ValueError, match='its name is model.encoder.pretrained'):
        init_model(config, checkpoint, 'cpu', {'encoder.pretrained': 'x.pt'})
    config.encoder = dict(pretrained='x.pt')
    with pytest.raises(ValueError, match='top-level `encoder`'):
        init_model(config, checkpoint, 'cpu')
