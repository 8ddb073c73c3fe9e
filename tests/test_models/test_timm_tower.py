"""Vision towers of timm beside text towers of open_clip."""

import copy

import pytest
import timm
import torch
from mmengine.optim import build_optim_wrapper
from torch.nn import functional as F

from pacl_mmseg.models import TimmTower
from pacl_mmseg.models.open_clip_model import preprocess_config
from pacl_mmseg.models.timm_model import build_timm
from pacl_mmseg.registry import MODELS, TRANSFORMS

VIT, REGISTER, RESNET = 'timm/test_vit', 'timm/test_vit3', 'timm/test_resnet'
SWIN = 'timm/swin_tiny_patch4_window7_224'
DINO = 'timm/vit_base_patch16_224.dino'


def own(model: str) -> torch.nn.Module:
    """timm's model with the weights of seed 0, built by timm alone."""
    torch.manual_seed(0)
    options = {} if model == RESNET else dict(dynamic_img_size=True)
    return timm.create_model(model.removeprefix('timm/'), **options).eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 3, 48, 80, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize('model', [VIT, REGISTER])
@pytest.mark.parametrize('output', ['block', 'norm'])
def test_tokens_are_those_of_timm(model, output, images):
    tower = TimmTower(model, output=output, out_indices=(1, -1), batch_size=2).train()
    whole = own(model)
    with torch.no_grad():
        layers = whole.forward_intermediates(
            images,
            indices=[1, len(whole.blocks) - 1],
            norm=output == 'norm',
            intermediates_only=True,
        )
    for mine, theirs in zip(tower(images), layers, strict=True):
        assert mine.shape == (3, theirs.shape[1], 3, 5)
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    assert tower.embed_dims == layers[-1].shape[1]


def test_registers_and_class_token_are_no_patches(images):
    """By the whole sequence of tokens, which timm's own forward gives."""
    sequences = {
        model: own(model).forward_features(images) for model in (VIT, REGISTER)
    }
    for model, tokens in sequences.items():
        (maps,) = TimmTower(model, output='norm')(images)
        torch.testing.assert_close(
            maps.flatten(2).transpose(1, 2), tokens[:, 1:], rtol=1e-5, atol=1e-5
        )
    ((_, cls),) = TimmTower(VIT, output='norm', output_cls_token=True)(images)
    torch.testing.assert_close(cls, sequences[VIT][:, 0], rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match='test_vit3 .* has no class token'):
        TimmTower(REGISTER, output_cls_token=True)


