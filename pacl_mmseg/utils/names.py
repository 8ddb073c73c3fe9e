"""What is said of mistyped names."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str], alike: float = 0.6) -> str:
    """Ask whether the known name nearest to ``name`` was meant; '' if none is near.

    Args:
        name: A mistyped name.
        known: All names.
        alike: How near is near, from 0 to 1; see ``difflib.get_close_matches``.
    """
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=alike)
    return f' Did you mean {nearest[0]!r}?' if nearest else ''


def check_choice(option: str, value: object, known: Iterable[str]) -> None:
    """Complain about a value that an option does not have.

    Raises:
        ValueError: It is not among ``known``; the message suggests the nearest.
    """
    known = tuple(known)
    if value not in known:
        raise ValueError(
            f'{option} must be one of {known}, not {value!r}.'
            f'{did_you_mean(str(value), map(str, known))}'
        )


def check_name(kind: str, name: str, known: Iterable[str]) -> None:
    """Complain about an unknown name.

    Raises:
        ValueError: It is not among ``known``; the message suggests the nearest.
    """
    known = list(known)
    if name not in known:
        raise ValueError(
            f'There is no {kind} {name!r}; there are: {", ".join(known)}.'
            f'{did_you_mean(name, known)}'
        )
