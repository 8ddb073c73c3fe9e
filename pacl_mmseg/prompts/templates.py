"""Named sets of prompt templates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from string import Formatter

TEMPLATES: dict[str, tuple[str, ...]] = {
    'plain': ('{}',),
    'photo': ('a photo of a {}.',),
    # The seven of CLIP's prompt-engineering notebook that PACL uses.
    'pacl7': (
        'itap of a {}.',
        'a bad photo of the {}.',
        'a origami {}.',
        'a photo of the large {}.',
        '{} in a video game.',
        'art of the {}.',
        'a photo of the small {}.',
    ),
}
"""The sets written out here. :func:`get_templates` knows two more, which it
takes from the library that publishes them: ``imagenet80`` and ``vild``."""


def _imagenet80() -> tuple[str, ...]:
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    return tuple(template('{}') for template in OPENAI_IMAGENET_TEMPLATES)


def _vild() -> tuple[str, ...]:
    from mmseg.utils import get_predefined_templates

    return tuple(get_predefined_templates('vild'))


_BORROWED: dict[str, Callable[[], tuple[str, ...]]] = {
    'imagenet80': _imagenet80,
    'vild': _vild,
}


def get_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    """Resolve a named template set, or check templates given in full.

    Args:
        templates: ``'plain'``, ``'photo'``, ``'pacl7'``,
            ``'imagenet80'``, ``'vild'``, or a sequence of templates in each of
            which ``{}`` stands for the name.

    Returns:
        The templates.

    Raises:
        ValueError: If the name is unknown, the sequence is empty, or a
            template does not contain ``{}`` exactly once, or other braces.
    """
    if isinstance(templates, str):
        if templates in TEMPLATES:
            return TEMPLATES[templates]
        if templates in _BORROWED:
            return _BORROWED[templates]()
        names = sorted([*TEMPLATES, *_BORROWED])
        raise ValueError(
            f'unknown template set {templates!r}; known sets: {", ".join(names)}. '
            '(Give templates of your own as a list.)'
        )
    templates = tuple(templates)
    if not templates:
        raise ValueError('at least one template is needed, got an empty sequence')
    for template in templates:
        if not _has_one_place(template):
            raise ValueError(
                "a template must contain '{}' exactly once, and no other braces, got "
                f'{template!r}'
            )
    return templates


def _has_one_place(template: str) -> bool:
    if not isinstance(template, str):
        return False
    try:
        places = [place for _, *place in Formatter().parse(template)]
    except ValueError:  # a brace alone
        return False
    return [place for place in places if place[0] is not None] == [['', '', None]]
