"""Checkpoints of tensors and plain values, read without executing anything."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

# Parts that a segmentor may have. Not `auxiliary_head`, which only training needs: of
# a model without it, a checkpoint that has one is right.
PARTS = ('backbone', 'neck', 'decode_head')
PLAIN = (bool, int, float, str, bytes, type(None), torch.Tensor)


def load_checkpoint_file(path: str, map_location: Any = 'cpu') -> dict[str, Any]:
    """Read a checkpoint with ``torch.load(weights_only=True)``, or a safetensors file.

    MMEngine's own runner pickles log buffers into its files; those are refused too, and
    load with its own runner.

    What a file holds is compared with the checksums that ``torch.save`` puts beside it,
    at which ``torch.load`` does not look.

    Raises:
        FileNotFoundError: There is no such file.
        RuntimeError: The file is damaged or no checkpoint, holds weights that are not
            finite, or pickled objects; none is executed.
    """
    path = os.path.expanduser(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f'There is no checkpoint {path}: give the path of a .pth file that '
            'tools/train.py wrote.'
        )
    try:
        if path.endswith('.safetensors'):
            checkpoint = dict(state_dict=load_file(path, str(map_location)))
        else:
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    broken = archive.testzip()
                    # torch.load goes by these, too, which have no checksum.
                    odd = (
                        i.compress_size != i.file_size or i.external_attr
                        for i in archive.infolist()
                    )
                if broken or any(odd):
                    raise zipfile.BadZipFile('another checksum, or header')
            checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise RuntimeError(
            f'{path} holds pickled objects beside tensors, or is no checkpoint; it was '
            'not loaded and nothing in it was executed: use a checkpoint written by '
            'tools/train.py.'
        ) from error
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # what bytes can be taken for has no end
        raise RuntimeError(
            f'{path} is truncated or damaged, or no checkpoint: use an earlier '
            'checkpoint of that run.'
        ) from error
    weights = checkpoint
    if isinstance(checkpoint, dict):
        weights = checkpoint.get('state_dict', checkpoint)
    if not isinstance(weights, dict):
        raise RuntimeError(f'{path} holds no state dict: use another checkpoint.')
    for name, value in weights.items():
        if isinstance(value, torch.Tensor) and not value.isfinite().all():
            raise RuntimeError(
                f'{path} has weights that are not finite (the first are {name}): use '
                'an earlier checkpoint of that run.'
            )
    return checkpoint


def check_fit(weights: Mapping[str, Any], model: nn.Module, path: str) -> None:
    """Complain about the weights of another model.

    Args:
        weights: A state dict; what is frozen may be missing.
        model: What they are for.
        path: The file that they come from.

    Raises:
        RuntimeError: They lack trained parameters, or have parameters that are unknown.
    """
    missing = [
        name
        for name, value in model.named_parameters()
        if value.requires_grad
        and (name not in weights or weights[name].shape != value.shape)
    ]
    if missing:
        raise RuntimeError(
            f'{path} lacks {len(missing)} trained parameters of this model, or has '
            f'them in another shape (the first is {missing[0]}): it belongs to '
            'another config.'
        )
    parts = {*PARTS, *dict(model.named_children())}
    known = model.state_dict().keys()
    unknown = [k for k in weights if k.split('.')[0] in parts and k not in known]
    if unknown:
        raise RuntimeError(
            f'{path} has {len(unknown)} parameters that this model lacks (the first '
            f'is {unknown[0]}): it belongs to another config.'
        )


def plain(value: Any) -> Any:
    """Make a value one that ``weights_only`` loading accepts.

    NumPy scalars become Python's; what has no plain form is left out of containers.
    """
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if _has_plain_form(v)}
    if isinstance(value, (list, tuple)):
        return type(value)(plain(v) for v in value if _has_plain_form(v))
    return value.item() if isinstance(value, np.generic) else value


def _has_plain_form(value: Any) -> bool:
    containers = (dict, OrderedDict, list, tuple)
    return type(value) in containers or isinstance(value, (*PLAIN, np.generic))
