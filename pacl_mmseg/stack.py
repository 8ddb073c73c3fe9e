"""Which OpenMMLab packages are installed, and whether this package can use them.

The same imports (``mmengine``, ``mmcv``, ``mmseg``, ``mmpretrain``) come from two
families of distributions: the maintained continuation (``onedl-*``) and upstream.
Installed together they overwrite each other's files, so exactly one may be there.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata

from packaging.version import Version

# The lowest versions that the test suite is known to pass with, per family.
ONEDL = {
    'onedl-mmengine': '0.10.10',
    'onedl-mmcv': '2.3.3',
    'onedl-mmsegmentation': '1.3.3',
    'onedl-mmpretrain': '1.3.3',
}
UPSTREAM = {
    'mmengine': '0.10.4',
    'mmcv': '2.0.0',
    'mmsegmentation': '1.2.2',
    'mmpretrain': '1.2.0',
}
INSTALL = "pip install 'pacl-mmseg[onedl]'"
INSTALL_UPSTREAM = 'make install STACK=mmlab'  # pip alone cannot, see the Makefile


def installed_version(distribution: str) -> str | None:
    """Version of an installed distribution, or None where it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def check_stack(version_of: Callable[[str], str | None] = installed_version) -> None:
    """Look whether there is one usable OpenMMLab family.

    Args:
        version_of: Returns the installed version of a distribution, or None.

    Raises:
        ImportError: Neither family is complete, both are there, or a package is
            too old. The message is one sentence with the remedy.
    """
    onedl, upstream = (
        [name for name in family if version_of(name)] for family in (ONEDL, UPSTREAM)
    )
    if onedl and upstream:
        raise ImportError(
            f'Both OpenMMLab families are installed ({", ".join(onedl)} and '
            f'{", ".join(upstream)}), which overwrite each other: use a fresh '
            f'environment, and there {INSTALL}'
        )
    needed, remedy = (UPSTREAM, INSTALL_UPSTREAM) if upstream else (ONEDL, INSTALL)
    for name, lowest in needed.items():
        version = version_of(name)
        if version is None:
            raise ImportError(f'{name} is not installed: {remedy}')
        if Version(version) < Version(lowest):
            raise ImportError(
                f'{name} {version} is too old, {lowest} or newer is needed: '
                f"pip install '{name}>={lowest}'"
            )


@contextlib.contextmanager
def without_noise() -> Iterator[None]:
    """Import OpenMMLab's packages without two messages that mean nothing here.

    ``onedl-mmsegmentation`` prints that the service it is named after is not there;
    MMCV warns of a compiled operator, which nothing here needs. All else is passed on.
    """
    warnings.filterwarnings('ignore', 'Fail to import ``MultiScaleDeformableAttention')
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            yield
    finally:
        for line in printed.getvalue().splitlines():
            if line != 'Could not import OneDL':
                print(line)
