"""The documentation's site: ``make docs`` writes it to ``build/docs``.

Pages are Markdown that reads on GitHub as well: index.md lists them, and what is listed
there, by section, is the site's navigation.
"""

from __future__ import annotations

import re
import runpy
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.errors import SphinxError

ROOT = Path(__file__).resolve().parents[1]

project = 'pacl-mmseg'
author = 'the authors of pacl-mmseg'
release = runpy.run_path(str(ROOT / 'pacl_mmseg' / 'version.py'))['__version__']

extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']
myst_enable_extensions = ['colon_fence']
myst_heading_anchors = 4  # links to headings, by GitHub's names for them
exclude_patterns = ['notebooks']
suppress_warnings = ['misc.highlighting_failure']  # arrows and such in comments

# The reference: what packages export, in the order of their __all__.
autodoc_default_options = {
    'members': True,
    'imported-members': True,
    'show-inheritance': True,
    'member-order': 'bysource',
}
autodoc_typehints = 'description'
autodoc_typehints_description_target = 'documented'
napoleon_use_rtype = False
add_module_names = False

html_theme = 'furo'
html_title = f'{project} {release}'
html_copy_source = False
html_show_copyright = False


def add_navigation(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put what each section of the index lists into the navigation."""
    if docname != 'index':
        return
    for heading, body in re.findall(
        r'^## ([^\n]+)\n(.+?)(?=^## |\Z)', source[0], re.MULTILINE | re.DOTALL
    ):
        pages = re.findall(r'^- \[.+?\]\(([\w/]+)\.(?:md|rst)\)', body, re.MULTILINE)
        tree = [':::{toctree}', ':hidden:', f':caption: {heading}', '', *pages, ':::']
        source[0] += '\n' + '\n'.join(tree) + '\n'


def refuse_other_hosts(app: Sphinx, exception: Exception | None) -> None:
    """No page may make a browser ask another host for anything."""
    asks = re.compile(
        r'<(?:script|img|iframe|source|link)\b[^>]*?(?:src|href)="(?:https?:)?//'
        r'|(?:url\(|@import )["\']?(?:https?:)?//'
    )
    for page in Path(app.outdir).rglob('*'):
        if exception is None and page.suffix in ('.html', '.css'):
            found = asks.search(page.read_text(encoding='utf-8'))
            if found:
                raise SphinxError(f'{page} asks another host: {found[0]}')


def setup(app: Sphinx) -> None:
    app.connect('source-read', add_navigation)
    app.connect('build-finished', refuse_other_hosts)
