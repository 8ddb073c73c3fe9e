"""Names and templates of classification sets, in the order of MMPretrain's labels.

CLIP's own lists have another order on four of the sets: whoever takes them as they
stand compares every image of those classes with another class' name.
"""

from __future__ import annotations

import re

import pytest
from mmengine.config import Config
from open_clip import OPENAI_IMAGENET_TEMPLATES
from torchvision.datasets import Flowers102

from pacl_mmseg.benchmark import CLASSIFICATION, IMAGE_LEVEL
from pacl_mmseg.paths import CONFIGS
from pacl_mmseg.prompts import Vocabulary, get_templates
from pacl_mmseg.registry import DATASETS

# Folders of the data set's archive, which CustomDataset numbers in this order.
EUROSAT = (
    *('AnnualCrop', 'Forest', 'HerbaceousVegetation', 'Highway', 'Industrial'),
    *('Pasture', 'PermanentCrop', 'Residential', 'River', 'SeaLake'),
)
# Where CLIP's words for a class are not the data set's.
OTHER_WORDS = {
    'caltech101': {
        'background google': 'background',
        'faces': 'off center face',
        'faces easy': 'centered face',
        'leopards': 'leopard',
        'motorbikes': 'motorbike',
        'airplanes': 'airplane',
        'car side': 'side of a car',
        'cougar body': 'body of a cougar cat',
        'cougar face': 'face of a cougar cat',
        'crocodile head': 'head of a crocodile',
        'flamingo head': 'head of a flamingo',
        'snoopy': 'snoopy cartoon beagle',
        'yin yang': 'yin and yang symbol',
    },
    'flowers102': {
        'pink yellow dahlia': 'pink and yellow dahlia',
        'ball moss': 'air plant',
    },
    'eurosat': {
        'annualcrop': 'annual crop land',
        'herbaceousvegetation': 'brushland or shrubland',
        'highway': 'highway or road',
        'industrial': 'industrial buildings or commercial buildings',
        'pasture': 'pasture land',
        'permanentcrop': 'permanent crop land',
        'residential': 'residential buildings or homes or apartments',
        'sealake': 'lake or sea',
    },
}
TEMPLATES = dict(
    imagenet=80,
    cifar10=18,
    cifar100=18,
    caltech101=34,
    dtd=8,
    eurosat=3,
    fgvcaircraft=2,
    flowers102=1,
    food101=1,
    oxfordiiitpet=1,
    stanfordcars=8,
    sun397=2,
)


def config_of(name):
    return Config.fromfile(CONFIGS / IMAGE_LEVEL[name])


def plain(name: str) -> str:
    return re.sub(r'[^a-z0-9]+', ' ', name.lower()).strip()


def classes_of(name):
    if name == 'eurosat':
        return EUROSAT
    if name == 'flowers102':  # MMPretrain has no names of its numbers
        if not hasattr(Flowers102, 'classes'):
            pytest.skip('this torchvision has no names of them either')
        return Flowers102.classes
    return DATASETS.get(config_of(name).test_dataloader.dataset.type).METAINFO[
        'classes'
    ]


@pytest.mark.parametrize('name', [n for n in CLASSIFICATION if n != 'imagenet'])
def test_a_name_stands_where_its_label_does(name):
    head = config_of(name).model.decode_head
    names = Vocabulary.from_dataset(head.dataset_name).classes
    theirs, ours = [list(map(plain, x)) for x in (classes_of(name), names)]
    assert len(theirs) == len(ours) == len(set(ours))
    pairs = zip(theirs, ours, strict=True)
    differing = {their: our for their, our in pairs if their != our}
    assert differing == OTHER_WORDS.get(name, {})


def test_imagenet_is_in_the_order_of_its_labels():
    """Names were rewritten by CLIP's authors, but most share a word with WordNet's."""
    classes = classes_of('imagenet')
    names = Vocabulary.from_dataset('imagenet').classes
    assert len(names) == len(classes) == 1000

    def related(shift):
        pairs = zip(names, [*classes[shift:], *classes[:shift]], strict=True)
        return sum(bool({*plain(a).split()} & {*plain(b).split()}) for a, b in pairs)

    assert related(0) == 960
    assert related(1) < 200


@pytest.mark.parametrize('name', CLASSIFICATION)
def test_every_set_has_its_templates(name):
    templates = get_templates(config_of(name).model.decode_head.templates)
    assert len(templates) == len(set(templates)) == TEMPLATES[name]
    assert get_templates(templates) == templates  # one place each
    if name == 'imagenet':
        assert templates == tuple(t('{}') for t in OPENAI_IMAGENET_TEMPLATES)


def test_names_that_stand_twice_are_two_classes():
    """So OpenAI and open_clip have them; the first wins what is of either."""
    names = Vocabulary.from_dataset('imagenet').names
    twice = {n: [i for i, m in enumerate(names) if m == n] for n in names}
    twice = {n: places for n, places in twice.items() if len(places) > 1}
    assert twice == {'missile': [657, 744], 'sunglasses': [836, 837]}


def test_an_unknown_set_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match=r"'cifar1'.*cifar10"):
        Vocabulary.from_dataset('cifar1')
    with pytest.raises(ValueError, match=r"template set 'cifar11'.*cifar10"):
        get_templates('cifar11')
