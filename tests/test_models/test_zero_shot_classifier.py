"""Classifying whole images, and comparing them with captions."""

from __future__ import annotations

import open_clip
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain.evaluation import RetrievalRecall
from mmpretrain.structures import DataSample
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from pacl_mmseg.apis import init_model, set_vocabulary
from pacl_mmseg.models import ZeroShotClassifier
from pacl_mmseg.models.open_clip_model import build_open_clip, build_tokenizer
from pacl_mmseg.ops import compatibility_reference
from pacl_mmseg.prompts import get_templates
from pacl_mmseg.registry import MODELS

NAMES = ['tench', 'goldfish', 'great white shark', 'rooster', 'bald eagle', 'newt']


def config_of(clip: dict, mode: str = 'softmax') -> dict:
    """On CLIP's own tokens, without PACL's embedder."""
    return dict(
        type='ZeroShotClassifier',
        encoder=dict(model=clip),
        data_preprocessor=dict(type='CLIPDataPreProcessor'),
        backbone=dict(
            type='PACLBackbone', output='projection', output_cls_token=mode == 'cls'
        ),
        decode_head=dict(
            type='ZeroShotTextHead',
            text_encoder=dict(type='OpenCLIPTextEncoder'),
            vocabulary=[[name] for name in NAMES],
            templates='imagenet80',
            compatibility=dict(mode=mode),
            logit_scale='pretrained',
        ),
    )


def classifier(clip: dict, mode: str = 'softmax', **changes) -> ZeroShotClassifier:
    """One with changes: a part, or ``part__option``."""
    model = config_of(clip, mode)
    for key, value in changes.items():
        part, _, option = key.partition('__')
        if option:
            model[part][option] = value
        else:
            model[part] = value
    return MODELS.build(model).eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def open_clips_scores(architecture: dict, images: torch.Tensor) -> torch.Tensor:
    clip = build_open_clip(architecture).eval()
    weights = open_clip.build_zero_shot_classifier(
        clip, build_tokenizer(architecture), NAMES, get_templates('imagenet80')
    )
    return clip.logit_scale.exp() * clip.encode_image(images, normalize=True) @ weights


@torch.no_grad()
def test_class_token_is_open_clips_own_classifier(tiny_clip, images):
    expected = open_clips_scores(tiny_clip, images)
    scores = classifier(tiny_clip, 'cls').class_scores(images)
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-5)
    assert expected.std(dim=1).min() > 1e-3  # classes differ by more than that


@pytest.mark.parametrize(
    'options',
    [
        dict(mode='softmax', weight_scale=7.0),
        dict(mode='softmax', normalize_first=True, renormalize=False),
        dict(mode='sigmoid'),
        dict(mode='max'),
        dict(mode='mean'),
    ],
    ids=str,
)
@torch.no_grad()
def test_scores_are_phi(tiny_clip, images, options):
    neck = dict(type='PatchEmbedder', in_channels=32, out_channels=24)
    model = classifier(
        tiny_clip,
        neck=neck,
        backbone__output='block',
        decode_head__compatibility=options,
        decode_head__logit_scale=3.0,
    )
    (maps,) = model.extract_feat(images)
    phi = compatibility_reference(
        maps.flatten(2).transpose(1, 2).double(),
        model.decode_head.text_bank.embeddings.double(),
        **options,
    )
    scores = model.class_scores(images)
    torch.testing.assert_close(scores.double(), 3 * phi, rtol=0, atol=1e-5)
    samples = model.predict(images)
    for sample, row in zip(samples, phi, strict=True):
        assert sample.pred_label.item() == row.argmax()
        torch.testing.assert_close(sample.pred_score, (3 * row).softmax(0).float())


@torch.no_grad()
def test_a_class_scores_as_its_best_name(tiny_clip, images):
    model = classifier(tiny_clip)
    single = model.class_scores(images)
    model.decode_head.set_vocabulary(['tench, goldfish', 'rooster', 'newt'])
    merged = model.class_scores(images)
    torch.testing.assert_close(merged[:, 0], single[:, :2].amax(1))
    torch.testing.assert_close(merged[:, 1:], single[:, [3, 5]])


