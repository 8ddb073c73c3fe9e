"""What the page does with photos and words, without the page."""

from __future__ import annotations

import html
import io
import json
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch.nn.modules.module import register_module_forward_pre_hook

from pacl_mmseg.apis.images import read_image
from pacl_mmseg.apis.segmentation import Segmentation
from pacl_mmseg.prompts.words import read_words

HIDDEN = 255  # in a label map: below the threshold
_LEAST = 384  # pixels of the longer side of a picture on the page


@dataclass(frozen=True)
class Limits:
    """What a visitor may ask for.

    Args:
        megabytes: Of an uploaded file.
        megapixels: Of a photo.
        side: Photos are reduced until their longer side has so many pixels.
        words: Classes; less than 256, which a label map has room for.
        characters: Of a class, all its names together.
        heat_maps: Of the words that cover the most.
        seconds: Of computation, from when the weights are there.
        queue: Visitors who wait for a computation.
        sessions: Visitors whose last result is kept; others have to ask again.
        minutes: For which a file, or the result of an idle visitor, is kept.
    """

    megabytes: int = 20
    megapixels: int = 50
    side: int = 1024
    words: int = 100
    characters: int = 100
    heat_maps: int = 20
    seconds: float = 120
    queue: int = 16
    sessions: int = 50
    minutes: float = 60


def read_photo(path: str, limits: Limits) -> Image.Image:
    """A photo, no larger than ``limits.side``.

    Raises:
        ValueError: The file is no photo, or has too many pixels.
    """
    try:
        photo = Image.fromarray(read_image(path, limits.megapixels * 10**6))
    except ValueError as error:  # where the file lies here is not for the visitor
        raise ValueError(str(error).replace(path, Path(path).name)) from error
    photo.thumbnail((limits.side, limits.side))
    return photo


def read_lines(text: str, limits: Limits) -> list[str]:
    """The classes of a text that has one in each line.

    Raises:
        ValueError: There is one line alone, with commas; or see :func:`read_words`.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) == 1 and ',' in lines[0]:
        raise ValueError(
            'Write each word in a line of its own: commas join names of the same thing.'
        )
    read_words(lines, limits.words, limits.characters)
    return lines


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """End the computation of this thread when its time is up.

    A thread cannot be stopped from outside: it asks before each module's forward.

    Raises:
        TimeoutError: The block takes longer.
    """
    end, owner = time.monotonic() + seconds, threading.get_ident()

    def check(module: object, arguments: object) -> None:
        if threading.get_ident() == owner and time.monotonic() > end:
            raise TimeoutError(
                f'This took longer than {seconds:g} s and was stopped: take fewer '
                'words, a lower resolution or a smaller photo.'
            )

    handle = register_module_forward_pre_hook(check)
    try:
        yield
    finally:
        handle.remove()


def label_map(result: Segmentation, threshold: float) -> np.ndarray:
    """Its labels, :data:`HIDDEN` where the score is below the threshold."""
    return np.where(result.scores.best < threshold, np.uint8(HIDDEN), result.labels)


def shares(result: Segmentation, labels: np.ndarray) -> dict[str, float]:
    """The share of the pixels of each word, the largest first."""
    counts = np.bincount(labels.ravel(), minlength=HIDDEN) / labels.size
    order = sorted(range(len(result.words)), key=lambda index: -counts[index])
    return {result.words[index]: float(counts[index]) for index in order}


def table(result: Segmentation, labels: np.ndarray) -> str:
    """Colours, words and shares of the pixels as HTML, the largest on top."""
    row = (
        '<tr><td><i style="background:rgb({})"></i></td><td dir="auto">{}</td>'
        '<td><b style="width:{:.1%}"></b></td><td>{:.1%}</td></tr>'
    )
    colours = dict(zip(result.words, result.palette.tolist(), strict=True))
    rows = [
        row.format(','.join(map(str, colours[word])), html.escape(word), share, share)
        for word, share in shares(result, labels).items()
    ]
    hidden = float((labels == HIDDEN).mean())
    if hidden:
        rows.append(
            row.format('0,0,0,0', '<em>below the threshold</em>', hidden, hidden)
        )
    return f'<table class="areas"><tbody>{"".join(rows)}</tbody></table>'


def archive(result: Segmentation, labels: np.ndarray, method: str) -> bytes:
    """Zip of ``labels.png``, in the words' colours, and ``words.json``."""
    picture, file = io.BytesIO(), io.BytesIO()
    image = Image.fromarray(labels)
    image.putpalette(result.palette.tobytes().ljust(768, b'\xff'))
    image.save(picture, 'PNG', compress_level=1)
    share = shares(result, labels)
    words = [
        dict(label=label, word=word, colour=colour, share=share[word])
        for label, (word, colour) in enumerate(
            zip(result.words, result.palette.tolist(), strict=True)
        )
    ]
    text = dict(method=method, hidden_label=HIDDEN, words=words)
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('labels.png', picture.getvalue())
        archive.writestr('words.json', json.dumps(text, ensure_ascii=False, indent=1))
    return file.getvalue()


def heat_maps(result: Segmentation, most: int) -> list[tuple[np.ndarray, str]]:
    """Small heat maps, with their words, of the words that cover the most."""
    maps = []
    for word, drawn in result.heat_maps(most):
        picture = Image.fromarray(drawn)
        picture.thumbnail((_LEAST, _LEAST))
        maps.append((enlarge(np.asarray(picture)), word))
    return maps


def enlarge(image: np.ndarray) -> np.ndarray:
    """An image of the small world so large that one sees it; others as they are."""
    scale = -(-_LEAST // max(image.shape[:2]))
    return image.repeat(scale, 0).repeat(scale, 1)
