import math

import open_clip
import pytest
import torch
from mmengine.config import ConfigDict
from mmseg.structures import SegDataSample
from torch.nn import functional as F

from pacl_mmseg.apis import set_vocabulary
from pacl_mmseg.models import ZeroShotTextHead
from pacl_mmseg.models.decode_heads import compatibility_function
from pacl_mmseg.models.losses.info_nce import text_ids
from pacl_mmseg.models.open_clip_model import build_open_clip
from pacl_mmseg.ops import compatibility, compatibility_reference
from pacl_mmseg.registry import MODELS


@pytest.fixture
def encoder(tiny_clip):
    return dict(type='OpenCLIPTextEncoder', model=tiny_clip, pretrained=None)


def captioned(*captions):
    return [SegDataSample(metainfo=dict(caption=caption)) for caption in captions]


def test_bank_equals_open_clips_zero_shot_classifier(encoder, tiny_clip):
    names = ['cat', 'dog']
    templates = ['a photo of a {}.', 'art of the {}.']
    head = ZeroShotTextHead(encoder, vocabulary=names, templates=templates)
    tokenizer = open_clip.SimpleTokenizer(context_length=24)
    weights = open_clip.build_zero_shot_classifier(
        build_open_clip(tiny_clip).eval(),
        tokenizer,
        names,
        [lambda name, t=t: t.format(name) for t in templates],
    )
    torch.testing.assert_close(head.text_bank.embeddings, weights.T)


def test_scores_are_scaled_cosines_and_synonyms_merge_by_max(encoder):
    head = ZeroShotTextHead(
        encoder, vocabulary=['cat', 'dog, puppy', 'sky'], logit_scale=10
    )
    maps = torch.randn(2, 24, 3, 4)
    names = head.name_scores([maps])
    assert names.shape == (2, 4, 3, 4)
    cosine = F.cosine_similarity(maps[1, :, 2, 3], head.text_bank.embeddings[2], dim=0)
    torch.testing.assert_close(names[1, 2, 2, 3], 10 * cosine)
    classes = head([maps])
    assert classes.shape == (2, 3, 3, 4)
    torch.testing.assert_close(classes[:, 1], names[:, 1:3].amax(1))
    torch.testing.assert_close(classes[:, 2], names[:, 3])


def test_bank_is_computed_once_per_vocabulary(encoder):
    head = ZeroShotTextHead(encoder, vocabulary=['cat', 'dog'])
    calls = []
    head.text_encoder.register_forward_hook(lambda *args: calls.append(1))
    maps = [torch.randn(1, 24, 2, 2)]
    head(maps), head(maps)
    head.set_vocabulary(['bird', 'cow', 'hen'])
    assert head(maps).shape[1] == head.num_classes == 3
    head(maps)
    assert len(calls) == 2


def test_trained_text_encoder_gets_a_new_bank(encoder):
    head = ZeroShotTextHead({**encoder, 'frozen': False}, vocabulary=['cat', 'dog'])
    before = head.eval().text_bank.embeddings
    head.train()
    with torch.no_grad():
        head.text_encoder.text.ln_final.weight.mul_(torch.rand(16))
    after = head.eval().text_bank.embeddings
    assert not torch.allclose(before, after)


@pytest.mark.parametrize(
    'options',
    [
        dict(mode='softmax', weight_scale=10.0),
        dict(mode='sigmoid'),
        dict(mode='max', normalize_first=True),
        dict(mode='cls'),
    ],
)
def test_loss_is_info_nce_over_the_compatibility(encoder, options):
    head = ZeroShotTextHead(
        encoder,
        vocabulary=['cat', 'dog'],
        compatibility=options,
        loss_decode=dict(type='InfoNCELoss', logit_scale=5.0),
    )
    maps, cls = torch.randn(3, 24, 2, 5), torch.randn(3, 24)
    captions = ['a cat', 'two dogs', 'a red car']
    losses = head.loss([[maps, cls]], captioned(*captions))
    texts = head.text_encoder(captions)
    tokens = maps.flatten(2).transpose(1, 2)
    phi = compatibility_reference(tokens, texts, cls_tokens=cls, **options)
    target = torch.arange(3)
    expected = F.cross_entropy(5 * phi, target) + F.cross_entropy(5 * phi.T, target)
    torch.testing.assert_close(losses['loss_infonce'], expected / 2)
    accuracy = (phi.argmax(1) == target).float().mean() * 100
    torch.testing.assert_close(losses['acc_i2t'].float(), accuracy)


