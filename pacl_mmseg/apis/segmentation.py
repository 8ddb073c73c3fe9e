"""What a segmenter makes of one image."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pacl_mmseg.models.segmentors.decoding import Classifier
from pacl_mmseg.models.segmentors.score_maps import ScoreMaps
from pacl_mmseg.utils import did_you_mean, whole_file
from pacl_mmseg.visualization import blend, heat, palette, with_legend


class Scores(Mapping[str, np.ndarray]):
    """The probability of each word at each pixel, computed when it is asked for.

    The softmax over all names, of those of a word the highest: float32 ``(H, W)``, 0 to
    1. Kept are scores of tokens alone, so that a thousand words fit in memory.
    """

    def __init__(
        self, words: Sequence[str], maps: ScoreMaps, classifier: Classifier
    ) -> None:
        self._places = {word: index for index, word in enumerate(words)}
        self._maps = maps
        self._classifier = classifier

    def __getitem__(self, word: str) -> np.ndarray:
        return self.stack([word])[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def stack(self, words: Sequence[str]) -> np.ndarray:
        """Those of some words in one pass, ``(len(words), H, W)``."""
        for word in words:
            if word not in self._places:
                raise KeyError(
                    f'{word!r} is not among the words.'
                    + did_you_mean(word, self._places)
                )
        places = [self._places[word] for word in words]
        return self._compute(lambda scores: scores[..., places].movedim(-1, 0))

    @cached_property
    def best(self) -> np.ndarray:
        """The highest of all words at each pixel, float32 ``(H, W)``."""
        return self._compute(lambda scores: scores.amax(-1)[None])[0]

    @torch.inference_mode()
    def _compute(self, reduce) -> np.ndarray:
        parts = (
            reduce(self._classifier.class_scores(block)).exp().clamp_max(1).cpu()
            for block in self._maps
        )
        return torch.cat(list(parts), dim=1).numpy()


class Segmentation:
    """An image, and which word each of its pixels is.

    Attributes:
        image: RGB, uint8, ``(H, W, 3)``.
        words: The first name of each class.
        labels: ``(H, W)``, indices into ``words``, uint8, or uint16 if there are more
            than 256 of them.
        scores: By word; see :class:`Scores`.
    """

    def __init__(
        self,
        image: np.ndarray,
        words: Sequence[str],
        labels: np.ndarray,
        scores: Scores,
    ) -> None:
        self.image = image
        self.words = list(words)
        self.labels = labels.astype(np.min_scalar_type(max(len(words) - 1, 1)))
        self.scores = scores

    @cached_property
    def palette(self) -> np.ndarray:
        """The colour of each word, RGB, uint8, ``(N, 3)``."""
        return palette(self.words)

    @cached_property
    def areas(self) -> dict[str, float]:
        """The share of the pixels that each word has."""
        counts = np.bincount(self.labels.ravel(), minlength=len(self.words))
        shares = (counts / self.labels.size).tolist()
        return dict(zip(self.words, shares, strict=True))

    def overlay(
        self, opacity: float = 0.6, threshold: float | None = None
    ) -> np.ndarray:
        """The labels in their colours over the image, RGB, uint8, ``(H, W, 3)``.

        Args:
            opacity: From 0, the image, to 1, the colours.
            threshold: Pixels whose highest score is lower stay as they are.
        """
        drawn = blend(self.image, self.palette[self.labels], opacity)
        if threshold is not None:
            bare = self.scores.best < threshold
            drawn[bare] = self.image[bare]
        return drawn

    def heat_map(self, word: str, opacity: float = 0.6) -> np.ndarray:
        """A word's scores as colours over the image in grey, RGB, uint8, ``(H, W, 3)``.

        From blue, 0, to red, the highest score of any word in this image: the same
        scale for all.
        """
        return next(self.heat_maps([word], opacity))[1]

    def heat_maps(
        self, words: int | Sequence[str] = 20, opacity: float = 0.6
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Words and their :meth:`heat_map`.

        Args:
            words: How many at most, those with the largest areas; or which.
            opacity: Of the colours.
        """
        if isinstance(words, int):
            words = sorted(self.words, key=lambda word: -self.areas[word])[:words]
        for start in range(0, len(words), 4):  # at once, so as not to fill memory
            some = words[start : start + 4]
            for word, scores in zip(some, self.scores.stack(some), strict=True):
                yield word, heat(self.image, scores, self.scores.best.max(), opacity)

    def file_stem(self, word: str) -> str:
        """A name for files of a word: ``001_cat`` of the first one."""
        name = re.sub(r'[^\w-]+', '_', word)[:40]
        return f'{self.words.index(word) + 1:03}_{name}'

    def picture(
        self, opacity: float = 0.6, threshold: float | None = None
    ) -> Image.Image:
        """:meth:`overlay` with a legend: words and shares of those that are there."""
        drawn = self.overlay(opacity, threshold)
        return with_legend(drawn, self.areas, self.palette)

    def label_image(self) -> Image.Image:
        """:attr:`labels` as an image; of at most 256 words in their colours."""
        image = Image.fromarray(self.labels)
        if self.labels.dtype == np.uint8:
            image.putpalette(self.palette.tobytes())
        return image

    def show(self) -> None:
        """Show :meth:`picture`: in a notebook below the cell, else in a window."""
        if 'IPython' in sys.modules and sys.modules['IPython'].get_ipython():
            from IPython.display import display

            display(self.picture())
        else:
            self.picture().show()

    def save(
        self,
        folder: str | Path,
        heat_maps: int = 20,
        opacity: float = 0.6,
        threshold: float | None = None,
    ) -> list[Path]:
        """Write pictures, labels and areas.

        Args:
            folder: Made if need be; files in it are written over.
            heat_maps: Of how many words at most; see :meth:`heat_maps`.
            opacity: Of the pictures.
            threshold: Of the overlay; see :meth:`overlay`.

        Returns:
            ``overlay.png``, with a legend; ``labels.png``, whose pixels are indices of
            words, of at most 256 in their colours; ``heat_maps/001_cat.png``, ...; and,
            when all these are there, ``areas.json``, the words and their areas.
        """
        folder = Path(folder)
        (folder / 'heat_maps').mkdir(parents=True, exist_ok=True)
        files: list[Path] = []

        def write(name: str, picture: Image.Image) -> None:
            files.append(folder / name)
            with whole_file(files[-1]) as part:
                picture.save(part)

        write('overlay.png', self.picture(opacity, threshold))
        write('labels.png', self.label_image())
        for word, drawn in self.heat_maps(heat_maps, opacity):
            name = f'heat_maps/{self.file_stem(word)}.png'
            write(name, Image.fromarray(drawn))
        height, width = self.labels.shape
        summary = dict(width=width, height=height, areas=self.areas)
        with whole_file(folder / 'areas.json') as part:
            text = json.dumps(summary, indent=1, ensure_ascii=False)
            part.write_text(text + '\n', encoding='utf-8')
        return [*files, folder / 'areas.json']

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        return self.picture()._repr_png_()
