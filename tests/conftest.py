"""Tiny models and shared data for all tests."""

from __future__ import annotations

import copy
import functools
import gc
import os
from collections.abc import Iterator
from pathlib import Path

import open_clip
import programs
import pytest
import slurm_cluster
import torch
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope

import pacl_mmseg  # noqa: F401  (registers everything)

# The models are tiny: more threads only get in each other's way. Subprocesses too.
os.environ['OMP_NUM_THREADS'] = '1'
os.environ['HF_HUB_OFFLINE'] = '1'  # nothing is fetched, nor waited for
torch.set_num_threads(1)
os.environ['PACL_CACHE_DIR'] = ''  # text banks are not kept from test to test
init_default_scope('mmseg')  # for fixtures of whole modules, which come first

ROOT = Path(__file__).resolve().parents[1]
TINY_CLIP = dict(
    embed_dim=24,
    vision_cfg=dict(image_size=32, patch_size=8, width=32, layers=2, head_width=16),
    text_cfg=dict(context_length=24, vocab_size=49408, width=16, heads=2, layers=1),
)


def pytest_collection_finish() -> None:
    """Leave what was imported out of garbage collection.

    MMEngine collects garbage at every dataset that it makes, which otherwise takes a
    quarter of a second, for all the objects of the imported packages.
    """
    gc.freeze()


read_tokenizer = functools.cache(open_clip.SimpleTokenizer)


def tokenizer(**options: object) -> open_clip.SimpleTokenizer:
    """Make one whose tables, which take 0.1 s and never change, are read but once."""
    made = copy.copy(read_tokenizer(**options))
    made.cache = dict(made.cache)  # words that it has met
    return made


open_clip.SimpleTokenizer = tokenizer


@pytest.fixture(autouse=True)
def mmseg_scope() -> None:
    """Types are named as in an MMSeg config."""
    init_default_scope('mmseg')


@pytest.fixture
def tiny_clip() -> dict:
    """An open_clip architecture small enough for any test: 32 px, 4 x 4 tokens."""
    return copy.deepcopy(TINY_CLIP)


@pytest.fixture
def tiny_model(tiny_clip: dict) -> ConfigDict:
    """Config of a PACL segmentor on the tiny CLIP with seeded random weights."""
    encoder = dict(model=tiny_clip, pretrained=None)
    return ConfigDict(
        type='EncoderDecoder',
        data_preprocessor=dict(type='CLIPDataPreProcessor', **encoder),
        backbone=dict(type='PACLBackbone', **encoder),
        neck=dict(type='PatchEmbedder', in_channels=32, out_channels=24),
        decode_head=dict(
            type='ZeroShotTextHead',
            text_encoder=dict(type='OpenCLIPTextEncoder', **encoder),
            vocabulary=['cat', 'dog, puppy', 'grass'],
            templates='photo',
        ),
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    )


@pytest.fixture(scope='session')
def real_data() -> Path:
    """Folder of real photographs (``$PACL_SHARED_DATA``), or skip."""
    folder = Path(os.environ.get('PACL_SHARED_DATA', ROOT.parent / 'shared' / 'data'))
    if not folder.is_dir():
        pytest.skip(f'no real data at {folder}; set PACL_SHARED_DATA to a folder')
    return folder


@pytest.fixture(scope='session')
def slurm_env() -> Iterator[dict[str, str]]:
    """The environment of a slurm of one machine, started when a test first asks."""
    programs.need(*slurm_cluster.PROGRAMS)
    with slurm_cluster.slurm() as env:
        yield {**env, 'GPUS_PER_NODE': '0', 'CPUS_PER_TASK': '1'}
