"""What stands behind --cfg-options."""

import pytest
from mmengine.config import DictAction

from pacl_mmseg.apis import read_options
from pacl_mmseg.datasets.shards import ImageTextShards


def read(text: str):
    return read_options([f'key={text}'])['key']


@pytest.mark.parametrize(
    'text',
    [*('1,2,3', '[1,2]', '[a,b,[c,(1,2)]]', '(1,)', '[]', '()', '(224)'),
     *('[(1,2),(3,4)]', '((1,2))'),
     *('3e-4', 'None', 'true', 'False', 'text', 'a=b', '1.5,x', 'auto,', ''),
     '/data/{00000..01242}.tar'],
)  # fmt: skip
def test_what_mmengine_reads_is_read_alike(text):
    assert read(text) == DictAction._parse_iterable(text)


@pytest.mark.parametrize(
    'text, value',
    [
        ('pipe:aws s3 cp s3://bucket/cc12m/{00000..01242}.tar -', ...),
        ('pipe:cat "/a b/{0,1}.tar" | gzip -dc', ...),
        ('/my data/it\'s {00000,00003}.tar', ...),
        ('a photo of a {}.', ...),
        ("it's a {}, drawn", ...),
        ("""['a photo of a {}.', 'a {}, drawn', "it's a {}."]""",
         ['a photo of a {}.', 'a {}, drawn', "it's a {}."]),
        ("['/a b/0.tar', '/a b/1.tar']", ['/a b/0.tar', '/a b/1.tar']),
        ('[/a/0.tar, /a/1.tar]', ['/a/0.tar', '/a/1.tar']),
        ('[block, 1, [true, None]]', ['block', 1, [True, None]]),
        ('"it\'s a (, b"', "it's a (, b"),
        ('"1"', '1'),
        ('"[1,2]"', '[1,2]'),
        ("('a b')", ('a b',)),
        ('[ 1 , (2, None) ]', [1, (2, None)]),
        ('', ''),
    ],
)  # fmt: skip
def test_blanks_quotes_and_braces_stay(text, value):
    assert read(text) == (text if value is ... else value)


@pytest.mark.parametrize('word', ['lr', 'lr:0.1', ''])
def test_a_word_without_equals_is_refused(word):
    with pytest.raises(ValueError, match=f'--cfg-options {word}: .* key=value'):
        read_options(['a.b=1', word])


@pytest.mark.parametrize('text', ['[1,(2]', "['a, b]", '[a b, c]', '[{0,1}.tar]'])
def test_what_does_not_match_is_refused(text):
    with pytest.raises(ValueError, match=r'quotes around it|brackets exist'):
        read(text)


def test_a_command_reaches_the_shards_whole():
    shards = read('pipe:aws s3 cp s3://bucket/{00..02}.tar -')
    assert ImageTextShards(shards).shards['all'] == [
        f'pipe:aws s3 cp s3://bucket/{number:02}.tar -' for number in range(3)
    ]