def test_batches_of_captions_and_of_tokens_agree(encoder):
    head = ZeroShotTextHead(encoder, vocabulary=['cat', 'dog'])
    maps = [torch.randn(3, 24, 2, 5)]
    captions = ['a cat', 'two dogs', 'a cat']
    expected = head.loss(maps, captioned(*captions))
    # Two images share a caption: neither is the other's negative.
    tokens = head.text_encoder.tokenizer(captions)
    different = dict(captions=['a', 'b', 'c'], text_tokens=tokens)
    assert expected['loss_infonce'] < head.loss(maps, different)['loss_infonce']
    calls = {'text': 0, 'phi': 0, 'loss': 0}
    for name, module in (
        ('text', head.text_encoder),
        ('phi', head.compatibility),
        ('loss', head.loss_decode),
    ):
        module.register_forward_hook(
            lambda *_, name=name: calls.update({name: calls[name] + 1})
        )
    batches = [
        dict(captions=captions),
        dict(captions=captions, text_tokens=tokens),
    ]
    for batch in batches:
        losses = head.loss(maps, batch)
        assert losses.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(losses[key], value)
    assert calls == {'text': 2, 'phi': 2, 'loss': 2}


@pytest.mark.parametrize('frozen', [True, False])
def test_equal_texts_are_encoded_and_compared_once(encoder, monkeypatch, frozen):
    encoder['frozen'] = frozen
    scale = dict(weight_scale=3.0, learnable=True)
    head = ZeroShotTextHead(encoder, vocabulary=['cat', 'dog'], compatibility=scale)
    captions = ['a cat', 'two dogs', 'a cat', 'a cat', 'grass']
    maps = torch.randn(5, 24, 2, 3, requires_grad=True)
    texts = head.text_encoder(captions)
    tokens = maps.permute(0, 2, 3, 1).flatten(1, 2)
    phi = compatibility_reference(
        tokens, texts, weight_scale=head.compatibility.weight_scale
    )
    expected = head.loss_decode(phi, text_ids(captions))
    leaves = [maps, head.compatibility.log_weight_scale]
    if not frozen:
        leaves += [p for p in head.text_encoder.text.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(expected['loss_infonce'], leaves)
    encoded, compared = [], []
    head.text_encoder.register_forward_pre_hook(lambda _, x: encoded.append(len(x[0])))
    monkeypatch.setattr(
        compatibility_function,
        'compatibility',
        lambda tokens, texts, **options: (
            compared.append(texts) or compatibility(tokens, texts, **options)
        ),
    )
    losses = head.loss([maps], dict(captions=captions))
    assert encoded == [3]
    assert len(compared[0].unique(dim=0)) == 3
    for key, value in expected.items():
        torch.testing.assert_close(losses[key], value)
    found = torch.autograd.grad(losses['loss_infonce'], leaves)
    torch.testing.assert_close(found, gradients)


def test_loss_reports_how_patches_are_weighted(encoder):
    def losses(maps, **options):
        head = ZeroShotTextHead(
            encoder, vocabulary=['cat', 'dog'], compatibility=options
        )
        return head.loss([maps], captioned('a cat', 'two dogs'))

    maps = torch.randn(2, 24, 2, 5)
    flat = losses(maps, weight_scale=0.0)
    assert flat['weight_entropy'].item() == pytest.approx(math.log(10), rel=1e-5)
    assert flat['effective_patches'].item() == pytest.approx(10, rel=1e-5)
    assert [key for key in flat if 'loss' in key] == ['loss_infonce']
    one = losses(maps, weight_scale=1e4)
    assert one['effective_patches'].item() == pytest.approx(1, abs=0.1)
    assert 'weight_scale' not in one
    learnt = losses(maps, weight_scale=4.0, learnable=True)
    assert learnt['weight_scale'].item() == pytest.approx(4)
    assert not learnt['weight_scale'].requires_grad
    assert 'weight_entropy' not in losses(maps, mode='mean')
    maps[0, 0, 0, 0] = float('nan')
    broken = losses(maps)
    assert broken['weight_entropy'].isnan() and broken['loss_infonce'].isnan()


def test_learnt_weight_scale_trains_and_is_in_the_checkpoint(encoder):
    options = dict(weight_scale=5.0, learnable=True)
    build = dict(encoder=encoder, vocabulary=['cat', 'dog'], compatibility=options)
    head = ZeroShotTextHead(build.pop('encoder'), **build)
    losses = head.loss([torch.randn(2, 24, 2, 5)], captioned('a cat', 'two dogs'))
    losses['loss_infonce'].backward()
    parameter = head.compatibility.log_weight_scale
    assert parameter.grad.abs() > 0
    with torch.no_grad():
        parameter.fill_(math.log(7))
    state = head.state_dict()
    assert state['compatibility.log_weight_scale'].exp().item() == pytest.approx(7)
    other = ZeroShotTextHead(encoder, **build)
    other.load_state_dict(state)
    assert other.compatibility.weight_scale.item() == pytest.approx(7)
    fixed = ZeroShotTextHead(encoder, vocabulary=['cat', 'dog'])
    assert not [key for key in fixed.state_dict() if 'compatibility' in key]


def test_stock_slide_whole_and_tta_inference(tiny_model):
    inputs = torch.randn(1, 3, 48, 64)
    sample = SegDataSample(
        metainfo=dict(
            img_path='a.jpg',
            ori_shape=(96, 128),
            img_shape=(48, 64),
            pad_shape=(48, 64),
            flip=False,
        )
    )
    model = MODELS.build(tiny_model).eval()
    whole = model.predict(inputs, [sample.clone()])[0]
    assert whole.pred_sem_seg.data.shape == (1, 96, 128)
    assert whole.seg_logits.data.shape == (3, 96, 128)
    model.test_cfg = ConfigDict(mode='slide', crop_size=(32, 32), stride=(16, 16))
    slide = model.predict(inputs, [sample.clone()])[0]
    assert slide.seg_logits.data.shape == (3, 96, 128)
    # One window that is the whole image is whole inference.
    model.test_cfg = ConfigDict(mode='slide', crop_size=(48, 64), stride=(48, 64))
    one = model.predict(inputs, [sample.clone()])[0]
    torch.testing.assert_close(one.seg_logits.data, whole.seg_logits.data)
    tta = MODELS.build(dict(type='SegTTAModel', module=tiny_model)).eval()
    flipped = sample.clone()
    flipped.set_metainfo(dict(flip=True, flip_direction='horizontal'))
    image = torch.zeros(3, 48, 64, dtype=torch.uint8)
    data = dict(inputs=[[image], [image]], data_samples=[[sample], [flipped]])
    (merged,) = tta.test_step(data)
    assert merged.pred_sem_seg.data.shape == (1, 96, 128)


def test_set_vocabulary_on_a_segmentor_reaches_sliding_windows(tiny_model):
    tiny_model.test_cfg = dict(mode='slide', crop_size=(32, 32), stride=(16, 16))
    model = MODELS.build(tiny_model).eval()
    set_vocabulary(model, ['a', 'b', 'c', 'd', 'e'])
    (result,) = model.predict(torch.randn(1, 3, 40, 40))
    assert result.seg_logits.data.shape == (5, 40, 40)
    model.decode_head = torch.nn.Identity()
    with pytest.raises(TypeError, match='only a ZeroShotTextHead'):
        set_vocabulary(model, ['a', 'b'])


def test_pretrained_logit_scale(encoder):
    head = ZeroShotTextHead(
        encoder, vocabulary=['cat', 'dog'], logit_scale='pretrained'
    )
    assert math.isclose(head.logit_scale, 1 / 0.07, rel_tol=1e-5)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(), 'Give either vocabulary or dataset_name'),
        (dict(vocabulary=['a'], dataset_name='voc20'), 'Give either'),
        (dict(dataset_name='voc2'), "'voc2'"),
        (dict(vocabulary=['a', 'b'], templates='pacl8'), 'pacl7'),
        (dict(vocabulary=['a']), "With 'a' alone"),
    ],
)
def test_bad_arguments(encoder, options, message):
    with pytest.raises(ValueError, match=message):
        ZeroShotTextHead(encoder, **options)


