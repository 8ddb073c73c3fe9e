"""Vocabularies, and the names that ship with the package."""

import re
from functools import cache
from pathlib import Path

import pytest
from mmengine.config import Config
from mmseg.utils import get_classes

import pacl_mmseg.prompts
from pacl_mmseg.prompts import Vocabulary
from pacl_mmseg.registry import DATASETS

BENCHMARKS = Path(__file__).resolve().parents[2] / 'configs' / '_base_' / 'datasets'
FILES = sorted(
    path.stem for path in Path(pacl_mmseg.prompts.__file__).parent.glob('*.txt')
)
# Where the first name of a class is another word than the dataset's own. Spaces do not
# count: SCLIP writes some names of two words without one, as VOC does.
SHIP_TABLE = {'boat': 'ship', 'diningtable': 'table'}
SCLIP_VOC = {**SHIP_TABLE, 'tvmonitor': 'television monitor'}
OTHER_WORDS = {
    'voc20': SCLIP_VOC,
    'voc21': {'background': 'sky', **SCLIP_VOC},
    'coco_object': {'background': 'sky'},
    'voc20_clearclip': SHIP_TABLE,
    'voc21_clearclip': SHIP_TABLE,
    'voc21_clippy': {'diningtable': 'table', 'tvmonitor': 'television monitor'},
    'coco_object_dinoiser': {'airplane': 'aeroplane'},
}


@cache
def dataset_classes(benchmark):
    loader = Config.fromfile(BENCHMARKS / f'{benchmark}.py').test_dataloader
    return DATASETS.get(loader.dataset.type).METAINFO['classes']


def without_spaces(name):
    return name.replace(' ', '')


@pytest.mark.parametrize('name', FILES)
def test_names_are_those_of_the_dataset_in_its_order(name):
    benchmark = re.sub('_(clearclip|clippy|dinoiser)$', '', name)
    classes = dataset_classes(benchmark)
    names = Vocabulary.from_dataset(name).classes
    assert len(names) == len(classes)
    differing = {
        theirs: ours
        for theirs, ours in zip(classes, names, strict=True)
        if without_spaces(theirs) != without_spaces(ours)
    }
    assert differing == OTHER_WORDS.get(name, {})


@pytest.mark.parametrize('name', FILES)
def test_files_are_tidy(name):
    text = Path(pacl_mmseg.prompts.__file__).with_name(f'{name}.txt').read_text()
    assert text.endswith('\n') and not text.endswith('\n\n')
    for line in text.splitlines():
        assert line == ', '.join(' '.join(part.split()) for part in line.split(','))
        assert len(set(line.split(', '))) == line.count(',') + 1


def test_background_competes_by_the_names_of_sclip():
    for name in ('voc21', 'coco_object'):
        vocabulary = Vocabulary.from_dataset(name)
        assert vocabulary.class_of.count(0) == 26
        assert vocabulary.names[25] == 'fence'
    assert Vocabulary.from_dataset('context60').names[0] == 'background'


@pytest.mark.parametrize(
    'name, number, known',
    [
        # facebookresearch/MaskFormer, datasets/prepare_ade20k_full_sem_seg.py
        ('ade847', 847, {1: 'building', 14: 'car', 846: 'adding machine'}),
        # labels.txt of Pascal Context, which counts from 1
        ('pc459', 459, {0: 'accordion', 2: 'air conditioner', 458: 'wool'}),
    ],
)
def test_large_vocabularies(name, number, known):
    classes = Vocabulary.from_dataset(name).classes
    assert len(classes) == number
    assert {index: classes[index] for index in known} == known


def test_ade20k_synonyms_are_names_of_their_class():
    vocabulary = Vocabulary.from_dataset('ade847')
    person = vocabulary.classes.index('person')
    names = [
        name
        for name, of in zip(vocabulary.names, vocabulary.class_of, strict=True)
        if of == person
    ]
    assert names == ['person', 'individual', 'someone', 'somebody', 'mortal', 'soul']


def test_from_list():
    vocabulary = Vocabulary.from_list(
        ['sky', 'person, people,person', ['tv', 'screen'], 'screen']
    )
    assert vocabulary.names == (
        'sky', 'person', 'people', 'tv', 'screen', 'screen',
    )  # fmt: skip
    assert vocabulary.class_of == (0, 1, 1, 2, 2, 3)
    assert vocabulary.classes == ('sky', 'person', 'tv', 'screen')
    assert vocabulary == Vocabulary.from_list(
        ['sky', 'person,people', 'tv,screen', 'screen']
    )


@pytest.mark.parametrize('entries', [[], ['a', ''], ['a, ,b'], [['a', ' ']], [[]]])
def test_empty_names_are_refused(entries):
    with pytest.raises(ValueError, match=r'empty name|at least one'):
        Vocabulary.from_list(entries)


@pytest.mark.parametrize(
    'entries, message',
    [
        (['cat', None], 'class 1 is None: give a name'),
        ([True, 'cat'], 'class 0 is True: give a name'),
        (['cat', ['dog', 3]], "class 1 is .'dog', 3.: give a name"),
        (['cat', 'dog', 'cat'], 'classes 0 and 2 have the same names, cat,'),
        (['cat', 'a, b', ['b', 'a']], 'classes 1 and 2 have the same names, b, a,'),
    ],
)
def test_entries_that_are_no_classes_are_refused(entries, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary.from_list(entries)


@pytest.mark.parametrize('name', ['ade', 'pcontext', 'coco-stuff', 'loveda'])
def test_datasets_without_a_file_are_those_of_mmseg(name):
    vocabulary = Vocabulary.from_dataset(name)
    assert vocabulary.classes == tuple(name.strip() for name in get_classes(name))
    assert vocabulary.class_of == tuple(range(len(vocabulary.classes)))


def test_unknown_dataset_names_the_nearest():
    with pytest.raises(ValueError, match="'ade20'; .* Did you mean 'ade20k'?"):
        Vocabulary.from_dataset('ade20')
