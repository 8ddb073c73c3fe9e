"""The command-line tools, as processes of their own and on real photographs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmseg.apis import MMSegInferencer, inference_model, init_model
from processes import Done, tool

from pacl_mmseg.apis import set_vocabulary
from pacl_mmseg.models.open_clip_model import build_open_clip

ROOT = Path(__file__).resolve().parents[2]


def last_error(done: Done) -> str:
    assert done.returncode == 1, done.stderr
    assert 'Traceback' not in done.stderr
    for noise in ('OneDL', 'MultiScaleDeformableAttention'):  # OpenMMLab's, of imports
        assert noise not in done.stdout + done.stderr
    (line,) = [x for x in done.stderr.splitlines() if x.startswith('Error: ')]
    return line


@pytest.fixture(scope='session')
def trained(tmp_path_factory, real_data) -> Path:
    """A checkpoint of a tiny CLIP's embedder, trained on real captioned photographs.

    Through both tools that this takes: packing shards, and training the paper's
    config, its encoder replaced by a tiny one with random weights.
    """
    folder = tmp_path_factory.mktemp('trained')
    coco = real_data / 'coco_captions'
    done = tool(
        'dataset_tools/pack_shards.py',
        coco / 'captions.json',
        folder / 'shards',
        '--image-root',
        coco / 'images',
        '--shard-size',
        60,
    )
    assert done.returncode == 0, done.stderr
    write_config(folder)
    done = tool('train.py', folder / 'train.py', '--work-dir', folder / 'run')
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / 'run' / 'iter_3.pth'


def write_config(folder: Path) -> None:
    tiny = dict(
        embed_dim=24,
        vision_cfg=dict(image_size=32, patch_size=8, width=32, layers=2, head_width=16),
        text_cfg=dict(context_length=24, vocab_size=49408, width=16, heads=2, layers=1),
    )
    weights = folder / 'clip.pt'
    torch.save(build_open_clip(tiny).state_dict(), weights)
    common = f"""
model = dict(
    encoder=dict(
        model=dict(_delete_=True, **{tiny}), pretrained={str(weights)!r}
    ),
    neck=dict(in_channels=32, out_channels=24),
    test_cfg=dict(crop_size=(32, 32), stride=(16, 16)),
)
"""
    (folder / 'train.py').write_text(
        f"_base_ = ['{ROOT}/configs/pacl_vitb16_cc12m.py']\n{common}"
        f"""
pipeline = [
    dict(type='LoadPILImage', min_size=64, jpeg_decoder='torchvision'),
    dict(type='PickCaption'),
    dict(type='NounPrompt', prob=0.0),
    dict(type='CLIPResizeCrop', crop='random', backend='torch'),
    dict(type='TokenizeCaption'),
    dict(type='PackImageText'),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    dataset=dict(
        shards='{folder}/shards/{{00000..00004}}.tar', pipeline=pipeline
    ),
)
train_cfg = dict(max_iters=3)
default_hooks = dict(logger=dict(interval=1))
"""
    )
    (folder / 'voc20.py').write_text(
        f"_base_ = ['{ROOT}/configs/pacl_voc20.py']\n{common}"
        'scale = (128, 48)\n'
        "test_pipeline = [dict(type='LoadImageFromFile'),"
        " dict(type='Resize', scale=scale, keep_ratio=True),"
        " dict(type='LoadAnnotations'), dict(type='PackSegInputs')]\n"
        'test_dataloader = dict(num_workers=0, persistent_workers=False,'
        ' dataset=dict(pipeline=test_pipeline))\n'
    )


def test_real_photographs_end_to_end(trained, real_data, tmp_path):
    config = trained.parents[1] / 'voc20.py'
    root = f'test_dataloader.dataset.data_root={real_data}/voc_layout/VOC2012'
    options = [root, 'test_dataloader.dataset.indices=4']
    done = tool(
        'test.py', config, trained, '--work-dir', tmp_path, '--cfg-options', *options,
        '--show-dir', tmp_path / 'show', '--out', tmp_path / 'masks',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    (report,) = tmp_path.glob('*/*.json')
    metrics = json.loads(report.read_text())
    assert np.isfinite(metrics['mIoU'])
    assert 'missing keys' not in done.stdout + done.stderr
    assert len(list(tmp_path.glob('masks/*.png'))) == 4
    assert len(list(tmp_path.glob('show/**/*.png'))) == 4
    done = tool('test.py', config, trained, '--tta', '--cfg-options', *options)
    assert done.returncode == 0, done.stderr[-2000:]


def test_resumes_from_shards(trained, tmp_path):
    run = tmp_path / 'run'
    shutil.copytree(trained.parent, run)
    config, options = trained.parents[1] / 'train.py', ['train_cfg.max_iters=5']
    done = tool(
        'train.py', config, '--work-dir', run, '--resume', '--cfg-options', *options
    )
    assert done.returncode == 0, done.stderr[-2000:]
    checkpoint = torch.load(run / 'iter_5.pth', weights_only=True)
    assert checkpoint['ranks'][0]['data']['samples'] == 5 * 8
    assert 'Iter(train) [4/5]' in done.stdout
    assert 'Iter(train) [3/5]' not in done.stdout


def test_stock_inference_helpers(trained, real_data):
    config = str(trained.parents[1] / 'voc20.py')
    image = str(next((real_data / 'coco_captions' / 'images').glob('*.jpg')))
    model = init_model(config, str(trained), device='cpu')
    result = inference_model(model, image)
    assert result.pred_sem_seg.data.max() > 2
    set_vocabulary(model, ['person, man, woman', 'street', 'sky'])
    result = inference_model(model, image)
    assert result.pred_sem_seg.data.max() <= 2
    assert model.dataset_meta['classes'] == ('person', 'street', 'sky')
    inferencer = MMSegInferencer(config, str(trained), device='cpu')
    assert inferencer(image, show=False)['predictions'].ndim == 2


def test_the_papers_recipe():
    config = Config.fromfile(ROOT / 'configs' / 'pacl_vitb16_30m.py')
    optimizer = config.optim_wrapper.optimizer
    assert optimizer == dict(
        type='AdamW', lr=5e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2
    )
    assert config.train_dataloader.batch_size == 1024  # times 4 GPUs
    assert config.train_cfg.max_iters == 10 * 30_571_103 // 4096
    assert list(config.train_dataloader.dataset.shards) == ['cc3m', 'cc12m', 'yfcc15m']
    assert config.param_scheduler[0].type == 'CosineAnnealingLR'


def test_offline_weights_end_in_one_sentence(tmp_path, real_data):
    root = f'test_dataloader.dataset.data_root={real_data}/voc_layout/VOC2012'
    options = ['--work-dir', tmp_path, '--cfg-options', root]
    done = tool('test.py', 'configs/pacl_voc20.py', *options)
    error = last_error(done)
    assert "'openai' weights of ViT-B-16-quickgelu could not be fetched" in error
    assert 'in a config as model.encoder.pretrained' in error
