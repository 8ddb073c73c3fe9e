"""PACL for MMSegmentation: importing the package registers all its types."""

from pacl_mmseg.stack import check_stack, without_noise

check_stack()

from mmengine.config.utils import MODULE2PACKAGE  # noqa: E402

# Lets configs inherit from installed packages as ``pacl_mmseg::...``, and, since
# MMEngine's table holds upstream's distribution names only, as ``mmseg::...`` and
# ``mmpretrain::...`` with the maintained continuation too.
MODULE2PACKAGE.update({name: name for name in ('pacl_mmseg', 'mmseg', 'mmpretrain')})

with without_noise():
    from pacl_mmseg import datasets, engine, evaluation, models  # noqa: F401
from pacl_mmseg.registry import register_at_root  # noqa: E402
from pacl_mmseg.version import __version__  # noqa: E402

register_at_root()

__all__ = ['Segmenter', '__version__']


def __getattr__(name: str) -> object:
    if name != 'Segmenter':
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from pacl_mmseg.apis.segmenter import Segmenter

    return Segmenter
