"""Words that people type, checked before anything is done with them."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

MAX_WORDS = 1000
MAX_CHARACTERS = 500
_NAMES = 5  # of a class, on average


def read_words(
    words: Sequence[str | Sequence[str]],
    max_words: int = MAX_WORDS,
    max_characters: int = MAX_CHARACTERS,
) -> list[list[str]]:
    """The names of each class.

    Emoji, any script and markup are text like any other. A name repeated within a class
    is kept once.

    Args:
        words: Per class a name, a string of comma-separated synonyms
            (``'cat, kitten'``), or a list of synonyms.
        max_words: Classes; there may be five times as many names.
        max_characters: Of a class, all its names together.

    Returns:
        Per class its names, blanks at their ends removed.

    Raises:
        ValueError: There are fewer than two classes, too many, or one that is empty,
            too long or no text; or two that share a name, but for capitals, since the
            tokenizer makes them small; or there are too many names.
    """
    if isinstance(words, str) or not isinstance(words, Sequence):
        raise ValueError("Give the words as a list, such as ['cat, kitten', 'sofa'].")
    if len(words) > max_words:
        raise ValueError(
            f'There are {len(words):,} words, but at most {max_words:,} are taken: '
            'leave some out.'
        )
    classes: list[list[str]] = []
    owners: dict[str, int] = {}
    for number, word in enumerate(words, 1):
        names = word.split(',') if isinstance(word, str) else word
        if not isinstance(names, Sequence) or not all(
            isinstance(name, str) for name in names
        ):
            raise ValueError(
                f'Word {number} is {str(word)[:40]!r}, which is no text: put quotes '
                'around it.'
            )
        length = sum(map(len, names))
        if length > max_characters:
            raise ValueError(
                f'Word {number} has {length:,} characters, but at most '
                f'{max_characters:,} are taken: shorten it.'
            )
        kept: dict[str, str] = {}
        for name in map(str.strip, names):
            if not name and isinstance(word, str) and ',' in word:
                raise ValueError(
                    f'Word {number} has a comma without a name at each side: commas '
                    "join names of the same thing, as in 'cat, kitten', and are not "
                    'between words.'
                )
            _check_characters(name, number)
            key = unicodedata.normalize('NFKC', name).casefold()
            first = owners.setdefault(key, number)
            if first != number:
                raise ValueError(
                    f'Words {first} and {number} share the name {name!r}, so that the '
                    'second would not get a pixel of it: leave one out.'
                )
            kept.setdefault(key, name)
        if not kept:
            raise ValueError(f'Word {number} is empty: leave it out.')
        classes.append(list(kept.values()))
    if len(owners) > _NAMES * max_words:
        raise ValueError(
            f'The words have {len(owners):,} names, but at most '
            f'{_NAMES * max_words:,} are taken: leave some out.'
        )
    if len(classes) < 2:
        raise ValueError(
            'Give at least two words, since every pixel gets one of them: what you '
            "look for, and one for the rest, such as 'background'."
        )
    return classes


def _check_characters(name: str, number: int) -> None:
    kinds = [unicodedata.category(character) for character in name]
    for kind, character in zip(kinds, name, strict=True):
        if kind in ('Cc', 'Cs'):
            raise ValueError(
                f'Word {number} has the control character U+{ord(character):04X}: '
                'leave it out.'
            )
    if all(kind[0] in 'CZ' for kind in kinds):
        raise ValueError(f'Word {number} is empty, or has an empty name: leave it out.')
