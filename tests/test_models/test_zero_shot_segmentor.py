"""The segmentor against a plain account of what the authors' segmentors do."""

from __future__ import annotations

import math

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.models import EncoderDecoder
from mmseg.structures import SegDataSample
from torch.nn import functional as F

from pacl_mmseg.apis import set_vocabulary
from pacl_mmseg.models.segmentors import score_maps
from pacl_mmseg.ops import pamr
from pacl_mmseg.registry import MODELS

NAMES = ['sky, sea, wall', 'cat', 'dog, puppy', 'grass', 'car', 'bus']
CLASS_OF = torch.tensor([0, 0, 0, 1, 2, 2, 3, 4, 5])
SLIDE = dict(mode='slide', crop_size=(32, 32), stride=(16, 16))


@pytest.fixture
def build(tiny_model):
    def builder(logit_scale=20.0, **test_cfg):
        tiny_model.type = 'ZeroShotSegmentor'
        tiny_model.decode_head.vocabulary = NAMES
        tiny_model.decode_head.logit_scale = logit_scale
        tiny_model.test_cfg = ConfigDict(**(SLIDE | test_cfg))
        torch.manual_seed(1)  # of the embedder
        return MODELS.build(tiny_model).eval()

    return builder


def images(count=1, size=(48, 56)):
    return torch.randn(count, 3, *size, generator=torch.manual_seed(0))


def samples(count=1, ori_shape=(71, 90), **meta):
    return [SegDataSample(metainfo=dict(ori_shape=ori_shape, **meta))] * count


def name_probabilities(model, image, ori_shape, refine=None):
    """As in SCLIP's code: windows averaged, resized, (refined,) softmax over names."""
    height, width = image.shape[-2:]
    total = torch.zeros(1, len(CLASS_OF), height, width)
    count = torch.zeros(1, 1, height, width)
    for y in {*range(0, height - 32, 16), height - 32}:
        for x in {*range(0, width - 32, 16), width - 32}:
            crop = image[:, :, y : y + 32, x : x + 32]
            scores = model.decode_head.name_scores(model.extract_feat(crop))
            scores = F.interpolate(scores, (32, 32), mode='bilinear')
            total[:, :, y : y + 32, x : x + 32] += scores
            count[:, :, y : y + 32, x : x + 32] += 1
    scores = F.interpolate(total / count, ori_shape, mode='bilinear')
    if refine is not None:
        scores = refine(F.interpolate(image, ori_shape, mode='bilinear'), scores)
    return scores[0].softmax(0)


def by_the_stock_loop(model, batch, data_samples, average):
    """Log-probabilities of classes from what MMSeg does, with a class for each name."""
    head = model.decode_head
    scores = head.name_scores
    if average == 'probabilities':
        head.forward = lambda inputs: scores(inputs).softmax(1)
    else:
        head.forward = scores
    model.out_channels = len(CLASS_OF)
    out = EncoderDecoder.predict(model, batch, [s.clone() for s in data_samples])
    names = [sample.seg_logits.data for sample in out]
    if average == 'probabilities':
        return [merged(p / p.sum(0)).log() for p in names]
    return [merged(scores.softmax(0)).log() for scores in names]


def merged(probabilities, first=0):
    return torch.stack(
        [probabilities[c == CLASS_OF].amax(0) for c in range(first, CLASS_OF.max() + 1)]
    )


def agree(left, right):
    """Share of equal labels: those of a tie may differ."""
    return (left == right).float().mean() > 0.999


@torch.no_grad()
def test_names_are_averaged_before_softmax_and_synonyms_merge_last(build):
    model = build(keep_scores=True)
    image = images()
    (result,) = model.predict(image, samples())
    expected = merged(name_probabilities(model, image, (71, 90)))
    torch.testing.assert_close(
        result.seg_logits.data.exp(), expected, atol=1e-5, rtol=0
    )
    assert agree(result.pred_sem_seg.data[0], expected.argmax(0))
    assert result.pred_sem_seg.data.dtype == torch.int64
    assert result.pred_sem_seg.data.unique().numel() > 3


