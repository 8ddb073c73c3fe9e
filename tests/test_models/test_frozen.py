import pytest
import torch
from mmengine.runner.checkpoint import load_state_dict as mmengine_load_state_dict

from pacl_mmseg.models import FrozenBackbone, PACLBackbone
from pacl_mmseg.registry import MODELS

VIT = dict(
    type='mmpretrain.VisionTransformer',
    arch=dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64),
    img_size=32,
    patch_size=8,
    out_type='featmap',
)


def test_weights_stay_out_of_the_state_dict(tiny_model):
    model = MODELS.build(tiny_model)
    state = model.state_dict()
    trained = {k for k, p in model.named_parameters() if p.requires_grad}
    identities = {'backbone._extra_state', 'decode_head.text_encoder._extra_state'}
    assert trained == {k for k in trained if k.startswith('neck.')}
    assert set(state) == trained | identities
    assert all(isinstance(value, torch.Tensor) for value in state.values())


@pytest.mark.parametrize('load', ['torch', 'mmengine'])
def test_loads_with_no_key_missing_and_leaves_weights(tiny_model, load, caplog):
    source, target = MODELS.build(tiny_model), MODELS.build(tiny_model)
    before = target.backbone.visual.conv1.weight.clone()
    torch.nn.init.normal_(source.neck.skip.weight)
    if load == 'torch':
        target.load_state_dict(source.state_dict())
    else:
        mmengine_load_state_dict(target, source.state_dict(), strict=True)
    torch.testing.assert_close(target.neck.skip.weight, source.neck.skip.weight)
    torch.testing.assert_close(target.backbone.visual.conv1.weight, before)


def test_other_weights_are_an_error_that_names_both(tiny_clip):
    state = PACLBackbone(tiny_clip, init_seed=0).state_dict()
    other = PACLBackbone(tiny_clip, init_seed=1)
    with pytest.raises(
        RuntimeError, match=r'seed 0\).*but this config builds.*seed 1\)'
    ):
        other.load_state_dict(state)
    with pytest.raises(RuntimeError, match='was trained over'):
        mmengine_load_state_dict(other, state)


def test_unfrozen_is_an_ordinary_module(tiny_clip):
    source = PACLBackbone(tiny_clip, init_seed=0, frozen=False)
    target = PACLBackbone(tiny_clip, init_seed=1, frozen=False)
    assert 'visual.conv1.weight' in source.state_dict()
    target.load_state_dict(source.state_dict())
    torch.testing.assert_close(target.visual.conv1.weight, source.visual.conv1.weight)


def test_a_trained_encoder_is_not_silently_dropped(tiny_clip):
    trained = PACLBackbone(tiny_clip, frozen=False)
    with pytest.raises(RuntimeError, match='holds a trained encoder.*frozen=False'):
        PACLBackbone(tiny_clip).load_state_dict(trained.state_dict())


def test_frozen_backbone_loads_its_weights_when_built(tmp_path):
    source = MODELS.build(VIT)
    source.init_weights()
    source.eval()
    torch.save(source.state_dict(), tmp_path / 'vit.pth')
    config = dict(
        VIT, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'vit.pth'))
    )
    frozen = FrozenBackbone(config)
    images = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(frozen(images)[0], source(images)[0])
    FrozenBackbone(config).load_state_dict(frozen.state_dict())  # the same encoder


def test_frozen_backbone_loads_a_file_that_fits(tmp_path):
    source = FrozenBackbone(VIT).backbone
    weights = {f'backbone.{k}': v for k, v in source.state_dict().items()}
    path = tmp_path / 'mae.pth'
    torch.save(dict(state_dict={**weights, 'head.fc.weight': torch.ones(1)}), path)
    frozen = FrozenBackbone(VIT, str(path))
    images = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(frozen(images)[0], source(images)[0])
    assert frozen.description == f'a frozen VisionTransformer ({path})'
    del weights['backbone.ln1.weight']
    torch.save(weights, path)
    with pytest.raises(RuntimeError, match='mae.pth does not hold .*Missing.*ln1.weig'):
        FrozenBackbone(VIT, str(path))
    with pytest.raises(RuntimeError, match='does not hold the weights of this Vision'):
        FrozenBackbone(VIT, str(tmp_path / 'no.pth'))
    other = dict(VIT, init_cfg=dict(type='Pretrained', checkpoint='a.pth'))
    with pytest.raises(ValueError, match='both name weights: leave one out'):
        FrozenBackbone(other, str(path))


def test_frozen_backbone_of_mmpretrain():
    backbone = FrozenBackbone(VIT).train()
    (maps,) = backbone(torch.randn(2, 3, 32, 32))
    assert maps.shape == (2, 32, 4, 4)
    assert not maps.requires_grad
    assert not backbone.backbone.training
    assert set(backbone.state_dict()) == {'_extra_state'}
    with pytest.raises(RuntimeError, match='a frozen VisionTransformer'):
        FrozenBackbone(VIT).load_state_dict(backbone.state_dict())
