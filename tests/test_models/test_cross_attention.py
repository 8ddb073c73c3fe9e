"""Compatibility by cross-attention."""

from __future__ import annotations

import pytest
import torch
from mmseg.structures import SegDataSample
from torch.nn import functional as F

from pacl_mmseg.models import OpenCLIPTextEncoder
from pacl_mmseg.models.decode_heads import CrossAttentionCompatibility
from pacl_mmseg.ops import compatibility_reference
from pacl_mmseg.registry import MODELS

LENGTHS = (3, 5, 1, 4)


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randn(3, 7, 8, generator=torch.Generator().manual_seed(0)).double()


@pytest.fixture
def words() -> torch.Tensor:
    words = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(1)).double()
    return words * (torch.arange(6) < torch.tensor(LENGTHS)[:, None])[..., None]


def module(**options) -> CrossAttentionCompatibility:
    """With layers that do something."""
    torch.manual_seed(0)
    made = CrossAttentionCompatibility(8, num_heads=2, **options).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def by_hand(made, tokens, words, length) -> tuple[torch.Tensor, torch.Tensor]:
    """Patch tokens (T, D) and text (D,) of one pair, after stock attention."""
    x = torch.cat([tokens + made.kinds[0], words[:length] + made.kinds[1]])
    for layer in made.layers:
        y = layer.norm1(x)[None]
        x = x + layer.self_attn(y, y, y)[0][0]
        x = x + layer.linear2(F.gelu(layer.linear1(layer.norm2(x))))
    return x[: len(tokens)], x[-1]


def test_begins_as_the_compatibility_of_pacl(tokens, words):
    made = CrossAttentionCompatibility(8, num_layers=2, weight_scale=7.0).double()
    ends = torch.stack([text[n - 1] for text, n in zip(words, LENGTHS, strict=True)])
    expected = compatibility_reference(tokens, ends, weight_scale=7.0)
    torch.testing.assert_close(made(tokens, words), expected)
    cosines = F.normalize(tokens, dim=-1) @ F.normalize(ends, dim=-1).T
    torch.testing.assert_close(made.patch_scores(tokens, words), cosines.mT)


@pytest.mark.parametrize('block', [1, 8 * 12 * 2, 8 * 12 * 5, None])
def test_each_pair_attends_to_itself_alone(tokens, words, block):
    made = module(num_layers=2, weight_scale=4.0, block=block)
    phi, scores = made(tokens, words), made.patch_scores(tokens, words)
    for i, image in enumerate(tokens):
        for j, length in enumerate(LENGTHS):
            patches, text = by_hand(made, image, words[j], length)
            cosines = F.cosine_similarity(patches, text[None])
            torch.testing.assert_close(scores[i, j], cosines)
            expected = compatibility_reference(
                patches[None], text[None], weight_scale=4.0
            )
            torch.testing.assert_close(phi[i, j], expected[0, 0])


def test_equal_texts_and_blocks_change_neither_values_nor_gradients(tokens, words):
    ids = torch.tensor([4, 2, 4, 9, 2, 1])
    weights = torch.randn(3, 6, generator=torch.Generator().manual_seed(2)).double()
    results = []
    for block, known in ((None, None), (None, ids), (8 * 12 * 2, ids)):
        made = module(block=block)
        leaves = [tokens.requires_grad_(), words.requires_grad_(), *made.parameters()]
        phi = made(tokens, words[[0, 1, 0, 2, 1, 3]], text_ids=known)
        results.append((phi, torch.autograd.grad((weights * phi).sum(), leaves)))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0])


def test_memory_does_not_grow_with_pairs():
    """What autograd keeps is tokens, words and results, not what layers make."""
    kept = {}
    for count in (8, 16):
        tokens = torch.randn(count, 7, 8, requires_grad=True)
        words = torch.randn(count, 5, 8)
        made = CrossAttentionCompatibility(8, num_heads=2, block=8 * 12 * 4)
        sizes = {}

        def keep(tensor, sizes=sizes):
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            phi = made(tokens, words)
        kept[count] = sum(sizes.values())
        inputs = tokens.nbytes + words.nbytes + phi.nbytes
        parameters = sum(p.nbytes for p in made.parameters())
        assert kept[count] < 3 * (inputs + parameters)
        phi.sum().backward()
        assert tokens.grad.isfinite().all()
    assert kept[16] < 2.5 * kept[8]  # pairs are four times as many


def test_words_end_in_the_text(tiny_clip):
    texts = ['cat', 'a photo of a very large dog', 'b ' * 50]
    for frozen in (True, False):
        encoder = OpenCLIPTextEncoder(tiny_clip, frozen=frozen)
        words = encoder.words(texts)
        assert words.shape == (3, 24, 24) and words.requires_grad is not frozen
        lengths = (words != 0).any(2).sum(1)
        assert lengths.tolist() == [3, 9, 24]  # with start and end
        ends = words[torch.arange(3), lengths - 1]
        torch.testing.assert_close(F.normalize(ends, dim=-1), encoder(texts))


def test_words_of_an_unknown_tower_are_refused(tiny_clip):
    tiny_clip['text_cfg']['pool_type'] = 'last'
    with pytest.raises(ValueError, match='take another encoder'):
        OpenCLIPTextEncoder(tiny_clip).words(['cat'])


@pytest.fixture
def model(tiny_model):
    tiny_model.decode_head.compatibility = dict(
        type='CrossAttentionCompatibility', embed_dims=24
    )
    tiny_model.decode_head.templates = ['a {}', 'the {} in a picture']
    torch.manual_seed(0)
    return MODELS.build(dict(tiny_model, type='ZeroShotSegmentor'))


def test_trains_and_segments(model):
    generator = torch.Generator().manual_seed(0)
    images = list(torch.randint(256, (4, 3, 32, 32), generator=generator).byte())
    samples = [
        SegDataSample(metainfo=dict(caption=c, ori_shape=(32, 32)))
        for c in ('a cat', 'a dog', 'a cat', 'grass')
    ]
    data = dict(inputs=images, data_samples=samples)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(8):
        processed = model.data_preprocessor(data, True)
        loss = model(**processed, mode='loss')['decode.loss_infonce']
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0] - 0.1
    head = model.eval().decode_head
    with torch.no_grad():
        features = model.extract_feat(model.data_preprocessor(data)['inputs'])
        maps = head.name_scores(features)
        words = head.text_encoder.words(['a puppy', 'the puppy in a picture'])
        tokens = features[0].flatten(2).mT
        expected = 40 * head.compatibility.patch_scores(tokens, words).mean(1)
        labels = model.test_step(data)[0].pred_sem_seg.data
    names = head.vocabulary.names
    found = maps[:, names.index('puppy')].flatten(1)
    torch.testing.assert_close(found, expected)
    assert maps.shape == (4, 4, 4, 4) and labels.shape == (1, 32, 32)
    before = head.prompt_words
    head.set_vocabulary(['tree', 'sky'])
    assert head.prompt_words.shape[0] == 4 and before.shape[0] == 8


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(num_layers=0), '1 layer or more, not 0'),
        (dict(num_heads=3), 'as divide its 8 channels, not 3'),
        (dict(block=0), 'block must be at least 1'),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        CrossAttentionCompatibility(8, **options)


def test_embeddings_are_no_words(tokens, words):
    with pytest.raises(ValueError, match='takes the words of texts'):
        module()(tokens, words[:, 0])
