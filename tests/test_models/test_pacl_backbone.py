import open_clip
import pytest
import torch
from torch.nn import functional as F

from pacl_mmseg.models import PACLBackbone
from pacl_mmseg.models.open_clip_model import build_open_clip


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_tokens_equal_open_clip(tiny_clip, images):
    visual = build_open_clip(tiny_clip, init_seed=3).visual.eval()
    with torch.no_grad():
        expected = visual.forward_intermediates(
            images, normalize_intermediates=False, output_extra_tokens=True
        )
    backbone = PACLBackbone(
        tiny_clip, init_seed=3, out_indices=(0, 1), output_cls_token=True
    )
    for layer, (maps, cls) in enumerate(backbone(images)):
        torch.testing.assert_close(maps, expected['image_intermediates'][layer])
        prefix = expected['image_intermediates_prefix'][layer]
        torch.testing.assert_close(cls, prefix[:, 0])
    (norm,) = PACLBackbone(tiny_clip, init_seed=3, output='norm')(images)
    with torch.no_grad():
        expected = visual.forward_intermediates(images, normalize_intermediates=True)
    torch.testing.assert_close(norm, expected['image_intermediates'][-1])


def test_projected_cls_token_is_clips_image_feature(tiny_clip, images):
    clip = build_open_clip(tiny_clip).eval()
    backbone = PACLBackbone(tiny_clip, output='projection', output_cls_token=True)
    ((maps, cls),) = backbone(images)
    assert maps.shape == (2, 24, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(cls, clip.encode_image(images))


def test_named_model_equals_open_clip():
    images = torch.randn(1, 3, 224, 224)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        clip = open_clip.create_model('ViT-B-32', force_custom_text=True).eval()
    with torch.no_grad():
        expected = clip.visual.forward_intermediates(images)['image_intermediates'][-1]
    (maps,) = PACLBackbone('ViT-B-32', init_seed=0)(images)
    assert maps.shape == (1, 768, 7, 7)
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ('size', 'stride', 'grid'),
    [
        ((32, 32), None, (4, 4)),
        ((48, 24), None, (6, 3)),
        ((33, 40), None, (5, 5)),
        ((5, 70), None, (1, 9)),
        ((32, 32), 4, (7, 7)),
        ((32, 64), 2, (13, 29)),
        ((35, 33), 4, (8, 8)),
    ],
)
def test_any_size_and_stride(tiny_clip, size, stride, grid):
    (maps,) = PACLBackbone(tiny_clip, stride=stride)(torch.randn(2, 3, *size))
    assert maps.shape == (2, 32, *grid)
    assert maps.isfinite().all()


@pytest.mark.parametrize('stride', [None, 4])
def test_crop_leaves_out_the_rest(tiny_clip, stride):
    backbone = PACLBackbone(tiny_clip, stride=stride, fit='crop')
    image = torch.randn(1, 3, 35, 47)
    used = image[..., :32, :40] if stride is None else image[..., :32, :44]
    torch.testing.assert_close(backbone(image)[0], backbone(used)[0])
    # Nothing is left of an image smaller than a patch: it is resized.
    assert backbone(torch.randn(1, 3, 5, 40))[0].shape[-2:] == (1, 9 if stride else 5)


def test_paper_grid_of_the_stride_trick():
    vitb16 = open_clip.get_model_config('ViT-B-16')
    vitb16['vision_cfg'].update(layers=1)
    backbone = PACLBackbone(vitb16, stride=4)
    assert backbone(torch.zeros(1, 3, 224, 224))[0].shape == (1, 768, 53, 53)


def test_strided_tokens_are_the_overlapping_patches(tiny_clip, images):
    """Against an independent way to cut and embed patches, with no position."""
    backbone = PACLBackbone(tiny_clip, stride=4)
    visual = backbone.visual
    with torch.no_grad():
        visual.positional_embedding.zero_()
        tokens, _ = backbone._embed(images)
        patches = F.unfold(images, 8, stride=4).transpose(1, 2)
        expected = visual.ln_pre(patches @ visual.conv1.weight.flatten(1).T)
    torch.testing.assert_close(tokens[:, 1:], expected)


