"""Named sets of prompt templates."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mmseg.utils import get_predefined_templates
from open_clip import OPENAI_IMAGENET_TEMPLATES

TEMPLATES: dict[str, tuple[str, ...]] = {
    'plain': ('{}',),
    'photo': ('a photo of a {}.',),
    # kahnchana/clippy at 04bf78b, src/evaluation/segmentation.py: no full stop.
    'clippy': ('a photo of a(n) {}',),
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
    'imagenet80': tuple(template('{}') for template in OPENAI_IMAGENET_TEMPLATES),
    'vild': tuple(get_predefined_templates('vild')),
    **{
        path.stem: tuple(path.read_text(encoding='utf-8').splitlines())
        for path in sorted(Path(__file__).with_name('templates').glob('*.txt'))
    },
}
"""Sets that have a name: those above; two from libraries that publish them; and those
of classification sets, in the files of ``prompts/templates``."""

_ARTICLE = 'a(n) {}'
_ONE_PLACE = re.compile(r'[^{}]*{}[^{}]*')


def get_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    """Resolve a named template set, or check templates given in full.

    Args:
        templates: A name in :data:`TEMPLATES`, or a sequence of templates in each of
            which ``{}`` stands for the name; see :func:`fill_template`.

    Returns:
        The templates.

    Raises:
        ValueError: If the name is unknown, the sequence is empty, or a
            template does not contain ``{}`` exactly once, or other braces.
    """
    if isinstance(templates, str):
        if templates in TEMPLATES:
            return TEMPLATES[templates]
        raise ValueError(
            f'unknown template set {templates!r}; known sets: {", ".join(TEMPLATES)}. '
            '(Give templates of your own as a list.)'
        )
    templates = tuple(templates)
    if not templates:
        raise ValueError('at least one template is needed, got an empty sequence')
    for template in templates:
        if not (isinstance(template, str) and re.fullmatch(_ONE_PLACE, template)):
            raise ValueError(
                "a template must contain '{}' exactly once, and no other braces, got "
                f'{template!r}'
            )
    return templates


def fill_template(template: str, name: str) -> str:
    """A prompt: a template with a name in its place.

    ``'a(n) {}'`` becomes ``an`` before a name whose first letter is a vowel, else
    ``a``: by the letter, not the sound, as CLIPpy's evaluation has it.
    """
    article = 'an' if name[:1].lower() in set('aeiou') else 'a'
    return template.replace(_ARTICLE, f'{article} {{}}').format(name)
