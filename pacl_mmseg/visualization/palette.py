"""Colours for any vocabulary: distinct, bright, and those that words name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import ImageColor

# How near two colours may be, in OKLab, whose units are those of lightness, 0 to 1; and
# shades of one colour.
_NEAR, _NEAREST = 0.06, 0.025
# Towards black, below 0, or white.
_SHADES = np.linspace(-0.6, 0.65, 26)


def palette(words: Sequence[str]) -> np.ndarray:
    """One colour for each word.

    A word that names one of CSS' colours ('red bus', 'light blue wall') has that one,
    or, where it is taken, the shade of it that differs most from those before. The
    rest get, one after the other, the bright colour that is farthest from all others.

    Returns:
        RGB, uint8, ``(len(words), 3)``.
    """
    return np.array(_palette(tuple(words)), dtype=np.uint8).reshape(-1, 3)


@lru_cache(maxsize=8)
def _palette(words: tuple[str, ...]) -> list[tuple[int, int, int]]:
    colours: list[np.ndarray | None] = [None] * len(words)
    taken: list[np.ndarray] = []
    for index, word in enumerate(words):
        named = colour_of(word)
        if named is None:
            continue
        shades = np.stack([named, *(_shade(named, by) for by in _SHADES)])
        labs = _oklab(shades)
        others = np.array(taken).reshape(-1, 3)
        gaps = np.linalg.norm(labs[:, None] - others, axis=-1).min(1, initial=np.inf)
        best = 0 if gaps[0] > _NEAR else int(gaps.argmax())
        if gaps[best] > _NEAREST:
            colours[index] = shades[best]
            taken.append(labs[best])
    candidates, labs = _bright()
    nearest = np.full(len(candidates), np.inf)
    for lab in taken:
        nearest = np.minimum(nearest, np.linalg.norm(labs - lab, axis=1))
    for index, colour in enumerate(colours):
        if colour is None:
            best = int(nearest.argmax())
            colours[index] = candidates[best]
            nearest = np.minimum(nearest, np.linalg.norm(labs - labs[best], axis=1))
            if nearest.max() == 0:  # more words than colours
                nearest[:] = np.inf
    return [tuple(int(value) for value in colour) for colour in colours]


def colour_of(word: str) -> np.ndarray | None:
    """RGB, ``(3,)``, of the first colour that a word names; None if it names none."""
    parts = re.findall(r'[a-z]+', word.lower())
    for index, part in enumerate(parts):
        for name in (part + ''.join(parts[index + 1 : index + 2]), part):
            if name in ImageColor.colormap:
                return np.array(ImageColor.getrgb(name)[:3])
    return None


def _shade(colour: np.ndarray, by: float) -> np.ndarray:
    end = 255 if by > 0 else 0
    return (colour + abs(by) * (end - colour)).round().astype(np.int64)


@lru_cache(maxsize=1)
def _bright() -> tuple[np.ndarray, np.ndarray]:
    """Colours that stand out over a photograph, in RGB and OKLab, ``(M, 3)`` each."""
    axis = np.linspace(0, 255, 18).round()
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing='ij'), -1).reshape(-1, 3)
    labs = _oklab(grid)
    chroma = np.linalg.norm(labs[:, 1:], axis=1)
    bright = (chroma > 0.08) & (labs[:, 0] > 0.5) & (labs[:, 0] < 0.95)
    return grid[bright].astype(np.int64), labs[bright]


def _oklab(rgb: np.ndarray) -> np.ndarray:
    """sRGB 0..255 ``(..., 3)`` to OKLab (Björn Ottosson's matrices)."""
    value = np.asarray(rgb) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    cones = linear @ np.array(
        [
            [0.4122214708, 0.2119034982, 0.0883024619],
            [0.5363325363, 0.6806995451, 0.2817188376],
            [0.0514459929, 0.1073969566, 0.6299787005],
        ]
    )
    return np.cbrt(cones) @ np.array(
        [
            [0.2104542553, 1.9779984951, 0.0259040371],
            [0.7936177850, -2.4285922050, 0.7827717662],
            [-0.0040720468, 0.4505937099, -0.8086757660],
        ]
    )
