"""The record of one evaluation: what was measured, of what, how, and on what."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import numbers
import os
import platform
import re
import resource
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn

from pacl_mmseg.benchmark.protocols import read_method, read_protocol
from pacl_mmseg.models.encoder import hand_over
from pacl_mmseg.models.frozen import FrozenModule
from pacl_mmseg.utils import whole_file

PACKAGES = ('torch', 'mmengine', 'mmcv', 'mmseg', 'open_clip', 'pacl_mmseg')
# What of a config decides the numbers that testing it gives.
MEASURED = ('model', 'test_dataloader', 'test_evaluator', 'test_cfg')
IRRELEVANT = (
    *('data_root', 'batch_size', 'num_workers', 'persistent_workers', 'pin_memory'),
    'window_batch',
)


def describe_test(cfg: Config, checkpoint: str | None = None) -> dict[str, Any]:
    """What a config is about to measure, to be taken before its runner is built.

    Returns:
        ``method`` (:func:`read_method`), ``protocol`` (:func:`read_protocol`),
        ``config_sha256`` over what decides the numbers, and ``checkpoint``, None or its
        ``file`` and ``sha256``.

    Raises:
        FileNotFoundError: There is no such checkpoint.
    """
    weights = None
    if checkpoint is not None:
        remote = '://' in checkpoint  # MMEngine downloads it later
        digest = None if remote else file_sha256(checkpoint)
        weights = dict(file=checkpoint, sha256=digest)
    return dict(
        method=read_method(cfg),
        protocol=read_protocol(cfg),
        config_sha256=config_sha256(cfg),
        checkpoint=weights,
    )


def evaluation_record(
    runner: Runner, metrics: Mapping[str, float], description: Mapping[str, Any]
) -> dict[str, Any]:
    """The record of a test that has just run, in plain values.

    Args:
        runner: Its runner.
        metrics: What ``runner.test()`` returned.
        description: What :func:`describe_test` returned.

    Returns:
        The description, and ``metrics``; ``images`` and ``images_per_s`` (of all
        processes, without the first batch, which waits for data workers, texts and
        kernels); ``peak_memory_mb`` of the first process (of its GPU, or on a CPU its
        resident memory); ``encoders``, the name and fingerprint of every frozen one;
        ``versions``, ``device``, ``processes`` and ``date`` (UTC).
    """
    return dict(
        description,
        metrics={
            name: round(float(value), 4)
            if isinstance(value, numbers.Real) and math.isfinite(value)
            else None
            for name, value in metrics.items()
        },
        images=len(runner.test_dataloader.dataset),
        images_per_s=images_per_second(runner),
        peak_memory_mb=peak_memory_mb(),
        encoders=encoders(runner.model),
        versions={name: import_module(name).__version__ for name in PACKAGES},
        device=torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f'CPU ({platform.machine()}, {torch.get_num_threads()} threads)',
        processes=runner.world_size,
        date=datetime.now(timezone.utc).isoformat(timespec='seconds'),
    )


def config_sha256(cfg: Config) -> str:
    """SHA-256 of what in a config decides the numbers that testing it gives.

    Files count by their content, not by their place: the encoder's weights and the
    names of classes. Where the data lies and what only makes it faster do not count.
    """
    whole = cfg.to_dict()
    whole['model'] = hand_over(whole['model'])
    measured = {key: _content(whole.get(key)) for key in MEASURED}
    measured['names'] = read_protocol(cfg)['names_sha256']
    text = json.dumps(measured, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _content(node: Any) -> Any:
    if isinstance(node, dict):
        return {
            key: file_sha256(os.path.expanduser(value))
            if key == 'pretrained' and os.path.isfile(os.path.expanduser(value or ''))
            else _content(value)
            for key, value in node.items()
            if key not in IRRELEVANT
        }
    if isinstance(node, (list, tuple)):
        return [_content(value) for value in node]
    return node


@functools.lru_cache
def file_sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file, read once per process.

    Raises:
        FileNotFoundError: There is none.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f'There is no checkpoint {path}.')
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while part := file.read(2**24):
            digest.update(part)
    return digest.hexdigest()


def images_per_second(runner: Runner) -> float | None:
    """Throughput of the test loop, from MMEngine's timer; None if nothing was timed."""
    history = runner.message_hub.log_scalars.get('test/time')
    if history is None:
        return None
    seconds, _ = history.data
    images = len(runner.test_dataloader.dataset)
    batch = runner.test_dataloader.batch_size * runner.world_size
    if images > batch:
        images, seconds = images - batch, seconds[1:]
    return round(images / float(sum(seconds)), 3)


def peak_memory_mb() -> int:
    """The most memory so far: of the current GPU, or else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() // 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 2**20 if sys.platform == 'darwin' else peak // 2**10


def encoders(model: nn.Module) -> dict[str, dict[str, str]]:
    """Name and fingerprint of each frozen encoder, by its place in the model."""
    return {
        re.sub(r'^(module\.)+', '', path): dict(  # wrappers of the model
            name=module.description, sha256=module.fingerprint()
        )
        for path, module in model.named_modules()
        if isinstance(module, FrozenModule) and module.frozen
    }


def write_text(path: Path, text: str) -> None:
    """Write a file as a whole or not at all."""
    with whole_file(path) as part:
        part.write_text(text, encoding='utf-8')


def write_json(path: Path, value: Any) -> None:
    """Write plain values as a whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + '\n')