def test_maskclip_is_attention_to_oneself(tiny_clip, images):
    last = PACLBackbone(tiny_clip, dense_attention='maskclip')
    tokens_in = PACLBackbone(tiny_clip, out_indices=0, output_cls_token=True)
    ((maps, cls),) = tokens_in(images)
    tokens = torch.cat([cls[:, None], maps.flatten(2).transpose(1, 2)], 1)
    only_self = torch.full((17, 17), -torch.inf).fill_diagonal_(0)
    expected = last.visual.transformer.resblocks[-1](tokens, attn_mask=only_self)
    (result,) = last(images)
    torch.testing.assert_close(result.flatten(2).transpose(1, 2), expected[:, 1:])


def test_frozen_whatever_the_trainer_does(tiny_clip, images):
    backbone = PACLBackbone(tiny_clip)
    backbone.train()
    assert not any(module.training for module in backbone.modules())
    assert not any(p.requires_grad for p in backbone.parameters())
    assert not backbone(images.requires_grad_())[0].requires_grad
    unfrozen = PACLBackbone(tiny_clip, frozen=False).train()
    unfrozen(images)[0].sum().backward()
    assert unfrozen.visual.conv1.weight.grad is not None


@pytest.mark.parametrize('dense_attention', [None, 'naclip'])
@pytest.mark.parametrize(('dtype', 'tolerance'), [('bfloat16', 0.1), ('float16', 0.02)])
def test_low_precision(tiny_clip, images, dtype, tolerance, dense_attention):
    full = PACLBackbone(tiny_clip, dense_attention=dense_attention)
    (expected,) = full(images)
    low = PACLBackbone(tiny_clip, dtype=dtype, dense_attention=dense_attention)
    (maps,) = low(images)
    assert maps.dtype == torch.float32
    error = (maps - expected).norm() / expected.norm()
    assert 0 < error < tolerance
    assert low.fingerprint() == full.fingerprint()


def test_tokens_have_the_precision_of_the_images(tiny_clip, images):
    backbone = PACLBackbone(tiny_clip, dtype='bfloat16', output_cls_token=True)
    ((expected, expected_cls),) = backbone(images)
    ((maps, cls),) = backbone(images.bfloat16())
    assert maps.dtype == cls.dtype == torch.bfloat16
    assert torch.equal(maps, expected.bfloat16())
    assert torch.equal(cls, expected_cls.bfloat16())


@pytest.mark.parametrize('output', ['block', 'projection'])
def test_parts_equal_the_whole(tiny_clip, output):
    images = torch.randn(7, 3, 32, 40)
    options = dict(output=output, out_indices=(0, 1), output_cls_token=True)
    whole = PACLBackbone(tiny_clip, **options)
    backbone = PACLBackbone(tiny_clip, batch_size=3, **options)
    sizes = []
    backbone.visual.ln_pre.register_forward_pre_hook(
        lambda _, args: sizes.append(len(args[0]))
    )
    for layer, expected in zip(backbone(images), whole(images), strict=True):
        torch.testing.assert_close(layer, expected)
        # What the embedder makes of the map needs no copy of it.
        assert layer[0].permute(0, 2, 3, 1).is_contiguous()
    assert sizes == [3, 2, 2]


def test_features_are_ordinary_tensors(tiny_clip, images):
    backbone = PACLBackbone(tiny_clip, output_cls_token=True)
    ((maps, cls),) = backbone(images)
    assert not maps.is_inference()
    assert not cls.is_inference()
    weight = torch.ones(32, 1, 1, requires_grad=True)
    (maps * weight).sum().backward()
    torch.testing.assert_close(weight.grad.flatten(), maps.sum((0, 2, 3)))


@pytest.mark.parametrize('output', ['block', 'projection'])
@pytest.mark.parametrize('keep_cls', [True, False])
def test_tokens_in_place_of_images(tiny_clip, images, keep_cls, output):
    """As they are in a token cache."""
    options = dict(model=tiny_clip, output=output)
    backbone = PACLBackbone(output_cls_token=keep_cls, **options)
    (expected,) = backbone(images)
    maps, cls = expected if keep_cls else (expected, None)
    tokens = maps.flatten(2).transpose(1, 2)
    if keep_cls:
        tokens = torch.cat([cls[:, None], tokens], 1)
    torch.testing.assert_close(backbone(tokens), (expected,))


