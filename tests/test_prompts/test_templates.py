import pytest
from mmseg.utils import get_classes

from pacl_mmseg.prompts import TEMPLATES, Vocabulary, get_templates


@pytest.mark.parametrize(
    'name, number, first',
    [
        ('plain', 1, '{}'),
        ('photo', 1, 'a photo of a {}.'),
        ('pacl7', 7, 'itap of a {}.'),
        ('imagenet80', 80, 'a bad photo of a {}.'),
        ('vild', 14, 'a photo of a {}.'),
    ],
)
def test_named_sets(name, number, first):
    templates = get_templates(name)
    assert isinstance(templates, tuple)
    assert (len(templates), templates[0]) == (number, first)
    assert get_templates(templates) == templates  # each passes the check
    assert len(set(templates)) == number


def test_own_templates():
    assert get_templates(['a {}', '{}!']) == ('a {}', '{}!')


@pytest.mark.parametrize('bad', ['no name', '{} and {}', '{name}', ''])
def test_template_without_exactly_one_place_is_refused(bad):
    with pytest.raises(ValueError, match='exactly once'):
        get_templates(['a {}', bad])


def test_unknown_set_names_all_and_the_nearest():
    with pytest.raises(ValueError) as error:
        get_templates('imagenet8')
    assert all(name in str(error.value) for name in [*TEMPLATES, 'vild'])
    assert "mean 'imagenet80'" in str(error.value)
    with pytest.raises(ValueError, match='empty'):
        get_templates([])


def test_vocabulary_from_list():
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


def test_voc_lists_agree_with_mmseg():
    voc = tuple(get_classes('voc'))
    voc21, voc20 = Vocabulary.from_dataset('voc21'), Vocabulary.from_dataset('voc20')
    assert voc21.classes == voc
    assert voc20.classes == voc[1:]
    assert voc21.names[1:] == voc20.names
    television = voc20.class_of[voc20.names.index('television')]
    assert voc20.classes[television] == 'tvmonitor'


@pytest.mark.parametrize('name', ['ade20k', 'cityscapes', 'pcontext', 'coco-stuff'])
def test_other_datasets_are_those_of_mmseg(name):
    vocabulary = Vocabulary.from_dataset(name)
    assert vocabulary.classes == tuple(name.strip() for name in get_classes(name))
    assert vocabulary.class_of == tuple(range(len(vocabulary.classes)))


def test_unknown_dataset_names_the_nearest():
    with pytest.raises(ValueError, match=r"'ade20'.*known: .*voc20.*mean 'ade20k'"):
        Vocabulary.from_dataset('ade20')