@pytest.mark.parametrize('average', ['scores', 'probabilities'])
@pytest.mark.parametrize(
    ('size', 'meta'),
    [
        ((48, 56), {}),
        ((41, 75), dict(flip=True, flip_direction='horizontal')),
        ((64, 48), dict(flip=True, flip_direction='vertical')),
        ((48, 56), dict(img_padding_size=(0, 7, 2, 3), ori_shape=(43, 49))),
        ((24, 60), {}),  # lower than a window
    ],
)
@torch.no_grad()
def test_batched_windows_equal_the_stock_loop(build, size, meta, average):
    batch = images(2, size)
    expected = by_the_stock_loop(build(), batch, samples(2, **meta), average)
    for window_batch in (1, 5, 64):
        model = build(window_batch=window_batch, keep_scores=True, average=average)
        out = model.predict(batch, [s.clone() for s in samples(2, **meta)])
        for sample, scores in zip(out, expected, strict=True):
            torch.testing.assert_close(
                sample.seg_logits.data, scores, atol=1e-5, rtol=1e-5
            )


@torch.no_grad()
def test_images_of_different_sizes_in_one_batch(build, tiny_model):
    tiny_model.data_preprocessor.mixed_sizes = True
    model = build(window_batch=7)
    sizes = [(48, 56), (40, 64), (24, 60)]  # the last is lower than a window
    generator = torch.manual_seed(0)
    batch = [
        torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
        for size in sizes
    ]
    data = [SegDataSample(metainfo=dict(ori_shape=size)) for size in sizes]
    together = model.test_step(dict(inputs=batch, data_samples=data))
    for image, sample, result in zip(batch, data, together, strict=True):
        (alone,) = model.test_step(dict(inputs=[image], data_samples=[sample.clone()]))
        assert torch.equal(alone.pred_sem_seg.data, result.pred_sem_seg.data)


@torch.no_grad()
def test_whole_mode_is_one_window(build):
    image = images(size=(48, 48))
    whole = build(mode='whole', keep_scores=True).predict(image, samples())
    window = build(crop_size=(48, 48), keep_scores=True).predict(image, samples())
    assert torch.equal(whole[0].seg_logits.data, window[0].seg_logits.data)


@torch.no_grad()
def test_blocks_of_any_size_give_one_result(build, monkeypatch):
    options = dict(present_classes=True, area_threshold=0.1, keep_scores=True)
    options['background'] = dict(rule='names')
    results = []
    for block in (1, 5000, 2**23):
        monkeypatch.setattr(score_maps, 'BLOCK_CPU', block)
        (sample,) = samples()
        sample.gt_sem_seg = PixelData(data=torch.full((1, 71, 90), 3))
        results += build(**options).predict(images(), [sample.clone()])
    for key in ('pred_sem_seg', 'pred_present_classes', 'seg_logits'):
        first, *others = [result.get(key).data for result in results]
        for other in others:
            torch.testing.assert_close(other, first)


@torch.no_grad()
def test_averaged_probabilities_are_those_of_tokens(build):
    model = build(average='probabilities', mode='whole', keep_scores=True)
    image = images()
    scores = model.decode_head.name_scores(model.extract_feat(image)).softmax(1)
    expected = F.interpolate(
        F.interpolate(scores, (48, 56), mode='bilinear'), (71, 90), mode='bilinear'
    )
    (result,) = model.predict(image, samples())
    torch.testing.assert_close(result.seg_logits.data.exp(), merged(expected[0]))


@torch.no_grad()
def test_probability_rule(build):
    image = images()
    probabilities = name_probabilities(build(), image, (71, 90))
    expected = merged(probabilities)
    best = expected.amax(0)
    threshold = best.median().item()
    labels = expected.argmax(0).masked_fill(best < threshold, 0)
    rule = dict(rule='probability', threshold=threshold)
    (result,) = build(background=rule, keep_scores=True).predict(image, samples())
    assert agree(result.pred_sem_seg.data[0], labels)
    assert agree(result.seg_logits.data.argmax(0), labels)
    assert 0.5 < (labels == 0).float().mean() < 1


@torch.no_grad()
def test_entropy_rule_is_over_the_classes_other_than_background(build):
    image = images()
    names = name_probabilities(build(), image, (71, 90))
    classes = merged(names, first=1)
    classes = classes / classes.sum(0)
    entropy = torch.special.entr(classes).sum(0)
    threshold = entropy.median().item()
    labels = (classes.argmax(0) + 1).masked_fill(entropy > threshold, 0)
    rule = dict(rule='entropy', threshold=threshold)
    (result,) = build(background=rule, keep_scores=True).predict(image, samples())
    assert agree(result.pred_sem_seg.data[0], labels)
    assert agree(result.seg_logits.data.argmax(0), labels)


