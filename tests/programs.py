"""What tests start, where it is installed."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Sequence

import pytest

# Debian's daemons are where not everybody's commands are looked for.
PATH = os.pathsep.join([os.environ.get('PATH', ''), '/usr/sbin'])


def need(*programs: str, modules: Sequence[str] = ()) -> None:
    """Skip a test where one of these is absent; fail it where ``CI=true``."""
    absent = [name for name in programs if shutil.which(name, path=PATH) is None]
    absent += [name for name in modules if importlib.util.find_spec(name) is None]
    if absent:
        end = pytest.fail if os.environ.get('CI') == 'true' else pytest.skip
        end(f'not installed: {", ".join(absent)} (.ci/run and setup.py have packages)')
