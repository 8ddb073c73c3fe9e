"""Packaging of pacl-mmseg, with MIM's layout so that configs can be inherited."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
MIM_FILES = ('configs', 'tools', 'model-index.yml')


def version() -> str:
    text = (ROOT / 'pacl_mmseg' / 'version.py').read_text()
    return re.search(r"__version__ = '(.+)'", text).group(1)


class BuildWithMim(build_py):
    """Adds configs and tools as ``pacl_mmseg/.mim``, where MMEngine looks for them."""

    def run(self) -> None:
        super().run()
        # Links for an editable install; a wheel gets copies, the checkout stays as is.
        folder = ROOT if self.editable_mode else Path(self.build_lib)
        mim = folder / 'pacl_mmseg' / '.mim'
        mim.mkdir(parents=True, exist_ok=True)
        for name in MIM_FILES:
            source, target = ROOT / name, mim / name
            if target.is_symlink() or target.is_file():
                target.unlink()
            elif target.is_dir():
                shutil.rmtree(target)
            if self.editable_mode:
                target.symlink_to(source.resolve())
            elif source.is_dir():
                shutil.copytree(
                    source, target, ignore=shutil.ignore_patterns('__pycache__')
                )
            else:
                shutil.copy(source, target)


setup(
    name='pacl-mmseg',
    version=version(),
    description='Open-vocabulary segmentation with Patch Aligned Contrastive Learning '
    '(PACL) as an MMSegmentation plugin',
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=['pacl_mmseg', 'pacl_mmseg.*']),
    py_modules=['pacl_cli'],  # outside of the package, whose import takes seconds
    entry_points=dict(console_scripts=['pacl = pacl_cli:main']),
    include_package_data=True,
    cmdclass=dict(build_py=BuildWithMim),
    install_requires=[
        'torch>=2.5',  # register_state_dict_post_hook, safe_globals
        'torchvision<0.30',  # 0.29 deprecates its JPEG decoder
        'numpy',
        'Pillow',
        # Vision and text towers, tokenizers. The next major version replaces
        # nn.MultiheadAttention, which models/open_clip_block.py takes apart.
        'open_clip_torch>=3.0,<4',
        'ftfy',  # MMSeg's tokenizer, caption cleaning
        'regex',  # MMSeg's tokenizer
        'webdataset>=1.0',  # tar shards: the format of img2dataset's CC3M/CC12M/YFCC
        'safetensors',  # token caches; open_clip needs it too
        'filelock',  # one process writes a folder at a time; torch needs it too
        'packaging',  # versions; open_clip needs it too
        'matplotlib',  # the quickstart's picture grid; MMEngine needs it anyway
    ],
    extras_require={
        # The OpenMMLab packages, either family (never both): see pacl_mmseg/stack.py.
        'onedl': [
            'onedl-mmengine>=0.10.10',
            'onedl-mmcv>=2.3.3',
            'onedl-mmsegmentation>=1.3.3',
            'onedl-mmpretrain>=1.3.3',
        ],
        'mmlab': [
            'mmengine>=0.10.4',
            # mmsegmentation 1.2.2 refuses 2.2.0. There are no wheels: see the Makefile.
            'mmcv>=2.0.0,<2.2.0',
            'mmsegmentation>=1.2.2',
            'mmpretrain>=1.2.0',
            'setuptools<81',  # mmengine imports pkg_resources
        ],
        'nouns': ['spacy'],  # noun prompts of real captions
        # Text towers of Hugging Face: T5. Not beside MMPretrain's models, which
        # transformers 5 breaks, so neither `make` nor the tests install it.
        'text': ['transformers', 'sentencepiece'],
        # Preparing benchmarks: masks of Pascal Context and of COCO's instances; what
        # MMSeg's converter of Cityscapes calls (it brings along an obsolete `typing`).
        'data': ['pycocotools', 'cityscapesscripts'],
        'demo': ['gradio>=6.31,<7'],  # `pacl demo`
        'tensorboard': ['tensorboard'],  # curves and pictures of a training run
        'docs': ['sphinx', 'furo', 'myst-parser'],  # `make docs`
        'tests': [
            *('pytest', 'pytest-xdist', 'ruff', 'pycocotools', 'tensorboard'),
            *('moto', 'flask', 'flask-cors'),  # an object store
            'playwright',  # a browser
        ],
    },
)