@torch.no_grad()
def test_names_of_the_background_compete(build):
    image = images()
    labels = merged(name_probabilities(build(), image, (71, 90))).argmax(0)
    (result,) = build(background=dict(rule='names')).predict(image, samples())
    assert agree(result.pred_sem_seg.data[0], labels)
    assert (labels == 0).any()


@torch.no_grad()
def test_area_threshold_drops_small_classes(build):
    image = images()
    expected = merged(name_probabilities(build(), image, (71, 90)))
    areas = expected.argmax(0).flatten().bincount(minlength=6)[1:].float()
    share = areas / areas.sum()
    threshold = share.sort().values[1:3].mean().item()
    kept = torch.cat([torch.ones(1, dtype=torch.bool), share > threshold])
    assert 0 < kept.sum() < 6
    rule = dict(rule='probability', threshold=0.2)
    model = build(area_threshold=threshold, background=rule, keep_scores=True)
    (result,) = model.predict(image, samples())
    remaining = expected * kept[:, None, None]
    labels = remaining.argmax(0).masked_fill(remaining.amax(0) < 0.2, 0)
    assert agree(result.pred_sem_seg.data[0], labels)
    assert agree(result.seg_logits.data.argmax(0), labels)


@torch.no_grad()
def test_pamr_refines_scores_of_names_at_full_size(build):
    image = images()
    options = dict(steps=3, dilations=(1, 2))
    expected = name_probabilities(
        build(), image, (71, 90), lambda rgb, scores: pamr(rgb, scores, **options)
    )
    (result,) = build(pamr=options, keep_scores=True).predict(image, samples())
    torch.testing.assert_close(
        result.seg_logits.data.exp(), merged(expected), atol=1e-5, rtol=0
    )


@torch.no_grad()
def test_present_classes_alone_compete(build):
    image = images()
    expected = merged(name_probabilities(build(), image, (71, 90)))
    truth = torch.full((1, 71, 90), 255)
    truth[:, :20], truth[:, 20:40] = 2, 4
    (sample,) = samples()
    sample.gt_sem_seg = PixelData(data=truth)
    (result,) = build(present_classes=True).predict(image, [sample])
    labels = torch.where(expected[2] >= expected[4], 2, 4)
    assert agree(result.pred_present_classes.data[0], labels)
    assert agree(result.pred_sem_seg.data[0], expected.argmax(0))
    # The rule decides only where background is present, and as it does for all classes.
    rule = dict(rule='probability', threshold=expected.amax(0).median().item())
    model = build(present_classes=True, background=rule)
    (result,) = model.predict(image, [sample])
    assert agree(result.pred_present_classes.data[0], labels)
    truth[:, 40:] = 0
    (result,) = model.predict(image, [sample])
    scores = expected[[0, 2, 4]]
    labels = torch.tensor([0, 2, 4])[scores.argmax(0)]
    labels[expected.amax(0) < rule['threshold']] = 0
    assert agree(result.pred_present_classes.data[0], labels)


@torch.no_grad()
def test_present_classes_of_nothing_but_background(build):
    (sample,) = samples()
    sample.gt_sem_seg = PixelData(data=torch.zeros(1, 71, 90, dtype=torch.int64))
    rule = dict(rule='entropy', threshold=1.2)
    (result,) = build(present_classes=True, background=rule).predict(images(), [sample])
    assert not result.pred_present_classes.data.any()
    assert result.pred_sem_seg.data.any()


@torch.no_grad()
def test_flips_are_averaged_by_stock_tta(build, tiny_model):
    rule = dict(rule='probability', threshold=0.3)
    model = build(keep_scores=True, background=rule)
    tta = MODELS.build(dict(type='SegTTAModel', module=tiny_model)).eval()
    tta.module.load_state_dict(model.state_dict())
    meta = dict(img_path='a.jpg', ori_shape=(71, 90))
    views = [
        SegDataSample(metainfo=meta | dict(flip=False)),
        SegDataSample(metainfo=meta | dict(flip=True, flip_direction='horizontal')),
    ]
    image = (images() * 40 + 128).clamp(0, 255).byte()
    inputs = [image, image.flip(-1)]
    scores = [
        model.test_step(dict(inputs=list(x), data_samples=[view.clone()]))[0].seg_logits
        for x, view in zip(inputs, views, strict=True)
    ]
    mean = sum(score.data.softmax(0) for score in scores)
    assert not torch.equal(scores[0].data.argmax(0), mean.argmax(0))
    data = dict(inputs=[list(x) for x in inputs], data_samples=[[v] for v in views])
    (both,) = tta.test_step(data)
    assert torch.equal(both.pred_sem_seg.data[0], mean.argmax(0))


