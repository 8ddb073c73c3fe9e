import pytest
import torch

from pacl_mmseg.models import PatchEmbedder


def test_parameter_count_of_the_paper():
    embedder = PatchEmbedder(in_channels=768, out_channels=512)
    assert sum(p.numel() for p in embedder.parameters()) == 1_050_112


def test_is_a_residual_block_on_every_token():
    embedder = PatchEmbedder(in_channels=6, out_channels=4)
    maps, cls = torch.randn(2, 6, 3, 5), torch.randn(2, 6)
    ((out, out_cls),) = embedder([[maps, cls]])
    first, _, second = embedder.main
    token = maps[1, :, 2, 4]
    hidden = (first.weight @ token + first.bias).clamp(min=0)
    expected = second.weight @ hidden + second.bias
    expected = expected + embedder.skip.weight @ token + embedder.skip.bias
    torch.testing.assert_close(out[1, :, 2, 4], expected)
    (plain,) = embedder([cls[:, :, None, None]])
    torch.testing.assert_close(out_cls, plain[:, :, 0, 0])


def test_variant_of_nms05():
    embedder = PatchEmbedder(
        8, 4, act_cfg=dict(type='GELU'), pre_norm=True, dropout=0.1
    ).eval()
    x = torch.randn(1, 8, 2, 2)
    # LayerNorm in front makes it blind to the scale and offset of a token.
    torch.testing.assert_close(
        embedder([x])[0], embedder([3 * x + 1])[0], rtol=1e-3, atol=1e-4
    )
    embedder.train()
    assert not torch.equal(embedder([x])[0], embedder([x])[0])


@pytest.mark.parametrize('depth', [0, 1, 2, 4])
def test_depth(depth):
    embedder = PatchEmbedder(3, 4, depth=depth)
    x = torch.randn(7, 3)
    expected = embedder.skip(x)
    linear = [m for m in embedder.modules() if isinstance(m, torch.nn.Linear)]
    assert len(linear) == depth + 1
    if depth > 0:
        hidden = x
        for index, layer in enumerate(linear[:-1]):
            hidden = layer(hidden.clamp(min=0) if index > 0 else hidden)
        expected = hidden + expected
    torch.testing.assert_close(embedder.embed(x), expected)
    names = [name for name, _ in embedder.named_parameters()]
    if depth == 2:  # checkpoints keep their names
        assert names == [
            *('main.0.weight', 'main.0.bias', 'main.2.weight', 'main.2.bias'),
            *('skip.weight', 'skip.bias'),
        ]
    with pytest.raises(ValueError, match='depth must not be negative, got -1'):
        PatchEmbedder(3, 4, depth=-1)


def test_wrong_channels_name_the_remedy():
    with pytest.raises(ValueError, match=r'set model\.neck\.in_channels=6'):
        PatchEmbedder(8, 4)([torch.zeros(1, 6, 2, 2)])
