"""The registries this package adds its types to: MMSegmentation's own.

Registering into ``mmseg``'s registries, not a scope of our own, lets every
type be named without a prefix in any MMSeg config. A config needs one line::

    custom_imports = dict(imports=['pacl_mmseg'], allow_failed_imports=False)

Collate functions go into MMEngine's ``FUNCTIONS``; MMSegmentation has none of its own.
"""

from mmengine.registry import FUNCTIONS
from mmseg.registry import (
    DATA_SAMPLERS,
    DATASETS,
    HOOKS,
    LOOPS,
    METRICS,
    MODELS,
    RUNNERS,
    TRANSFORMS,
)

__all__ = [
    'DATASETS',
    'DATA_SAMPLERS',
    'FUNCTIONS',
    'HOOKS',
    'LOOPS',
    'METRICS',
    'MODELS',
    'RUNNERS',
    'TRANSFORMS',
]
