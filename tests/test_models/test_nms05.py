"""NMS05/Patch-Aligned-Contrastive-Learning: its model, data and step, exactly."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from parity import recipe
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import transforms

from pacl_mmseg.apis import load_config
from pacl_mmseg.datasets.transforms import captions
from pacl_mmseg.models.open_clip_model import build_open_clip
from pacl_mmseg.models.text_encoders import project_texts
from pacl_mmseg.ops import activation_map
from pacl_mmseg.paths import CONFIGS
from pacl_mmseg.registry import MODELS

# What the repository calls the trained parts of the neck and of the text projector.
THEIRS = {
    'neck.norm': 'visual_projection.0',
    'neck.skip': 'visual_projection.2.linear_projection.0',
    'neck.main.0': 'visual_projection.2.non_linear_projection.0',
    'neck.main.2': 'visual_projection.2.non_linear_projection.2',
    'decode_head.text_projector.norm': 'text_projection.0',
    'decode_head.text_projector.skip': 'text_projection.2',
}


def theirs(name: str) -> str:
    module, _, kind = name.rpartition('.')
    return f'{THEIRS[module]}.{kind}'


def golden(key: str) -> Tensor:
    return recipe.golden('nms05', key)


def assert_close(result: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(result.detach(), expected, rtol=0, atol=1e-5)


@pytest.fixture(scope='module')
def built(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    names = dict(build_open_clip(recipe.NMS05_ARCHITECTURE).named_parameters())
    shapes = {name.removeprefix('text.'): v.shape for name, v in names.items()}
    values = recipe.weights(shapes)
    path = tmp_path_factory.mktemp('nms05') / 'clip.pt'
    torch.save({name: values[name.removeprefix('text.')] for name in names}, path)
    encoder = dict(_delete_=True, model=recipe.NMS05_ARCHITECTURE, pretrained=str(path))
    cfg = load_config(str(CONFIGS / 'nms05_exact_voc20.py'), {'model.encoder': encoder})
    model = MODELS.build(cfg.model).eval()
    trained = {k: v for k, v in model.named_parameters() if v.requires_grad}
    values = recipe.weights({theirs(name): v.shape for name, v in trained.items()})
    for name, value in trained.items():
        value.data = values[theirs(name)]
    return model


@pytest.fixture
def model(built: nn.Module) -> nn.Module:
    return copy.deepcopy(built)


def test_tokens_texts_and_activations(model):
    images, texts = recipe.pairs()
    ((maps),) = model.neck(model.backbone(images))
    tokens = maps.flatten(2).transpose(1, 2)
    assert_close(tokens[:, ::25, ::4], golden('visual'))
    head = model.decode_head
    features = head.text_encoder(texts, normalize=False)
    assert_close(head.text_projector.embed(features), golden('text'))
    projected = project_texts(head.text_projector, features)
    cosines = torch.einsum('ntd,nd->nt', F.normalize(tokens, dim=-1), projected)
    assert_close((10 * cosines).sigmoid(), golden('activation'))
    shown = activation_map(
        maps, projected, mode='sigmoid', blur=golden('deviation').item()
    )
    own = shown[torch.arange(3), torch.arange(3)]
    assert_close(own, golden('map')[:, 0])


def test_loss_gradients_and_a_step_of_adam(model):
    images, texts = recipe.pairs()
    trained = {k: v for k, v in model.named_parameters() if v.requires_grad}
    assert sum(v.numel() for v in trained.values()) == 1_315_328
    optimizer = torch.optim.Adam(trained.values(), lr=1e-4)
    samples = dict(captions=['a', 'b', 'c'], text_tokens=texts)
    loss = model.loss(images, samples)['decode.loss_infonce']
    assert_close(loss, golden('loss'))
    loss.backward()
    for name, value in trained.items():
        assert_close(value.grad.flatten()[::97], golden(f'gradient_{theirs(name)}'))
    optimizer.step()
    for name, value in trained.items():
        assert_close(value.flatten()[::97], golden(f'step_{theirs(name)}'))


def test_dropout_treats_equal_texts_apart(model):
    images, texts = recipe.pairs()
    texts[1] = texts[0]
    head = model.decode_head.train()
    _, embeddings = head._texts(dict(captions=['a', 'a', 'c'], text_tokens=texts), 3)
    assert (embeddings[0] - embeddings[1]).abs().max() > 1e-3
    seen = []
    head.compatibility.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[1])
    )
    model.loss(images, dict(captions=['a', 'a', 'c'], text_tokens=texts))
    assert not torch.equal(seen[0][0], seen[0][1])


def test_bank_is_of_the_projector_that_there_is(model, tmp_path, monkeypatch):
    monkeypatch.setenv('PACL_CACHE_DIR', str(tmp_path))
    head = model.decode_head
    head.templates = ('a {}.',)
    state = copy.deepcopy(head.state_dict())
    prompts = [f'a {name}.' for name in head.vocabulary.names]

    def expected() -> Tensor:
        features = head.text_encoder(prompts, normalize=False)
        return project_texts(head.text_projector, features).detach()

    head.train()
    first = head.text_bank.embeddings  # without dropout all the same
    assert head.text_projector.training
    head.eval()
    torch.testing.assert_close(first, expected(), rtol=0, atol=1e-6)
    changed = {k: v + 0.1 if 'skip' in k else v for k, v in state.items()}
    head.load_state_dict(changed, strict=False)
    second = head.text_bank.embeddings
    torch.testing.assert_close(second, expected(), rtol=0, atol=1e-6)
    assert (second - first).abs().max() > 1e-3
    head.load_state_dict(state, strict=False)
    assert torch.equal(head.text_bank.embeddings, first)  # from its own file
    assert len([*tmp_path.glob('*.npz')]) == 2


def test_projector_of_other_width_is_refused(tiny_model):
    tiny_model.decode_head.text_projector = dict(
        type='PatchEmbedder', in_channels=7, out_channels=24
    )
    with pytest.raises(ValueError, match='in_channels is 7, but the text encoder'):
        MODELS.build(tiny_model)


def test_images_are_those_of_its_transforms(tmp_path):
    cfg = load_config(str(CONFIGS / 'nms05_exact_coco.py'))
    steps = cfg.train_dataloader.dataset.dataset.pipeline
    wanted = [s for s in steps if 'Caption' not in s.type and 'Noun' not in s.type]
    pixels = np.random.RandomState(0).randint(0, 256, (60, 90, 3), np.uint8)
    path = tmp_path / 'image.png'
    Image.fromarray(pixels).save(path)
    ours = Compose(wanted)
    theirs = transforms.Compose(
        [
            transforms.Resize((400, 400)),
            transforms.ToTensor(),
            transforms.RandomHorizontalFlip(0.5),
            transforms.ColorJitter(brightness=0.2, hue=0.1),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    processor = MODELS.build(
        {
            **cfg.model.data_preprocessor,
            'model': recipe.NMS05_ARCHITECTURE,
            'pretrained': None,
        }
    )
    for seed in range(3):
        torch.manual_seed(seed)
        sample = ours(dict(img_path=str(path), caption='x'))
        inputs = sample['inputs'][None]
        batch = processor(dict(inputs=inputs, data_samples=dict(captions=['x'])))
        torch.manual_seed(seed)
        expected = theirs(Image.fromarray(pixels))
        torch.testing.assert_close(batch['inputs'][0], expected, rtol=0, atol=1e-5)


PARSED = {
    # Words, heads, dependencies, parts of speech; as spaCy's English parser would.
    'Two dogs chase the red ball .': (
        [1, 2, 2, 5, 5, 2, 2],
        ['nummod', 'nsubj', 'ROOT', 'det', 'amod', 'dobj', 'punct'],
        ['NUM', 'NOUN', 'VERB', 'DET', 'ADJ', 'NOUN', 'PUNCT'],
        ['two dogs', 'the red ball'],
    ),
    'A cat on a Sofa': (
        [1, 1, 1, 4, 2],
        ['det', 'ROOT', 'prep', 'det', 'pobj'],
        ['DET', 'NOUN', 'ADP', 'DET', 'NOUN'],
        ['a cat', 'a sofa'],
    ),
    'Run quickly': ([0, 0], ['ROOT', 'advmod'], ['VERB', 'ADV'], []),
}


@pytest.mark.parametrize('text', PARSED)
def test_noun_phrases_are_those_of_the_parser(text, monkeypatch):
    spacy = pytest.importorskip('spacy')
    heads, deps, pos, phrases = PARSED[text]
    vocab = spacy.blank('en').vocab

    def load(name: str, exclude: list[str]):
        assert name == 'en_core_web_sm'
        assert 'parser' not in exclude
        return lambda caption: spacy.tokens.Doc(
            vocab, caption.split(), heads=heads, deps=deps, pos=pos
        )

    monkeypatch.setattr(spacy, 'load', load)
    transform = captions.NounPrompt(prob=1, nouns='chunks', templates=['itap of {}.'])
    assert transform.find_nouns(dict(caption=text)) == phrases
    wanted = {f'itap of {phrase}.' for phrase in phrases} or {text}
    assert {transform(dict(caption=text))['caption'] for _ in range(20)} == wanted


def test_first_caption_is_picked():
    transform = captions.PickCaption(pick='first')
    sample = dict(captions=['one', 'two', 'three'])
    assert {transform(dict(sample))['caption'] for _ in range(20)} == {'one'}
    with pytest.raises(ValueError, match="pick must be one of .*not 'second'"):
        captions.PickCaption(pick='second')