@pytest.mark.parametrize('model, indices', [(RESNET, [2, 4]), (SWIN, [0, 1])])
def test_a_network_of_stages_gives_these(model, indices, images):
    """Swin at another size than its own: timm makes its attention masks anew."""
    tower = TimmTower(model, out_indices=indices)
    with torch.no_grad():
        stages = own(model).forward_intermediates(
            images, indices=indices, intermediates_only=True
        )
    for mine, theirs in zip(tower(images), stages, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_a_convolutional_network_has_no_norm():
    with pytest.raises(ValueError, match="no layer norm.*'norm' would be output='blo"):
        TimmTower(RESNET, output='norm')


@pytest.mark.parametrize('fit, size', [('resize', (64, 96)), ('crop', (48, 80))])
def test_odd_sizes(fit, size):
    images = torch.randn(1, 3, 50, 81)
    tower = TimmTower(VIT, fit=fit)
    whole = F.interpolate(images, size, mode='bilinear', align_corners=False)
    if fit == 'crop':
        whole = images[..., :48, :80]
    torch.testing.assert_close(tower(images)[0], tower(whole)[0])
    assert tower(torch.randn(1, 3, 5, 20))[0].shape[-1] == 2 - (fit == 'crop')


def test_images_are_normalised_as_timm_says():
    imagenet = preprocess_config(DINO, 'dino')
    assert imagenet['mean'] == (0.485, 0.456, 0.406)
    assert imagenet['std'] == (0.229, 0.224, 0.225)
    assert (imagenet['size'], imagenet['interpolation']) == (224, 'bicubic')
    other = preprocess_config('timm/vit_base_patch16_224', 'augreg_in21k')
    assert other['mean'] == (0.5, 0.5, 0.5)
    images = MODELS.build(
        dict(type='CLIPDataPreProcessor', model=DINO, pretrained='dino')
    )
    torch.testing.assert_close(
        images.mean.flatten() / 255, torch.tensor([*imagenet['mean']])
    )
    size = preprocess_config('timm/vit_small_patch14_reg4_dinov2.lvd142m')['size']
    assert size == 518
    crop = dict(type='CLIPResizeCrop', model=VIT, pretrained=None, backend='torch')
    image = torch.zeros(200, 300, 3, dtype=torch.uint8).numpy()
    assert TRANSFORMS.build(crop)(dict(img=image))['img'].shape == (160, 160, 3)


def test_a_weights_file(tmp_path, images):
    source = build_timm(VIT, init_seed=3)
    path = tmp_path / 'vit.pth'
    torch.save(dict(state_dict=source.state_dict()), path)
    tower = TimmTower(VIT, str(path))
    torch.testing.assert_close(tower(images), TimmTower(VIT, init_seed=3)(images))
    assert 'state_dict' not in str(tower.trunk.pretrained_cfg)
    assert tower.description == f'timm/test_vit ({path})'
    with pytest.raises(
        RuntimeError, match=r'does not hold weights of timm/test_vit3: .*'
    ):
        TimmTower(REGISTER, str(path))
    weights = source.state_dict()
    del weights['blocks.5.mlp.fc2.weight']
    torch.save(weights, path)
    with pytest.raises(RuntimeError, match=r'blocks.5.mlp.fc2.weight'):
        TimmTower(VIT, str(path))
    torch.save(
        {**source.state_dict(), 'cls_token': torch.full((1, 1, 64), torch.nan)}, path
    )
    with pytest.raises(RuntimeError, match='not finite'):
        TimmTower(VIT, str(path))
    path.write_bytes(b'no weights')
    with pytest.raises(RuntimeError, match='does not hold weights.*it is damaged, or'):
        TimmTower(VIT, str(path))


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(model='timm/vit_base_patch16'), "no model 'vit_base_patch16'.*Did you"),
        (dict(model='ViT-B-16'), "ViT-B-16 is no name.*begin with 'timm/'.*PACLBack"),
        (dict(model=DINO + 'v9'), "no pretrained tag of vit_base_patch16_224 'dinov9'"),
        (dict(model=DINO, pretrained='mae'), "names the weights 'dino', but.*'mae'"),
        (dict(model=DINO, pretrained='no.pth'), "no file or pretrained tag.*'no.pth'"),
        (
            dict(model='timm/beit_base_patch16_224'),
            'cannot be built for images of any size',
        ),
        (
            dict(model='timm/test_nfnet', out_indices=9),
            'out_indices 9: .* has . layers',
        ),
        (dict(model=VIT, output='projection'), "output must be one of .*'projection'"),
        (dict(model=VIT, patch_drop_rate=0.5), 'for a tower that trains'),
        (dict(model=VIT, batch_size=0), 'batch_size must be at least 1'),
    ],
)
def test_what_cannot_be_in_force_is_refused(options, message):
    with pytest.raises((ValueError, RuntimeError), match=message):
        TimmTower(**options)


def test_weights_that_cannot_be_fetched(monkeypatch):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    with pytest.raises(
        RuntimeError, match=r"'r160_in1k' weights of timm/test_vit could"
    ):
        TimmTower(VIT, 'r160_in1k')


def test_a_file_for_which_nobody_says_the_normalisation(tmp_path):
    path = tmp_path / 'vit.pth'
    path.write_bytes(b'')
    with pytest.raises(
        ValueError, match=r"as in 'timm/vit_base_patch16_224\.aug.*dino"
    ):
        preprocess_config('timm/vit_base_patch16_224', str(path))


def test_a_grid_that_timm_does_not_say_is_refused():
    with pytest.raises(ValueError, match='maps of a convolutional network'):
        TimmTower(model='timm/vit_tiny_r_s16_p8_224')


