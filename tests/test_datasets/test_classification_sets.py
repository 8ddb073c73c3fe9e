"""Classification configs on miniatures of the sets, as MMPretrain lays them out."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import mat4py
import numpy as np
import open_clip
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmpretrain.datasets import CIFAR10, CIFAR100
from PIL import Image

from pacl_mmseg.apis import load_config
from pacl_mmseg.benchmark import CLASSIFICATION, compose
from pacl_mmseg.benchmark.missing import missing_data
from pacl_mmseg.models.encoder import hand_to_transforms
from pacl_mmseg.models.open_clip_model import build_open_clip, build_tokenizer
from pacl_mmseg.prompts import Vocabulary, get_templates
from pacl_mmseg.registry import DATASETS, MODELS, RUNNERS

CLIP = dict(
    embed_dim=24,
    vision_cfg=dict(image_size=32, patch_size=8, width=32, layers=2, head_width=16),
    text_cfg=dict(context_length=24, vocab_size=49408, width=16, heads=2, layers=1),
)
TINY = {
    'model.encoder': dict(_delete_=True, model=CLIP, pretrained=None),
    'model.neck.in_channels': 32,
    'model.neck.out_channels': 24,
    'test_dataloader.num_workers': 0,
    'test_dataloader.persistent_workers': False,
}
COLOURS = [(250, 10, 60), (20, 200, 90), (60, 40, 230)]  # RGB, of the images in turn

EUROSAT = (
    *('AnnualCrop', 'Forest', 'HerbaceousVegetation', 'Highway', 'Industrial'),
    *('Pasture', 'PermanentCrop', 'Residential', 'River', 'SeaLake'),
)


def write(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    size = (40 + 9 * number, 52 - 9 * number)
    Image.new('RGB', size, COLOURS[number]).save(path, quality=100, subsampling=0)


def lines(path: Path, *content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join(content) + '\n')


def matlab(path: Path, **content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mat4py.savemat(str(path), content)


def cifar(path: Path, **labels: list[int]) -> None:
    path.parent.mkdir(parents=True)
    colours = np.array(COLOURS, np.uint8)  # channel after channel
    data = np.repeat(colours[:, :, None], 32 * 32, axis=2).reshape(3, -1)
    path.write_bytes(pickle.dumps(dict(data=data, **labels)))


def imagenet(root: Path) -> list[str]:
    for number in range(1000):
        (root / 'imagenet/val' / f'n{number:08}').mkdir(parents=True)
    for image, label in enumerate((0, 134, 999)):
        write(root / 'imagenet/val' / f'n{label:08}' / 'ILSVRC2012_val.JPEG', image)
    return ['tench', 'crane bird', 'toilet paper']


def cifar10(root: Path) -> list[str]:
    cifar(root / 'cifar10/cifar-10-batches-py/test_batch', labels=[0, 9, 3])
    return ['airplane', 'truck', 'cat']


def cifar100(root: Path) -> list[str]:
    cifar(root / 'cifar100/cifar-100-python/test', fine_labels=[1, 99, 51])
    return ['aquarium fish', 'worm', 'mushroom']


def caltech101(root: Path) -> list[str]:
    root = root / 'caltech-101'
    names = ['Faces/image_0001.jpg', 'accordion/image_0007.jpg', 'yin_yang/image_2.jpg']
    for image, name in enumerate(names):
        write(root / '101_ObjectCategories' / name, image)
    labels = (1, 5, 101)
    given = [f'{name} {label}' for name, label in zip(names, labels, strict=True)]
    lines(root / 'meta/test.txt', *given)
    return ['off-center face', 'accordion', 'yin and yang symbol']


def dtd(root: Path) -> list[str]:
    names = ['banded/banded_0002.jpg', 'zigzagged/z.jpg', 'blotchy/b.jpg', 'a/left.jpg']
    for image, name in enumerate(names[:3]):
        write(root / 'dtd/images' / name, image)
    images = {'name': names, 'class': [1, 47, 2, 3], 'set': [3, 3, 3, 1]}
    matlab(root / 'dtd/imdb/imdb.mat', images=images)
    return ['banded', 'zigzagged', 'blotchy']


def fgvcaircraft(root: Path) -> list[str]:
    data = root / 'fgvc-aircraft-2013b/data'
    for image in range(3):
        write(data / 'images' / f'{image}.jpg', image)
    classes = ['707-320', 'Yak-42', 'Cessna 172']
    given = [f'{image} {name}' for image, name in enumerate(classes)]
    lines(data / 'images_variant_test.txt', *given)
    return classes


def flowers102(root: Path) -> list[str]:
    root = root / 'Flowers102'
    for image, number in enumerate((1, 3, 4)):
        write(root / 'jpg' / f'image_{number:05}.jpg', image)
    matlab(root / 'imagelabels.mat', labels=[77, 5, 1, 102])
    matlab(root / 'setid.mat', trnid=[2, 2], valid=[2, 2], tstid=[1, 3, 4])
    return ['passion flower', 'pink primrose', 'blackberry lily']


def food101(root: Path) -> list[str]:
    names = ['apple_pie/1', 'cheesecake/2', 'cheese_plate/3']
    for image, name in enumerate(names):
        write(root / 'food-101/images' / f'{name}.jpg', image)
    lines(root / 'food-101/meta/test.txt', *names)
    return ['apple pie', 'cheesecake', 'cheese plate']


def oxfordiiitpet(root: Path) -> list[str]:
    root = root / 'Oxford-IIIT_Pets'
    names = ['Abyssinian_201', 'american_bulldog_10', 'Bengal_7']
    for image, name in enumerate(names):
        write(root / 'images' / f'{name}.jpg', image)
    numbers = ('1 1 1', '2 2 1', '6 1 2')
    given = [f'{name} {n}' for name, n in zip(names, numbers, strict=True)]
    lines(root / 'annotations/test.txt', *given)
    return ['Abyssinian', 'american bulldog', 'Bengal']


def stanfordcars(root: Path) -> list[str]:
    root = root / 'Stanford_Cars'
    names = [f'{number:05}.jpg' for number in range(1, 4)]
    for image, name in enumerate(names):
        write(root / 'cars_test' / name, image)
    matlab(
        root / 'devkit/cars_test_annos_withlabels.mat',
        annotations={'fname': names, 'class': [1, 196, 2]},
    )
    return [
        'AM General Hummer SUV 2000',
        'smart fortwo Convertible 2012',
        'Acura RL Sedan 2012',
    ]


def sun397(root: Path) -> list[str]:
    names = ['/a/abbey/sun_a.jpg', '/j/jail_cell/sun_b.jpg', '/j/jail_indoor/sun_c.jpg']
    for image, name in enumerate(names):
        write(root / 'SUN397/SUN397' / name[1:], image)
    lines(root / 'SUN397/Partitions/Testing_01.txt', *names)
    return ['abbey', 'jail cell', 'jail indoor']


def eurosat(root: Path) -> list[str]:
    for image, folder in enumerate(EUROSAT):
        write(root / 'EuroSAT/2750' / folder / f'{folder}_1.jpg', image % 3)
    return [
        *('annual crop land', 'forest', 'brushland or shrubland', 'highway or road'),
        *('industrial buildings or commercial buildings', 'pasture land'),
        'permanent crop land',
        *('residential buildings or homes or apartments', 'river', 'lake or sea'),
    ]


@pytest.fixture(autouse=True)
def data(monkeypatch, tmp_path) -> Path:
    """Where the miniatures are; those of CIFAR have other checksums."""
    monkeypatch.setenv('PACL_DATA_ROOT', str(tmp_path))
    monkeypatch.setattr(CIFAR10, 'train_list', [])
    monkeypatch.setattr(CIFAR10, 'test_list', [['test_batch', None]])
    monkeypatch.setattr(CIFAR100, 'train_list', [])
    monkeypatch.setattr(CIFAR100, 'test_list', [['test', None]])
    return tmp_path


# What an empty folder of each set is said to lack first.
FIRST = dict(
    imagenet='imagenet/val',
    cifar10='cifar10/cifar-10-batches-py',
    cifar100='cifar100/cifar-100-python',
    caltech101='caltech-101/meta/test.txt',
    dtd='dtd/imdb/imdb.mat',
    fgvcaircraft='fgvc-aircraft-2013b/data/images_variant_test.txt',
    flowers102='Flowers102/imagelabels.mat',
    food101='food-101/meta/test.txt',
    oxfordiiitpet='Oxford-IIIT_Pets/annotations/test.txt',
    stanfordcars=None,
    sun397='SUN397/Partitions/Testing_01.txt',
    eurosat='EuroSAT/2750',
    coco_retrieval='coco/val2017',
    waterbirds='waterbird_complete95_forest2water2/metadata.csv',
)


@pytest.mark.parametrize('name', FIRST)
def test_what_is_missing_is_said_in_one_sentence(name, data):
    if name == 'waterbirds':
        config = load_config('configs/classification/pacl_waterbirds.py')
    else:
        config = compose('pacl', name)
    root = Path(config.test_dataloader.dataset.data_root)
    into = f'does not exist: put the files of {name} into {root}'
    assert missing_data(config).startswith(f'{root} {into}')
    root.mkdir()
    found = missing_data(config)
    assert found.startswith(str(data / (FIRST[name] or root)))
    assert '\n' not in found and found.endswith('.')
    if name == 'stanfordcars':  # which may be laid out in two ways
        assert 'incorrectly organized' in found and 'docs/classification.md' in found
    elif name != 'waterbirds':  # which has a sentence of its own
        assert into in found
    if name not in CLASSIFICATION or name.startswith('cifar'):
        return
    globals()[name](data)
    image = next(p for p in root.rglob('*') if p.suffix in ('.jpg', '.JPEG'))
    image.write_bytes(b'')
    number = len([*root.rglob('*.jpg'), *root.rglob('*.JPEG')])
    assert missing_data(config).startswith(f'1 of {number} images')


@pytest.mark.parametrize('name', CLASSIFICATION)
def test_images_and_the_names_of_their_labels(name, data):
    config = compose('pacl', name, options=TINY)
    expected = globals()[name](data)
    assert missing_data(config) is None
    loader = hand_to_transforms(config.test_dataloader, config.model)
    dataset = DATASETS.build(loader.dataset)
    head = config.model.decode_head
    names = Vocabulary.from_dataset(head.dataset_name).classes
    samples = list(dataset)
    labels = [sample['data_samples'].gt_label.item() for sample in samples]
    assert [names[label] for label in labels] == expected
    preprocess = MODELS.build(
        dict(type='CLIPDataPreProcessor', model=CLIP, mean=[0] * 3, std=[1] * 3)
    )
    inputs = preprocess(pseudo_collate(samples))['inputs']
    assert inputs.shape == (len(expected), 3, 32, 32)
    for image, pixels in enumerate(inputs):
        colour = torch.tensor(COLOURS[image % 3])[:, None, None]
        assert (pixels - colour).abs().max() <= 3  # JPEG's rounding


@pytest.mark.parametrize('name', ['cifar10', 'oxfordiiitpet'])
def test_from_files_to_scores_as_open_clip_does_it(name, data, tmp_path):
    globals()[name](data)
    folder = data / 'Oxford-IIIT_Pets/images'
    pictures = [Image.open(path) for path in sorted(folder.glob('*.jpg'))]
    if name == 'cifar10':
        pictures = [Image.new('RGB', (32, 32), colour) for colour in COLOURS]
    clip = build_open_clip(CLIP).eval()
    transform = open_clip.image_transform(32, is_train=False)
    classes = Vocabulary.from_dataset(name).classes
    with torch.no_grad():
        features = clip.encode_image(
            torch.stack([transform(x) for x in pictures]), normalize=True
        )
        weights = open_clip.build_zero_shot_classifier(
            clip, build_tokenizer(CLIP), classes, get_templates(name)
        )
        expected = (clip.logit_scale.exp() * features @ weights).softmax(1)
    options = {k: v for k, v in TINY.items() if 'neck' not in k}
    config = compose('clip', name, options=options)
    config.work_dir = str(tmp_path / 'work')
    runner = RUNNERS.build(config)
    metrics = runner.test()
    found = [
        sample
        for batch in runner.test_dataloader
        for sample in runner.model.test_step(batch)
    ]
    # Files come in the order of the data set's list, not of their names.
    order = sorted(range(3), key=lambda i: str(found[i].get('img_path', i)))
    scores = torch.stack([found[i].pred_score for i in order])
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-5)
    labels = torch.cat([found[i].gt_label for i in order])
    best = expected.argsort(dim=1, descending=True)
    for k in (1, 5):
        right = (best[:, :k] == labels[:, None]).any(1).float().mean().item()
        assert metrics[f'accuracy/top{k}'] == pytest.approx(100 * right)


def test_classes_of_other_data_are_refused(data, tmp_path):
    cifar10(data)
    names = [*Vocabulary.from_dataset('cifar10').classes]
    other_order = ['Truck', *names[1:9], 'Airplane']
    options = {k: v for k, v in TINY.items() if 'neck' not in k}
    config = compose('clip', 'cifar10', options=options)
    config.work_dir = str(tmp_path / 'work')
    for vocabulary, message in (
        (names[1:], 'vocabulary has 9 classes, but CIFAR10 has 10'),
        (other_order, "order: number 0 is 'Truck' here and 'airplane' there"),
    ):
        config.model.decode_head.update(dataset_name=None, vocabulary=vocabulary)
        with pytest.raises(ValueError, match=message):
            RUNNERS.build(config).test()


def test_captions_in_cocos_format(data, tmp_path):
    """Annotations are not listed image by image."""
    for image in range(3):
        write(data / 'coco/val2017' / f'{image:012}.jpg', image)
    captions = ['a red one', 'green', 'nothing but red', 'blue', 'a green picture']
    content = dict(
        images=[dict(id=i, file_name=f'{i:012}.jpg') for i in range(3)],
        annotations=[
            dict(id=n, image_id=i, caption=captions[n])
            for n, i in enumerate((0, 1, 0, 2, 1))
        ],
    )
    path = data / 'coco/annotations/captions_val2017.json'
    lines(path, json.dumps(content))
    options = {k: v for k, v in TINY.items() if 'neck' not in k}
    options['test_evaluator.topk'] = (1, 2)
    config = compose('clip', 'coco_retrieval', options=options)
    config.work_dir = str(tmp_path / 'work')
    runner = RUNNERS.build(config)
    metrics = runner.test()
    clip = build_open_clip(CLIP).eval()
    transform = open_clip.image_transform(32, is_train=False)
    pictures = [Image.open(p) for p in sorted((data / 'coco/val2017').glob('*.jpg'))]
    with torch.no_grad():
        images = clip.encode_image(torch.stack([*map(transform, pictures)]), True)
        texts = clip.encode_text(build_tokenizer(CLIP)(captions), True)
    own = torch.tensor([0, 1, 0, 2, 1]) == torch.arange(3)[:, None]
    for way, scores, right in (
        ('i2t', images @ texts.T, own),
        ('t2i', texts @ images.T, own.T),
    ):
        for k in (1, 2):
            found = right.gather(1, scores.topk(k).indices).any(1)
            expected = 100 * found.float().mean().item()
            assert metrics[f'{way}/retrieval/Recall@{k}'] == pytest.approx(expected)
