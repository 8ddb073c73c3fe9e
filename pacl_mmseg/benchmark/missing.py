"""What a test would lack, found before anything slow starts: one sentence each."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import open_clip
from huggingface_hub import try_to_load_from_cache
from mmengine.config import Config
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

    Of segmentation data every image and mask is looked for, or those of the dataset's
    ``indices``; whether they are right, and those of the official split, is what
    ``tools/check_data.py`` says.

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
    if '://' in root or store != 'local':
        return None
    kind = DATASETS.get(str(dataset.get('type')))
    segmentation = kind is not None and issubclass(kind, BaseSegDataset)
    parts = [*(dataset.get('data_prefix') or {}).values(), dataset.get('ann_file')]
    wanted = [os.path.join(root, part) for part in parts if part and segmentation]
    what = (not segmentation and cfg.get('benchmark')) or dataset.get('type')
    for place in [root, *wanted] if root else ():
        if not os.path.exists(place):
            return (
                f'{place} does not exist: put the {what} there, or set '
                f'{path}.data_root to where it is (or --data-root to the folder that '
                'has all benchmarks).'
            )
    if not segmentation:
        return None
    records = open_dataset(dataset).load_data_list()
    if not records:
        return f'{root} has no images: tools/check_data.py says what to do.'
    records = chosen(records, dataset.get('indices'))
    files = [r[k] for r in records for k in ('img_path', 'seg_map_path') if k in r]
    lacking = [file for file in files if not has_content(file)]
    if lacking:
        return (
            f'{len(lacking)} of {len(files)} images and masks in {root} are not there '
            f'or empty, the first is {lacking[0]}: tools/check_data.py says what to do.'
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
