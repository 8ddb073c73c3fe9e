import pytest

from pacl_mmseg.prompts import TEMPLATES, fill_template, get_templates


@pytest.mark.parametrize(
    'name, number, first',
    [
        ('plain', 1, '{}'),
        ('photo', 1, 'a photo of a {}.'),
        ('pacl7', 7, 'itap of a {}.'),
        ('imagenet80', 80, 'a bad photo of a {}.'),
        ('clippy', 1, 'a photo of a(n) {}'),
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


@pytest.mark.parametrize(
    'template, name, prompt',
    [
        ('a photo of a(n) {}', 'aeroplane', 'a photo of an aeroplane'),
        ('a photo of a(n) {}', 'Umbrella', 'a photo of an Umbrella'),
        ('a photo of a(n) {}', 'bird', 'a photo of a bird'),
        ('a photo of a {}.', 'owl', 'a photo of a owl.'),
        ('the {}!', '{0}', 'the {0}!'),
    ],
)
def test_filled(template, name, prompt):
    assert fill_template(template, name) == prompt


@pytest.mark.parametrize(
    'bad',
    [
        *('no name', '{} and {}', '{name}', '', 'a {x} {}', 'a {} {', '{!r}', '{:5}'),
        *('{0}', None, 3),
    ],
)
def test_template_without_exactly_one_place_is_refused(bad):
    with pytest.raises(ValueError, match='exactly once'):
        get_templates(['a {}', bad])


def test_unknown_set_names_all():
    with pytest.raises(ValueError) as error:
        get_templates('imagenet8')
    assert all(name in str(error.value) for name in TEMPLATES)
    with pytest.raises(ValueError, match='empty'):
        get_templates([])