def test_patches_are_dropped_in_training_alone(images):
    tower = TimmTower(VIT, frozen=False, patch_drop_rate=0.4, output_cls_token=True)
    ((maps, cls),) = tower.train()(images)
    assert maps.shape == (3, 64, 9, 1) and cls.shape == (3, 64)
    ((maps, _),) = tower.eval()(images)
    assert maps.shape == (3, 64, 3, 5)
    torch.testing.assert_close(maps, TimmTower(VIT)(images)[0])


@pytest.fixture
def pair(tiny_clip):
    """Config of PACL between a timm tower and the tiny CLIP's texts."""
    return dict(
        type='ZeroShotSegmentor',
        encoder=dict(vision=dict(model=VIT), text=dict(model=tiny_clip)),
        data_preprocessor=dict(type='CLIPDataPreProcessor'),
        backbone=dict(type='TimmTower', output='norm'),
        neck=dict(type='PatchEmbedder', in_channels=64, out_channels=24),
        decode_head=dict(
            type='ZeroShotTextHead',
            text_encoder=dict(type='OpenCLIPTextEncoder'),
            vocabulary=['cat', 'dog', 'grass'],
            templates='photo',
        ),
        test_cfg=dict(mode='whole'),
    )


def step(model):
    """The names of what one optimizer step on pairs changes."""
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    tokens = model.decode_head.text_encoder.tokenize(['a cat', 'a dog'])
    data = dict(
        inputs=images,
        data_samples=dict(captions=['a cat', 'a dog'], text_tokens=tokens),
    )
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = build_optim_wrapper(model, dict(optimizer=dict(type='SGD', lr=0.1)))
    log = model.train().train_step(data, optimizer)
    assert log['loss'].isfinite()
    after = dict(model.named_parameters())
    return {name for name in before if not torch.equal(before[name], after[name])}


FAMILIES = dict(
    vit=(dict(), dict(model=VIT), 64),
    registers=(dict(), dict(model=REGISTER), 96),
    resnet=(dict(output='block'), dict(model=RESNET), 96),
)


@pytest.mark.parametrize('family', FAMILIES)
def test_families_train_and_test(pair, family):
    options, vision, channels = FAMILIES[family]
    pair['backbone'].update(options)
    pair['encoder']['vision'] = vision
    pair['neck']['in_channels'] = channels
    model = MODELS.build(copy.deepcopy(pair))
    changed = step(model)
    assert changed and all(name.startswith('neck.') for name in changed)
    image = torch.zeros(3, 70, 64, dtype=torch.uint8)
    data = model.data_preprocessor(dict(inputs=[image]))
    torch.testing.assert_close(data['inputs'], torch.full_like(data['inputs'], -1.0))
    (result,) = model.eval().predict(data['inputs'])
    assert result.pred_sem_seg.data.shape == (1, 70, 64)


def test_a_tower_that_trains_changes_as_a_whole(pair):
    pair['backbone'].update(frozen=False, out_indices=2)
    model = MODELS.build(pair)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert step(model) == trained
    assert len(model.backbone.trunk.blocks) == 3
    assert 'backbone.trunk.cls_token' in trained


def test_checkpoints_of_another_tower_are_refused(pair):
    state = MODELS.build(copy.deepcopy(pair)).state_dict()
    assert set(state) >= {'backbone._extra_state', 'neck.skip.weight'}
    assert not any(name.startswith('backbone.trunk') for name in state)
    pair['backbone']['out_indices'] = 3  # the same encoder
    MODELS.build(copy.deepcopy(pair)).load_state_dict(state)
    pair['encoder']['vision']['init_seed'] = 1
    with pytest.raises(
        RuntimeError, match=r'over timm/test_vit \(random weights, seed 0'
    ):
        MODELS.build(pair).load_state_dict(state)


def test_precision_and_compilation_are_those_of_the_encoder(pair):
    pair['encoder'].update(dtype='bfloat16')
    pair['encoder']['vision']['compile'] = True
    model = MODELS.build(pair)
    assert {p.dtype for p in model.backbone.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.decode_head.text_encoder.text.parameters()} == {
        torch.bfloat16
    }
    assert model.data_preprocessor.dtype == torch.bfloat16
    assert type(model.backbone._run).__name__ == 'compiled'
    assert type(model.decode_head.text_encoder._run_block).__name__ != 'compiled'
