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
from collections.abc import Mapping, Sequence
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
# And what decides the weights that training it gives.
TRAINED = (
    *('model', 'train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler'),
    *('custom_hooks', 'randomness'),
)
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


def config_sha256(cfg: Config, keys: Sequence[str] = MEASURED) -> str:
    """SHA-256 of what in a config decides the numbers that testing it gives.

    Files count by their content, not by their place: the encoder's weights and the
    names of classes. Where test data lie and what only makes tests faster do not count.

    Args:
        cfg: Any config.
        keys: Its parts that count; :data:`TRAINED` for what decides its weights.
    """
    whole, ignored = cfg.to_dict(), IRRELEVANT if keys == MEASURED else ()
    whole['model'] = hand_over(whole['model'])
    content = {key: _content(whole.get(key), ignored) for key in keys}
    content['names'] = read_protocol(cfg)['names_sha256']
    return _sha256(content)


def _content(node: Any, ignored: Sequence[str]) -> Any:
    if isinstance(node, dict):
        return {
            key: file_sha256(os.path.expanduser(value))
            if key == 'pretrained' and os.path.isfile(os.path.expanduser(value or ''))
            else _content(value, ignored)
            for key, value in node.items()
            if key not in ignored
        }
    if isinstance(node, (list, tuple)):
        return [_content(value, ignored) for value in node]
    return node


def _sha256(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


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


def write_result(path: Path, record: Mapping[str, Any]) -> None:
    """Write the record of an evaluation, with a checksum."""
    record = json.loads(json.dumps(record))  # as it is read back
    write_json(path, dict(record, sha256=_sha256(record)))


def read_result(path: Path) -> dict[str, Any]:
    """Read what :func:`write_result` wrote.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, or of a version that wrote no checksum.
    """
    try:
        record = json.loads(path.read_text(encoding='utf-8'))
        whole = record.pop('sha256', None)
        version = record['versions']['pacl_mmseg']
    except FileNotFoundError:
        raise
    except (ValueError, AttributeError, LookupError, TypeError, OSError) as error:
        raise ValueError(
            f'{path} is damaged ({type(error).__name__}: {error}): test again.'
        ) from error
    if whole is None:
        raise ValueError(
            f'{path} is of an earlier version ({version}), whose results have no '
            'checksum: test again.'
        )
    if whole != _sha256(record):
        raise ValueError(f'{path} was changed after it was written: test again.')
    return record


def write_text(path: Path, text: str) -> None:
    """Write a file as a whole or not at all."""
    with whole_file(path) as part:
        part.write_text(text, encoding='utf-8')


def write_json(path: Path, value: Any) -> None:
    """Write plain values as a whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + '\n')