@torch.no_grad()
def test_a_checkpoint_of_a_segmentor_classifies(tiny_clip, tiny_model, images):
    torch.manual_seed(3)
    segmentor = MODELS.build(tiny_model).eval()
    neck = dict(type='PatchEmbedder', in_channels=32, out_channels=24)
    model = classifier(tiny_clip, neck=neck, backbone__output='block')
    before = model.class_scores(images)
    model.load_state_dict(segmentor.state_dict())
    assert not torch.allclose(model.class_scores(images), before)
    maps = segmentor.extract_feat(images)
    for theirs, ours in zip(maps, model.extract_feat(images), strict=True):
        assert torch.equal(theirs, ours)


@torch.no_grad()
def test_helpers_of_segmentors_take_it(tiny_clip, images):
    config = Config(dict(model=config_of(tiny_clip, 'cls')))
    model = init_model(config, device='cpu')
    expected = open_clips_scores(tiny_clip, images).argmax(1)
    found = [sample.pred_label.item() for sample in model.predict(images)]
    assert found == expected.tolist()
    set_vocabulary(model, NAMES[:2], templates='photo')
    assert model.predict(images)[0].pred_score.shape == (2,)
    assert model.dataset_meta['classes'] == ('tench', 'goldfish')


class Largest(TorchDispatchMode):
    """The most elements of any tensor that is made."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


@torch.no_grad()
def test_memory_does_not_grow_with_classes_and_templates(tiny_clip):
    """Neither prompts nor images x patches x classes are ever held together."""
    model = classifier(
        tiny_clip,
        decode_head__text_encoder=dict(type='OpenCLIPTextEncoder', batch_size=80),
    )
    head, largest = model.decode_head, {}
    for classes in (4, 32):
        head.set_vocabulary([f'name {number}' for number in range(classes)])
        with Largest() as texts:
            assert len(head.text_bank.embeddings) == classes
        largest[classes] = texts.elements
    assert largest[32] < 1.5 * largest[4]
    head.set_vocabulary([f'{n}' for n in range(1000)], templates='plain')
    feats = dict(tokens=torch.randn(320, 16, 24))
    texts = head.text_bank.embeddings
    with Largest() as scoring:
        assert model._compatibility(feats, texts).shape == (320, 1000)
    block = 2**20  # of ops.compatibility, on a CPU
    assert scoring.elements <= block < 320 * 16 * 1000 / 4


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(train_cfg=dict(), test_cfg=dict(mode='slide')), 'has no test_cfg'),
        (
            dict(decode_head__compatibility=dict(pooling='own_caption')),
            'not known when testing',
        ),
        (
            dict(
                decode_head=dict(
                    type='FCNHead', in_channels=24, channels=4, num_classes=3
                )
            ),
            'needs a ZeroShotTextHead, not a FCNHead',
        ),
    ],
)
def test_what_it_cannot_do_is_refused(tiny_clip, changes, message):
    with pytest.raises(ValueError, match=message):
        classifier(tiny_clip, **changes)


def test_class_token_that_is_not_there(tiny_clip, images):
    model = classifier(tiny_clip, 'cls', backbone__output_cls_token=False)
    with pytest.raises(ValueError, match='backbone.output_cls_token=True'):
        model.class_scores(images)


def test_labels_that_are_not_of_the_vocabulary(tiny_clip, images):
    model = classifier(tiny_clip)
    samples = [DataSample().set_gt_label(label) for label in (0, 5, 6, 1, 2)]
    with pytest.raises(ValueError, match=r'label 6, but the vocabulary 6 classes'):
        model.predict(images, samples)


# ---------------------------------------------------------------- retrieval


@torch.no_grad()
def test_every_pair_of_images_and_captions_is_compared(tiny_clip, images):
    model = classifier(tiny_clip)
    captions = [['a cat', 'two cats'], ['a dog'], ['a bus', 'a car', 'a van'], ['a']]
    samples = [DataSample(captions=own) for own in captions]
    feats = model(images[:4])
    of_images, of_texts = model.predict_all(feats, samples)
    texts = model.decode_head.text_encoder([text for own in captions for text in own])
    phi = compatibility_reference(feats['tokens'], texts)
    scores = torch.stack([sample.pred_score for sample in of_images])
    torch.testing.assert_close(scores, phi, rtol=0, atol=1e-6)
    assert torch.equal(torch.stack([s.pred_score for s in of_texts]), scores.T)
    labels = [sample.gt_label.tolist() for sample in of_images]
    assert labels == [[0, 1], [2], [3, 4, 5], [6]]
    assert [sample.gt_label.item() for sample in of_texts] == [0, 0, 1, 2, 2, 2, 3]
    for found in (of_images, of_texts):
        metric = RetrievalRecall(topk=(1, 2))
        metric.process(None, [sample.to_dict() for sample in found])
        recall = metric.evaluate(len(found))
        for k in (1, 2):
            best = [sample.pred_score.topk(k).indices for sample in found]
            pairs = zip(best, found, strict=True)
            hits = [torch.isin(b, sample.gt_label).any() for b, sample in pairs]
            expected = 100 * torch.stack(hits).float().mean().item()
            assert recall[f'retrieval/Recall@{k}'] == pytest.approx(expected)


# ------------------------------------------------ MMPretrain's own runner


@torch.no_grad()
def test_captions_go_through_the_text_projector(tiny_clip, images):
    """Captions that are the prompts of the classes score as the classes do."""
    projector = dict(type='PatchEmbedder', in_channels=24, out_channels=24, depth=0)
    model = classifier(
        tiny_clip,
        decode_head__text_projector=projector,
        decode_head__templates=['a {}.'],
    )
    captions = [[f'a {name}.'] for name in NAMES[:5]]
    samples = [DataSample(captions=own) for own in captions]
    of_images, _ = model.predict_all(model(images), samples)
    phi = torch.stack([sample.pred_score for sample in of_images])
    expected = model.class_scores(images)[:, :5] / model.decode_head.logit_scale
    torch.testing.assert_close(phi, expected, rtol=0, atol=1e-6)
    model.decode_head.text_projector = None
    assert (model.class_scores(images)[:, :5] - expected).abs().max() > 1e-2


@torch.no_grad()
def test_words_are_compared_by_cross_attention(tiny_clip, images):
    """A class is compared by the words of each prompt; its score is their mean."""
    attention = dict(type='CrossAttentionCompatibility', embed_dims=24, num_heads=2)
    model = classifier(
        tiny_clip,
        decode_head__compatibility=attention,
        decode_head__templates=['a {}.', 'one big {} there'],
    )
    head = model.decode_head
    tokens = model(images)['tokens']
    expected = torch.stack(
        [
            head.compatibility(tokens, head.embed_texts([f'a {n}.' for n in NAMES])),
            head.compatibility(
                tokens, head.embed_texts([f'one big {n} there' for n in NAMES])
            ),
        ]
    ).mean(0)
    scores = model.class_scores(images)
    torch.testing.assert_close(scores, head.logit_scale * expected, rtol=0, atol=1e-4)


def test_mmpretrains_stock_runner_tests_it(tiny_clip, tmp_path):
    """All types are named as in a config of MMPretrain."""
    for number, name in enumerate(NAMES):
        folder = tmp_path / 'data' / f'{number} {name}'
        folder.mkdir(parents=True)
        colour = (40 * number, 255 - 40 * number, 9)
        Image.new('RGB', (40, 36), colour).save(folder / 'image.png')
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='ResizeEdge', scale=32),
        dict(type='CenterCrop', crop_size=32),
        dict(type='PackInputs'),
    ]
    config = Config(
        dict(
            default_scope='mmpretrain',
            work_dir=str(tmp_path / 'work'),
            model=config_of(tiny_clip, 'cls'),
            test_dataloader=dict(
                batch_size=4,
                sampler=dict(type='DefaultSampler', shuffle=False),
                dataset=dict(
                    type='CustomDataset',
                    data_root=str(tmp_path / 'data'),
                    pipeline=pipeline,
                ),
            ),
            test_cfg=dict(),
            test_evaluator=dict(type='Accuracy', topk=(3, 5), thrs=None),
        )
    )
    runner = Runner.from_cfg(config)
    metrics = runner.test()
    inputs = [
        runner.model.data_preprocessor(data)['inputs']
        for data in runner.test_dataloader
    ]
    order = open_clips_scores(tiny_clip, torch.cat(inputs)).argsort(descending=True)
    labels = torch.arange(6)[:, None]
    for k in (3, 5):
        expected = 100 * (order[:, :k] == labels).any(1).float().mean().item()
        assert metrics[f'accuracy/top{k}'] == pytest.approx(expected)
        assert 0 < expected < 100
