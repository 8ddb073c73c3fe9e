"""What frozen encoders have in common."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from pacl_mmseg.ops.compiled import compiled
from pacl_mmseg.utils.names import check_choice

DTYPES = ('float32', 'bfloat16', 'float16')


class FrozenModule(BaseModule):
    """A module whose weights neither train nor enter a checkpoint.

    While ``frozen`` is true, parameters take no gradient and all submodules stay in
    eval mode. ``state_dict`` then holds, in place of the weights, one small tensor
    that names the encoder and its SHA-256 fingerprint; loading such a checkpoint over
    other weights is an error that names both. Every loader that goes through
    ``load_state_dict`` gets this, MMSeg's own ``init_model`` included.

    Args:
        frozen: If False the module is an ordinary one.

    Attributes:
        description: A phrase that names the encoder in logs and error messages, set
            by the subclass.
    """

    description: str

    def __init__(self, frozen: bool = True) -> None:
        super().__init__()
        self.frozen = frozen
        self._fingerprint: str | None = None
        self.register_state_dict_post_hook(_drop_weights)
        self.register_load_state_dict_pre_hook(_keep_weights)

    def freeze(self, dtype: str = 'float32') -> None:
        """Call once the submodules exist; does nothing unless ``frozen``.

        Args:
            dtype: Precision of the frozen weights. Their fingerprint is taken before.

        Raises:
            ValueError: Unknown precision, or a lower one for weights that train.
        """
        check_choice('dtype', dtype, DTYPES)
        if not self.frozen:
            if dtype != 'float32':
                raise ValueError(
                    f'A tower that trains keeps float32 weights, not {dtype}: use '
                    "optim_wrapper type 'AmpOptimWrapper' for mixed precision."
                )
            return
        self.requires_grad_(False)
        self.train(False)
        self._fingerprint = self.fingerprint()
        self.to(getattr(torch, dtype))

    def compile_if(
        self, compile: bool, function: Callable, **options: object
    ) -> Callable:
        """The function, a part of the forward, compiled if that is wanted.

        It takes modules as arguments, not bound: so neither state dicts nor names of
        parameters change, and a copy of this module runs its own weights.

        Raises:
            ValueError: It is wanted of a module that trains: what cannot be compiled
                is found out too late there, in the backward pass.
        """
        if compile and not self.frozen:
            raise ValueError('compile=True is for a frozen tower: leave it out.')
        if not compile:
            return function
        return compiled(function, name=f'A tower of {self.description}', **options)

    def in_parts(self, images: Tensor, most: int) -> Sequence[Tensor]:
        """Images ``(N, ...)`` in equal parts of ``most`` at most, if it is frozen."""
        if not self.frozen:
            return [images]
        return images.tensor_split(max(-(-len(images) // most), 1))

    @contextmanager
    def encoding(self) -> Iterator[None]:
        """What the forward of a frozen module runs in: no bookkeeping for autograd.

        Tensors that are made within cannot be saved for a backward: hand out copies in
        ordinary ones. Autocast is off for weights of low precision: of it they would
        get layer norms in float32, and casts around them. For a module that trains,
        nothing changes.
        """
        if not self.frozen:
            yield
            return
        weight = next(self.parameters())
        device = weight.device.type
        autocast = torch.is_autocast_enabled(device) and weight.dtype == torch.float32
        with torch.inference_mode(), torch.autocast(device, enabled=autocast):
            yield

    def train(self, mode: bool = True) -> FrozenModule:
        return super().train(mode and not self.frozen)

    def fingerprint(self) -> str:
        """SHA-256 over names and float32 values of all weights, as hex digits.

        That of frozen weights is computed once, before their precision is lowered.
        """
        return self._fingerprint or weights_fingerprint(self)

    def get_extra_state(self) -> Tensor:
        if not self.frozen:
            return torch.zeros(0, dtype=torch.uint8)
        identity = dict(encoder=self.description, sha256=self.fingerprint())
        return torch.tensor(list(json.dumps(identity).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Compare a checkpoint's encoder with this one.

        Raises:
            RuntimeError: They have different weights, or the checkpoint trained this
                encoder, which a frozen one would ignore.
        """
        if state.numel() == 0:
            if self.frozen:
                raise RuntimeError(
                    f'The checkpoint holds a trained encoder, but {self.description} '
                    'is frozen here and keeps its own weights: set frozen=False, or '
                    'export the trained one (tools/export_open_clip.py).'
                )
            return
        other = json.loads(bytes(state.tolist()))
        mine = self.fingerprint()
        if other['sha256'] != mine:
            raise RuntimeError(
                f'The checkpoint was trained over {other["encoder"]} (fingerprint '
                f'{other["sha256"][:12]}), but this config builds {self.description} '
                f'(fingerprint {mine[:12]}): load the weights it was '
                'trained with, or another checkpoint.'
            )


def weights_fingerprint(module: nn.Module) -> str:
    """SHA-256 over the names and float32 values of parameters and buffers."""
    digest = hashlib.sha256()
    tensors = [*module.named_parameters(), *module.named_buffers()]
    for name, value in sorted(tensors, key=lambda item: item[0]):
        digest.update(name.encode())
        digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _drop_weights(
    module: FrozenModule, state_dict: dict, prefix: str, *args: object
) -> None:
    own_state = f'{prefix}_extra_state'
    if module.frozen:
        for key in [k for k in state_dict if k.startswith(prefix) and k != own_state]:
            del state_dict[key]


def _keep_weights(
    module: FrozenModule, state_dict: dict, prefix: str, *args: object
) -> None:
    """Offer the loader the weights that are there, whatever the checkpoint holds."""
    if module.frozen:
        _drop_weights(module, state_dict, prefix)
        for name, child in module.named_children():
            child.state_dict(destination=state_dict, prefix=f'{prefix}{name}.')
