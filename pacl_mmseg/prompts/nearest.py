"""Suggestions for mistyped names."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Ask whether the known name nearest to ``name`` was meant; '' if none is near."""
    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f' Did you mean {nearest[0]!r}?' if nearest else ''
