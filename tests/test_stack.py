import subprocess
import sys
import textwrap

import mmengine
import mmpretrain.registry
import mmseg.registry
import pytest

from pacl_mmseg.engine import ContrastivePretrainRunner
from pacl_mmseg.models import PACLBackbone, ZeroShotTextHead
from pacl_mmseg.stack import ONEDL, UPSTREAM, check_stack

NEW_ONEDL = dict.fromkeys(ONEDL, '99.0')
NEW_UPSTREAM = dict.fromkeys(UPSTREAM, '99.0.1.post1+cu118')


def test_either_family_is_accepted():
    check_stack(NEW_ONEDL.get)
    check_stack(NEW_UPSTREAM.get)
    check_stack(ONEDL.get)  # the lowest versions themselves
    check_stack()  # what these tests run on


@pytest.mark.parametrize(
    ('installed', 'message'),
    [
        ({}, r"onedl-mmengine is not.*pip install 'pacl-mmseg\[onedl\]'"),
        (NEW_ONEDL | NEW_UPSTREAM, 'Both OpenMMLab families.*fresh environment'),
        (NEW_ONEDL | {'mmengine': '0.10.7'}, r'and mmengine\).*fresh environment'),
        (
            NEW_ONEDL | {'onedl-mmsegmentation': '1.3.0'},
            r"onedl-mmsegmentation 1.3.0 is too old, 1.3.3 or newer.*'onedl-mmseg.*'",
        ),
        (NEW_UPSTREAM | {'mmcv': '1.7.2'}, 'mmcv 1.7.2 is too old'),
        (
            {k: v for k, v in NEW_ONEDL.items() if k != 'onedl-mmcv'},
            r'onedl-mmcv is not installed: pip install .*\[onedl\]',
        ),
        (
            {k: v for k, v in NEW_UPSTREAM.items() if k != 'mmpretrain'},
            'mmpretrain is not installed: make install STACK=mmlab',
        ),
    ],
)
def test_other_installations_end_in_one_sentence(installed, message):
    with pytest.raises(ImportError, match=message) as error:
        check_stack(installed.get)
    assert '\n' not in str(error.value)


def test_types_are_found_in_every_registry():
    for name in ('ContrastivePretrainRunner', 'mmseg.ContrastivePretrainRunner'):
        assert mmengine.RUNNERS.get(name) is ContrastivePretrainRunner
    for registry in (
        mmengine.MODELS,
        mmseg.registry.MODELS,
        mmpretrain.registry.MODELS,
    ):
        for name in ('PACLBackbone', 'mmseg.PACLBackbone'):
            assert registry.get(name) is PACLBackbone
        assert registry.get('ZeroShotTextHead') is ZeroShotTextHead


def test_import_without_the_stack_is_one_sentence():
    """In a process that cannot see any distribution."""
    script = textwrap.dedent("""
        from importlib import metadata
        def version(name):
            raise metadata.PackageNotFoundError(name)
        metadata.version = version
        import pacl_mmseg
    """)
    done = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith('ImportError: onedl-mmengine is not installed: pip install')