def test_helpful_errors_in_use(encoder):
    head = ZeroShotTextHead(encoder, vocabulary=['cat', 'dog'])
    with pytest.raises(ValueError, match='PatchEmbedder.*in_channels=32'):
        head([torch.zeros(1, 32, 2, 2)])
    with pytest.raises(ValueError, match='trains on captions'):
        head.loss([torch.zeros(1, 24, 2, 2)], [SegDataSample()])
    with pytest.raises(ValueError, match='trains on captions'):
        head.loss([torch.zeros(1, 24, 2, 2)], dict(img_path=['a.jpg']))


def test_second_compatibility_adds_its_own_loss(encoder):
    maps, cls_tokens = torch.randn(3, 24, 2, 2), torch.randn(3, 24)
    samples = captioned('a cat', 'a dog', 'a sky')
    losses = {}
    for name, options in {
        'phi': dict(compatibility=dict(weight_scale=4.0)),
        'cls': dict(compatibility=dict(mode='cls')),
        'both': dict(
            compatibility=dict(weight_scale=4.0), second_compatibility=dict(mode='cls')
        ),
    }.items():
        head = ZeroShotTextHead(encoder, vocabulary=['cat', 'dog'], **options)
        losses[name] = head.loss([[maps, cls_tokens]], samples)
    both = losses['both']
    assert torch.equal(both['loss_infonce'], losses['phi']['loss_infonce'])
    assert torch.equal(both['second_loss_infonce'], losses['cls']['loss_infonce'])
    assert torch.equal(both['second_acc_i2t'], losses['cls']['acc_i2t'])
    with pytest.raises(ValueError, match='needs the class token'):
        head.loss([maps], samples)
    words = dict(type='CrossAttentionCompatibility', embed_dims=24)
    with pytest.raises(ValueError, match='the first one takes words'):
        ZeroShotTextHead(
            encoder,
            vocabulary=['cat', 'dog'],
            compatibility=words,
            second_compatibility=dict(mode='cls'),
        )
