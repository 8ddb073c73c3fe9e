"""CLIP's ResNets as dense backbones, against open_clip's own tower."""

import pytest
import torch

from pacl_mmseg.models import CLIPResNet, PACLBackbone
from pacl_mmseg.models.open_clip_model import build_open_clip
from pacl_mmseg.registry import MODELS

RN = dict(
    embed_dim=24,
    vision_cfg=dict(image_size=96, layers=[1, 1, 1, 1], width=8, patch_size=None),
    text_cfg=dict(context_length=24, vocab_size=49408, width=16, heads=2, layers=1),
)


@pytest.fixture(scope='module')
def clip():
    model = build_open_clip(RN).eval()
    # As it comes, the pool's weights are so small that nothing would be seen.
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for layer in model.visual.attnpool.parameters():
            layer.normal_(std=0.2)
    return model


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 3, 96, 96, generator=torch.Generator().manual_seed(1))


def test_the_last_map_and_its_pool_are_open_clips(clip, images):
    maps = []
    handle = clip.visual.layer4.register_forward_hook(
        lambda *args: maps.append(args[2])
    )
    with torch.no_grad():
        embeddings = clip.visual(images)
    handle.remove()
    (block,) = CLIPResNet(RN, clip=clip, batch_size=2)(images)
    assert block.shape == (3, 256, 3, 3)
    torch.testing.assert_close(block, maps[0])
    tower = CLIPResNet(RN, clip=clip, output='projection', output_cls_token=True)
    ((_, pooled),) = tower(images)
    torch.testing.assert_close(pooled, embeddings, rtol=1e-4, atol=1e-5)
    assert tower.embed_dims == 24


def test_projected_positions_pool_to_the_image(clip, images):
    """Without positions, and if all answer alike, the pool is a mean."""
    pool = clip.visual.attnpool
    kept = {name: value.clone() for name, value in pool.state_dict().items()}
    with torch.no_grad():
        for values in (pool.positional_embedding, *pool.q_proj.parameters()):
            values.zero_()
        embeddings = clip.visual(images)
    (maps,) = CLIPResNet(RN, clip=clip, output='projection')(images)
    pool.load_state_dict(kept)
    assert maps.shape == (3, 24, 3, 3)
    torch.testing.assert_close(maps.mean((2, 3)), embeddings, rtol=1e-4, atol=1e-5)


def test_any_size(clip):
    tower = CLIPResNet(RN, clip=clip, output='projection', output_cls_token=True)
    ((maps, pooled),) = tower(torch.randn(1, 3, 130, 70))
    assert maps.shape == (1, 24, 4, 2) and pooled.shape == (1, 24)


def test_mistakes(tiny_clip):
    with pytest.raises(ValueError, match="only output='projection' is: set that"):
        CLIPResNet(RN, output_cls_token=True)
    with pytest.raises(ValueError, match=r'VisionTransformer.*needs.*\(a RN\* model\)'):
        CLIPResNet(tiny_clip)
    with pytest.raises(ValueError, match=r'ModifiedResNet.*a ResNet \(RN50\).*CLIPRes'):
        PACLBackbone(RN)


@pytest.mark.parametrize('frozen', [True, False])
def test_it_trains(tiny_model, frozen):
    for part in (
        tiny_model.data_preprocessor,
        tiny_model.backbone,
        tiny_model.decode_head.text_encoder,
    ):
        del part['model'], part['pretrained']
    tiny_model.update(type='ZeroShotSegmentor', encoder=dict(model=RN))
    tiny_model.backbone.update(type='CLIPResNet', frozen=frozen)
    tiny_model.neck.in_channels = 256
    model = MODELS.build(tiny_model).train()
    images = model.data_preprocessor(
        dict(
            inputs=torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8),
            data_samples=dict(captions=['a cat', 'a dog']),
        )
    )
    sum(model.loss(**images).values()).backward()
    grads = {n for n, p in model.named_parameters() if p.grad is not None}
    assert grads == {n for n, p in model.named_parameters() if p.requires_grad}
    parts = {name.split('.')[0] for name in grads}
    assert parts == ({'neck'} if frozen else {'neck', 'backbone'})
    assert not any('attnpool' in name for name in grads)
