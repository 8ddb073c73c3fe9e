"""Colours of vocabularies, measured in CIELab by OpenCV."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pacl_mmseg.visualization import colour_of, palette


def nearest(colours: np.ndarray) -> float:
    """The smallest distance of two, CIE76."""
    lab = cv2.cvtColor((colours / 255).astype(np.float32)[None], cv2.COLOR_RGB2LAB)[0]
    distances = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
    return float(distances[~np.eye(len(lab), dtype=bool)].min())


@pytest.mark.parametrize(('count', 'least'), [(2, 150), (8, 40), (20, 18), (50, 13)])
def test_colours_are_far_apart(count, least):
    assert nearest(palette([f'thing {i}' for i in range(count)])) > least


def test_a_thousand_words_have_a_colour_each():
    colours = palette([f'thing {i}' for i in range(1000)])
    assert len(np.unique(colours, axis=0)) == 1000
    assert palette([f'thing {i}' for i in range(4000)]).shape == (4000, 3)


def test_one_word_more_changes_no_other():
    words = ['cat', 'red bus', 'sofa', 'dog']
    assert (palette(words)[:3] == palette(words[:3])).all()


@pytest.mark.parametrize(
    ('word', 'colour'),
    [
        ('red bus', (255, 0, 0)),
        ('Light Blue wall', (173, 216, 230)),
        ('orange', (255, 165, 0)),
        ('bored', None),
        ('חתול', None),
        ('🐈', None),
    ],
)
def test_words_that_name_a_colour(word, colour):
    found = colour_of(word)
    assert (None if found is None else tuple(found)) == colour
    if colour is not None:
        assert tuple(palette(['cat', word])[1]) == colour


def test_words_of_the_same_colour_are_shades_of_it():
    reds = palette(['red bus', 'red car', 'cat', 'red door', 'red flag'])
    assert nearest(reds) > 10
    assert tuple(reds[0]) == (255, 0, 0)
    for red in reds[[0, 1, 3, 4]].astype(int):
        assert red[0] > red[1] + 80 and abs(red[1] - red[2]) < 2
