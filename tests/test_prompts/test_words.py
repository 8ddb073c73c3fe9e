"""Words that people type."""

from __future__ import annotations

import pytest

from pacl_mmseg.prompts.words import read_words


@pytest.mark.parametrize(
    ('words', 'names'),
    [
        (['cat, kitten', ' sofa '], [['cat', 'kitten'], ['sofa']]),
        ([['cat', 'kitten'], 'a, a, A'], [['cat', 'kitten'], ['a']]),
        (['\U0001f469\u200d\U0001f680', 'a'], [['\U0001f469\u200d\U0001f680'], ['a']]),
        (['<b>x</b>', 'חתול'], [['<b>x</b>'], ['חתול']]),
        (['50% {}', 'a\u00e4'], [['50% {}'], ['a\u00e4']]),
    ],
)
def test_what_is_taken(words, names):
    assert read_words(words) == names


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        ('cat', 'as a list'),
        ([], 'at least two words'),
        (['cat'], 'at least two words'),
        (['cat', ''], 'Word 2 is empty'),
        (['cat', ' \u200b '], 'Word 2 is empty'),
        (['cat', 'dog,,fox'], 'Word 2 has a comma without a name at each side'),
        (['cat,', 'dog'], 'Word 1 has a comma without a name at each side'),
        (['cat', ['dog', '']], 'Word 2 is empty, or has an empty name'),
        (['cat', []], 'Word 2 is empty'),
        (['cat', 7], "Word 2 is '7', which is no text"),
        (['cat', 'dog', 'CAT'], "Words 1 and 3 share the name 'CAT'"),
        (['cat, pet', 'dog, pet'], "Words 1 and 2 share the name 'pet'"),
        (['caf\u00e9', 'cafe\u0301'], 'Words 1 and 2 share'),
        (['cat', 'a' * 10_000], 'Word 2 has 10,000 characters, but at most 500'),
        (['cat', 'd\x00g'], 'Word 2 has the control character U\\+0000'),
        (['cat', 'd\ng'], 'control character U\\+000A'),
        (['cat', '\ud800'], 'control character U\\+D800'),
        ([f'{i}, a{i}, b{i}, c{i}, d{i}, e{i}' for i in range(1000)], '6,000 names'),
        ([str(i) for i in range(1001)], 'There are 1,001 words, but at most 1,000'),
    ],
)
def test_what_is_refused(words, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_words(words)
    assert len(str(caught.value)) < 200
