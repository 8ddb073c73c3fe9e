"""Our parts inside other MMSeg configs, and theirs inside ours."""

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from pacl_mmseg.registry import MODELS

HEAD = dict(num_classes=5, norm_cfg=dict(type='BN'), channels=16)
FCN = dict(type='FCNHead', in_channels=32, num_convs=1, **HEAD)
UPER = dict(type='UPerHead', in_channels=[32] * 4, in_index=[0, 1, 2, 3], **HEAD)


def step(model, data):
    """One optimizer step; returns the losses and the names of what changed."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optim = build_optim_wrapper(model, dict(optimizer=dict(type='SGD', lr=0.1)))
    log = model.train().train_step(data, optim)
    after = dict(model.named_parameters())
    return log, {name for name in before if not torch.equal(before[name], after[name])}


def masked_data():
    mask = PixelData(data=torch.randint(0, 5, (1, 64, 64)))
    samples = [SegDataSample(metainfo=dict(img_shape=(64, 64))) for _ in range(2)]
    for sample in samples:
        sample.gt_sem_seg = mask
    images = [torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)] * 2
    return dict(inputs=images, data_samples=samples)


@pytest.mark.parametrize('head', [FCN, UPER], ids=['FCNHead', 'UPerHead'])
def test_our_backbone_under_a_stock_head_trains_on_masks(tiny_clip, head):
    neck = None
    if head is UPER:
        neck = dict(
            type='MultiLevelNeck',
            in_channels=[32] * 4,
            out_channels=32,
            scales=[4, 2, 1, 0.5],
        )
    tiny_clip['vision_cfg']['layers'] = 4
    model = MODELS.build(
        dict(
            type='EncoderDecoder',
            data_preprocessor=dict(type='SegDataPreProcessor', size_divisor=8),
            backbone=dict(
                type='PACLBackbone',
                model=tiny_clip,
                out_indices=(0, 1, 2, 3) if head is UPER else -1,
            ),
            neck=neck,
            decode_head=head,
        )
    )
    log, changed = step(model, masked_data())
    assert torch.isfinite(log['loss'])
    assert any(name.startswith('decode_head.conv_seg') for name in changed)
    assert not any(name.startswith('backbone.') for name in changed)


BACKBONES = dict(
    vit=dict(
        type='mmpretrain.VisionTransformer',
        arch=dict(embed_dims=48, num_layers=2, num_heads=2, feedforward_channels=64),
        img_size=64,
        patch_size=8,
        out_type='featmap',
    ),
    resnet=dict(type='ResNetV1c', depth=18, base_channels=6, out_indices=(3,)),
)


@pytest.mark.parametrize('name', BACKBONES)
def test_other_frozen_backbones_train_and_test_under_our_head(tiny_model, name):
    tiny_model['backbone'] = dict(type='FrozenBackbone', backbone=BACKBONES[name])
    tiny_model['neck']['in_channels'] = 48
    model = MODELS.build(tiny_model)
    samples = [SegDataSample(metainfo=dict(caption=c)) for c in ('a cat', 'a dog')]
    images = [torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8) for _ in samples]
    log, changed = step(model, dict(inputs=images, data_samples=samples))
    assert torch.isfinite(log['loss'])
    assert changed
    assert all(name.startswith('neck.') for name in changed)
    (result,) = model.eval().predict(torch.randn(1, 3, 64, 64))
    assert result.pred_sem_seg.data.shape == (1, 64, 64)


def test_configs_inherit_mmsegs_base_files_and_ours(tmp_path):
    (tmp_path / 'config.py').write_text("""
_base_ = [
    'mmseg::_base_/datasets/ade20k.py',
    'mmseg::_base_/schedules/schedule_20k.py',
    'pacl_mmseg::_base_/models/pacl_vitb16.py',
    'pacl_mmseg::_base_/default_runtime.py',
]
model = dict(
    type='EncoderDecoder',
    neck=None,
    test_cfg=dict(_delete_=True, mode='whole'),
    decode_head=dict(
        _delete_=True, type='FCNHead', in_channels=768, channels=256, num_classes=150
    ),
)
""")
    config = Config.fromfile(tmp_path / 'config.py')
    assert config.train_dataloader.dataset.type == 'ADE20KDataset'
    assert config.train_cfg.max_iters == 20000
    assert config.model.backbone.type == 'PACLBackbone'
    assert config.model.decode_head.type == 'FCNHead'


def test_whole_experiments_can_be_inherited(tmp_path):
    (tmp_path / 'config.py').write_text(
        "_base_ = ['pacl_mmseg::_base_/../pacl_voc20.py']\n"
        'model = dict(backbone=dict(stride=4))\n'
    )
    config = Config.fromfile(tmp_path / 'config.py')
    assert config.model.backbone.stride == 4
    assert config.test_dataloader.dataset.type == 'PascalVOC20Dataset'


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_training_step_under_autocast(tiny_model, dtype):
    """What mixed precision does to a step, on any device."""
    torch.manual_seed(0)
    tiny_model.decode_head.compatibility = dict(mode='softmax', weight_scale=10.0)
    model = MODELS.build(tiny_model)
    samples = [SegDataSample(metainfo=dict(caption=c)) for c in ('a cat', 'two dogs')]
    images = torch.randn(2, 3, 32, 32)
    full = model.loss(images, samples)
    with torch.autocast('cpu', dtype):
        low = model.loss(images, samples)
    name = 'decode.loss_infonce'
    assert low[name].dtype == torch.float32
    torch.testing.assert_close(low[name], full[name], rtol=0.05, atol=0.02)
    low[name].backward()
    assert all(p.grad.isfinite().all() for p in model.neck.parameters())
