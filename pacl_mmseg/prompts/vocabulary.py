"""Class names and their synonyms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmseg.utils import get_classes
from mmseg.utils.class_names import dataset_aliases
from open_clip import IMAGENET_CLASSNAMES

from pacl_mmseg.utils.names import check_name
from pacl_mmseg.visualization.palette import palette

_DATA = Path(__file__).parent


@dataclass(frozen=True)
class Vocabulary:
    """The names a segmentation is made of; several names may mean one class.

    Args:
        names: Every name, flat, class after class.
        class_of: The class index of each name.
        classes: The first name of each class.
    """

    names: tuple[str, ...]
    class_of: tuple[int, ...]
    classes: tuple[str, ...]

    @classmethod
    def from_list(cls, entries: Sequence[str | Sequence[str]]) -> Vocabulary:
        """Build a vocabulary from one entry per class.

        The same name may stand in two classes, as it does in some published
        files; a name repeated within a class is kept once.

        Args:
            entries: Per class a name, a string
                of comma-separated synonyms (``'person, people, man'``), or a
                sequence of synonyms.

        Returns:
            The vocabulary.

        Raises:
            ValueError: If there is no entry, a name is empty or no text, or two
                classes have the same names.
        """
        if isinstance(entries, str):
            entries = [entries]
        names: list[str] = []
        class_of: list[int] = []
        classes: list[str] = []
        seen: dict[frozenset[str], int] = {}
        for index, entry in enumerate(entries):
            parts = entry.split(',') if isinstance(entry, str) else entry
            if not isinstance(parts, Sequence) or not all(
                isinstance(part, str) for part in parts
            ):
                raise ValueError(
                    f'class {index} is {entry!r}: give a name, or a list of names; '
                    'put quotes around a name that reads as something else'
                )
            synonyms = list(dict.fromkeys(part.strip() for part in parts))
            if not synonyms or '' in synonyms:
                raise ValueError(f'class {index} has an empty name: {entry!r}')
            first = seen.setdefault(frozenset(synonyms), index)
            if first != index:
                raise ValueError(
                    f'classes {first} and {index} have the same names, '
                    f'{", ".join(synonyms)}, so that the second would never be '
                    'predicted: leave it out'
                )
            names += synonyms
            class_of += [index] * len(synonyms)
            classes.append(synonyms[0])
        if not classes:
            raise ValueError('a vocabulary needs at least one class')
        return cls(tuple(names), tuple(class_of), tuple(classes))

    @property
    def dataset_meta(self) -> dict[str, Any]:
        """``classes`` and a ``palette``, as MMSeg's models carry them."""
        return dict(classes=self.classes, palette=palette(self.classes).tolist())

    @classmethod
    def from_dataset(cls, name: str) -> Vocabulary:
        """Look up the vocabulary of a benchmark.

        Args:
            name: A name list of this package (``prompts/*.txt``,
                ``prompts/classification/*.txt``), ``'imagenet'``, whose names are
                open_clip's, or a dataset known to ``mmseg.utils.get_classes``.

        Returns:
            The vocabulary.

        Raises:
            ValueError: If the dataset is unknown.
        """
        if name == 'imagenet':
            # As published: 'missile' and 'sunglasses' are two classes each.
            names = tuple(IMAGENET_CLASSNAMES)
            return cls(names, tuple(range(len(names))), names)
        folders = (_DATA, _DATA / 'classification')
        files = {path.stem: path for f in folders for path in f.glob('*.txt')}
        if name in files:
            return cls.from_list(files[name].read_text(encoding='utf-8').splitlines())
        aliases = [alias for group in dataset_aliases.values() for alias in group]
        known = sorted([*files, *aliases, 'imagenet'])
        check_name('dataset with known class names', name, known)
        # One name per class: what mmseg writes is never a synonym list.
        return cls.from_list([[entry] for entry in get_classes(name)])