@pytest.mark.parametrize('keep_cls', [True, False])
def test_grid_of_tokens_in_place_of_images(tiny_clip, keep_cls):
    backbone = PACLBackbone(tiny_clip, output_cls_token=keep_cls)
    tokens = torch.randn(1, 24 + keep_cls, 32)  # with CLS also 5 x 5
    with pytest.raises(ValueError, match=f'{24 + keep_cls} tokens.*set token_grid'):
        backbone(tokens)
    backbone.token_grid = (4, 6)
    (output,) = backbone(tokens)
    expected = tokens[:, -24:].transpose(1, 2).unflatten(2, (4, 6))
    assert torch.equal(output[0] if keep_cls else output, expected)


def test_a_number_of_tokens_that_it_cannot_have_made(tiny_clip):
    with pytest.raises(ValueError, match='16 tokens.* and CLS has 17'):
        PACLBackbone(tiny_clip, output_cls_token=True)(torch.randn(1, 16, 32))


@pytest.mark.parametrize('dense_attention', [None, 'naclip'])
def test_autocast(tiny_clip, images, dense_attention):
    backbone = PACLBackbone(tiny_clip, dense_attention=dense_attention)
    (expected,) = backbone(images)
    with torch.autocast('cpu', torch.bfloat16):
        (maps,) = backbone(images)
    assert (maps - expected).norm() / expected.norm() < 0.1


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(output='tokens'), 'output must be one of'),
        (dict(stride=9), r'stride must be in 1\.\.8'),
        (dict(out_indices=2), 'the tower has 2 layers'),
        (dict(fit='pad'), "fit must be one of .'resize', 'crop'., not 'pad'"),
        (dict(interpolate_offset=1.0), r'interpolate_offset must be in \[0, 1\)'),
        (dict(dense_attention='sclipp'), "not 'sclipp'. Did you mean 'sclip'"),
        (dict(dense_attention=dict(std=3)), 'dense_attention must be one of'),
        (
            dict(dense_attention=dict(type='naclip', sigma=3)),
            "no option of dense_attention 'naclip' 'sigma'; there are: std",
        ),
        (dict(dtype='bfloat16', frozen=False), 'keeps float32 weights'),
        (dict(compile=True, frozen=False), 'compile=True is for a frozen tower'),
        (dict(batch_size=0), 'batch_size must be at least 1, not 0'),
        (dict(pretrained='no/such/file.pt'), 'is not a file'),
        (dict(model='ViT-B-61'), "Did you mean 'ViT-B-16'"),
        (
            dict(model='ViT-B-16', pretrained='opena1'),
            "tag of ViT-B-16 'opena1'.*Did you mean 'openai'",
        ),
        (dict(model='RN50'), 'needs an open_clip VisionTransformer'),
    ],
)
def test_bad_arguments(tiny_clip, options, message):
    with pytest.raises(ValueError, match=message):
        PACLBackbone(**{'model': tiny_clip, **options})


def test_local_weights_file(tiny_clip, tmp_path, images):
    clip = build_open_clip(tiny_clip, init_seed=7)
    torch.save(clip.state_dict(), tmp_path / 'clip.pt')
    loaded = PACLBackbone(tiny_clip, pretrained=str(tmp_path / 'clip.pt'))
    expected = PACLBackbone(tiny_clip, init_seed=7)
    torch.testing.assert_close(loaded(images)[0], expected(images)[0])
    other = {**tiny_clip, 'embed_dim': 20}
    with pytest.raises(RuntimeError, match='does not hold weights of'):
        PACLBackbone(other, pretrained=str(tmp_path / 'clip.pt'))


def test_weights_that_cannot_be_fetched(monkeypatch):
    def offline(*args, **kwargs):
        raise ConnectionError('no network')

    # The network is the only part replaced: with it, the test would download 600 MB.
    monkeypatch.setattr(open_clip, 'create_model', offline)
    with pytest.raises(RuntimeError, match="'openai' weights of ViT-B-16 could not be"):
        PACLBackbone('ViT-B-16', pretrained='openai')
