"""Pictures of a segmentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

_LEAST = 384  # pixels of the shorter side of a picture with a legend
_MOST_ROWS = 30  # of a legend


def blend(image: np.ndarray, colours: np.ndarray, opacity: float) -> np.ndarray:
    """Colours over an image.

    Args:
        image, colours: RGB, uint8, ``(H, W, 3)``.
        opacity: From 0, the image, to 1, the colours.

    Raises:
        ValueError: The opacity is out of range.
    """
    if not 0 <= opacity <= 1:
        raise ValueError(f'The opacity is between 0 and 1, not {opacity}.')
    return cv2.addWeighted(image, 1 - opacity, colours, opacity, 0)


def heat(
    image: np.ndarray, scores: np.ndarray, highest: float, opacity: float
) -> np.ndarray:
    """Scores as colours over an image in grey, from blue (0) to red (``highest``).

    Args:
        image: RGB, uint8, ``(H, W, 3)``.
        scores: ``(H, W)``, 0 or more.
        highest: The score that is red.
        opacity: See :func:`blend`.
    """
    scaled = np.clip(scores * (255 / max(highest, 1e-12)), 0, 255).astype(np.uint8)
    colours = cv2.applyColorMap(scaled, cv2.COLORMAP_TURBO)[..., ::-1]
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return blend(grey, np.ascontiguousarray(colours), opacity)


def with_legend(
    image: np.ndarray, shares: Mapping[str, float], palette: Sequence[Sequence[int]]
) -> Image.Image:
    """An image with the words that are in it at its right, the largest on top.

    Args:
        image: RGB, uint8, ``(H, W, 3)``; small ones are enlarged.
        shares: Of the pixels, for each word.
        palette: The colour of each word.
    """
    scale = max(_LEAST / min(image.shape[:2]), 1)
    picture = Image.fromarray(image)
    if scale > 1 and max(picture.size) * scale <= 8 * _LEAST:
        size = tuple(round(side * scale) for side in picture.size)
        picture = picture.resize(size, Image.Resampling.NEAREST)
    entries = [
        (share, word, tuple(int(v) for v in colour))
        for (word, share), colour in zip(shares.items(), palette, strict=True)
        if share > 0
    ]
    entries.sort(key=lambda entry: -entry[0])
    line = max(picture.height // (_MOST_ROWS + 2), 18)
    line = min(line, 24 * max(picture.height // 720, 1))
    rows = max(min(picture.height // line - 1, _MOST_ROWS), 1)
    font = text_font(round(line * 0.66))
    texts = [
        (colour, shorten(word), f'{share:.1%}')
        for share, word, colour in entries[:rows]
    ]
    if len(entries) > rows:
        texts.append((None, f'and {len(entries) - rows} more', ''))
    lengths = [font.getlength(word) + font.getlength(share) for _, word, share in texts]
    width = round(max(lengths) + 3 * line)
    canvas = Image.new('RGB', (picture.width + width, picture.height), 'white')
    canvas.paste(picture)
    draw = ImageDraw.Draw(canvas)
    for row, (colour, word, share) in enumerate(texts):
        left, top = picture.width + line // 2, line // 2 + row * line
        if colour is not None:
            draw.rectangle(
                (left, top + line // 8, left + line * 3 // 4, top + line * 7 // 8),
                fill=colour,
                outline='grey',
            )
        # Apart: beside a word that is written from right to left a number would move.
        for text in (word, share):
            place = (left + line, top + line / 2)
            draw.text(place, text, fill='black', font=font, anchor='lm')
            left += font.getlength(text) + line / 2
    return canvas


def shorten(word: str, characters: int = 32) -> str:
    """A word for a picture: its beginning if it is long."""
    return word if len(word) <= characters else word[: characters - 1] + '…'


def text_font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which Matplotlib brings along: many scripts, also right to left."""
    path = Path(matplotlib.get_data_path(), 'fonts', 'ttf', 'DejaVuSans.ttf')
    return ImageFont.truetype(str(path), max(size, 8))
