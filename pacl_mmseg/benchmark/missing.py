"""What a test would lack, found before anything slow starts: one sentence each."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import open_clip
from huggingface_hub import try_to_load_from_cache
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmseg.datasets import BaseSegDataset
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

from pacl_mmseg.datasets.preparation.layout import chosen, has_content, open_dataset
from pacl_mmseg.models.encoder import hand_over, tower_configs
from pacl_mmseg.models.open_clip_model import build_open_clip
from pacl_mmseg.models.timm_model import build_timm, is_timm, timm_record
from pacl_mmseg.registry import DATASETS, kind_of

# What open_clip and timm look for in a repository of the hub.
_HUB_NAMES = (
    *(HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME),
    *('model.safetensors', 'pytorch_model.bin'),
)


def missing_data(cfg: Config, loader: str = 'test_dataloader') -> str | None:
    """Why a loader's files cannot be read, or None.

    Every image and mask of a test is looked for, or those of the dataset's ``indices``;
    whether those of segmentation are right, and those of the official split, is what
    ``tools/check_data.py`` says. Of images with captions to train on, only the folder
    and the list are.

    Raises:
        ValueError: There are fewer images than ``indices`` want.
    """
    dataset, path = (cfg.get(loader) or {}).get('dataset', {}), f'{loader}.dataset'
    while isinstance(dataset.get('dataset'), dict):  # inside wrappers
        dataset, path = dataset['dataset'], f'{path}.dataset'
    if kind_of(dataset) == 'ImageTextShards':
        try:
            DATASETS.build({**dataset, 'pipeline': []}).full_init()
        except FileNotFoundError as error:
            return str(error)
        return None
    root = dataset.get('data_root') or ''
    store = (dataset.get('backend_args') or {}).get('backend', 'local')
    if '://' in root or store != 'local' or dataset.get('download'):
        return None
    kind = DATASETS.get(str(dataset.get('type'))) or object
    segmentation = issubclass(kind, BaseSegDataset)
    what = (not segmentation and cfg.get('benchmark')) or dataset.get('type')
    remedy = 'tools/check_data.py says what to do.'
    if not segmentation:
        remedy = 'docs/classification.md says what belongs there.'

    def lacking(place: str) -> str:
        return (
            f'{place} does not exist: put the files of {what} into {root}, or set '
            f'{path}.data_root to where they are (or --data-root to the folder that '
            'has all benchmarks).'
        )

    # Images with captions to train on are too many, those that cannot be read are
    # skipped, and of cached tokens there need be none.
    trained = loader == 'train_dataloader' and not segmentation
    prefix = {} if trained else dataset.get('data_prefix') or {}
    parts = [*([prefix] if isinstance(prefix, str) else prefix.values())]
    # MMPretrain's CIFAR10 looks into a folder of this name, and does not say so.
    parts += [dataset.get('ann_file'), getattr(kind, 'base_folder', None)]
    places = [root, *(os.path.join(root, part) for part in parts if part)]
    for place in places if root else ():
        if not os.path.exists(place):
            return lacking(place)
    listed = segmentation or (root and issubclass(kind, BaseDataset))
    if trained or not listed:
        return None
    try:
        records = open_dataset(dict(dataset, pipeline=[])).load_data_list()
    except FileNotFoundError as error:
        return lacking(error.filename) if error.filename else str(error)
    except (RuntimeError, AssertionError) as error:  # as MMPretrain's data sets say it
        reason = ' '.join(str(error).split()).rstrip('.')
        return f'{root} is not {what} as {dataset.type} reads it ({reason}): {remedy}'
    if not records:
        return f'{root} has no images: {remedy}'
    records = chosen(records, dataset.get('indices'))
    files = [r[k] for r in records for k in ('img_path', 'seg_map_path') if k in r]
    absent = [file for file in files if not has_content(file)]
    if absent:
        return (
            f'{len(absent)} of {len(files)} images and masks in {root} are not there '
            f'or empty, the first is {absent[0]}: {remedy}'
        )
    return None


def missing_weights(cfg: Config, fetch: bool) -> str | None:
    """Why the encoder's weights cannot be had, or None.

    Args:
        cfg: Config of a test.
        fetch: Download what is not here yet; if False, that is what is said.
    """
    for tower in tower_configs(hand_over(cfg.model)):
        model, weights = tower.get('model'), tower.get('pretrained')
        if weights is None or os.path.isfile(os.path.expanduser(weights)):
            continue
        if not isinstance(model, str):
            return f'There is no weights file {weights}.'
        if found := _missing_tag(model, weights, fetch):
            return found
    return None


@functools.cache
def _missing_tag(model: str, tag: str, fetch: bool) -> str | None:
    build = build_timm if is_timm(model) else build_open_clip
    if is_timm(model):
        try:
            record = timm_record(model, tag)
        except ValueError as error:
            return str(error)
        source = dict(url=record.get('url') or '')
        if record.get('hf_hub_id'):
            source = dict(hf_hub=f'{record["hf_hub_id"]}/')
    else:
        source = open_clip.get_pretrained_cfg(model, tag)
    if source and _is_cached(source):
        return None
    if source and not fetch:
        return (
            f'The {tag!r} weights of {model} are not on this machine yet and will be '
            'downloaded; without internet access set its `pretrained` in model.encoder '
            'to a file.'
        )
    try:
        build(model, tag)
    except (ValueError, RuntimeError) as error:
        return str(error)
    return None


def _is_cached(source: dict) -> bool:
    """Whether open_clip would find weights in the hub's cache or in its own."""
    repository, _, name = source.get('hf_hub', '').rpartition('/')
    if repository:
        names = [name] if name else _HUB_NAMES
        found = [try_to_load_from_cache(repository, name) for name in names]
        return any(isinstance(path, str) for path in found)
    return Path('~/.cache/clip', Path(source['url']).name).expanduser().is_file()