@torch.no_grad()
def test_autocast_reaches_the_encoder_alone(build):
    model = build(average='probabilities', logit_scale=100.0, keep_scores=True)
    image, kept = images(), []
    predict = model._encode
    model._encode = lambda *args: kept.append(predict(*args)) or kept[-1]
    with torch.autocast('cpu', torch.bfloat16):
        (low,) = model.predict(image, samples())
    model._encode = lambda *args: kept[0]
    (full,) = model.predict(image, samples())
    assert low.seg_logits.data.dtype == torch.float32
    assert torch.equal(low.seg_logits.data, full.seg_logits.data)


def test_classes_have_names_without_a_checkpoint(build):
    model = build()
    assert model.dataset_meta['classes'][1:3] == ('cat', 'dog')
    set_vocabulary(model, ['sofa', 'lamp', 'rug'])
    assert model.dataset_meta['classes'] == ('sofa', 'lamp', 'rug')
    assert len(model.dataset_meta['palette']) == 3
    assert model.predict(images())[0].pred_sem_seg.data.max() <= 2


def test_other_heads_are_refused(tiny_model):
    tiny_model.type = 'ZeroShotSegmentor'
    tiny_model.decode_head = dict(
        type='FCNHead', in_channels=24, channels=24, num_classes=3, num_convs=0
    )
    tiny_model.decode_head.update(concat_input=False)
    with pytest.raises(ValueError, match="not a FCNHead: use type='EncoderDecoder'"):
        MODELS.build(tiny_model)


def test_train_cfg_has_no_options(tiny_model):
    tiny_model.update(type='ZeroShotSegmentor', train_cfg=dict(warm=1))
    with pytest.raises(ValueError, match='train_cfg has no options.*leave out warm'):
        MODELS.build(tiny_model)


def test_entropy_threshold_that_swallows_everything_warns(build):
    rule = dict(rule='entropy', threshold=1.5)
    with pytest.warns(UserWarning, match='whole image became background'):
        build(logit_scale=1.0, background=rule).predict(images(), samples())
    rule = dict(rule='entropy', threshold=1.7)
    assert rule['threshold'] > math.log(5)
    with pytest.warns(UserWarning, match='at most 1.61: .* nothing is background'):
        build(background=rule).predict(images(), samples())


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(widow_batch=3), "no option of test_cfg 'widow_batch'.*'window_batch'"),
        (dict(window_batch=0), 'window_batch must be 1 or more'),
        (dict(mode='slied'), "mode must be one of.*Did you mean 'slide'"),
        (dict(crop_size=None), r'test_cfg.crop_size=\(height, width\) in pixels'),
        (dict(stride=16), r'test_cfg.stride=\(height, width\) in pixels, not 16'),
        (dict(stride=(40, 40)), 'every .40, 40. pixels leave gaps'),
        (dict(average='logits'), "average must be one of.*not 'logits'"),
        (dict(background='entropy'), 'background must be a dict'),
        (dict(background=dict(rule='entrop')), "'entrop'.*Did you mean 'entropy'"),
        (dict(background=dict(rule='entropy')), 'needs a threshold'),
        (dict(background=dict(treshold=1)), "'treshold'.*Did you mean 'threshold'"),
        (dict(pamr=dict(step=3)), 'pamr must be None or a dict of steps, dilations'),
        (dict(area_threshold=0.1), 'set a background rule'),
        (
            dict(area_threshold=5.0, background=dict(rule='names')),
            'area_threshold must be between 0 and 1',
        ),
        (dict(background=dict(rule='probability', threshold=1.5)), 'all is background'),
        (dict(background=dict(rule='names', threshold=0.5)), 'takes no threshold'),
    ],
)
def test_bad_options(build, options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_rule_without_enough_classes(tiny_model):
    tiny_model.type = 'ZeroShotSegmentor'
    tiny_model.decode_head.vocabulary = ['background', 'cat']
    tiny_model.test_cfg.background = dict(rule='entropy', threshold=1.2)
    model = MODELS.build(tiny_model).eval()
    with pytest.raises(ValueError, match='needs two more classes'):
        model.predict(images())
