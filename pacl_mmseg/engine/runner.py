"""The runner of contrastive pretraining."""

from __future__ import annotations

import copy
import gc
import os
import re
import subprocess
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import all_gather_object, is_main_process
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.runner import Runner
from mmengine.runner.checkpoint import _load_checkpoint_to_model
from torch import nn
from torch.utils.data import DataLoader

from pacl_mmseg.engine.checkpoint import check_fit, load_checkpoint_file
from pacl_mmseg.engine.hooks import LossWatchHook
from pacl_mmseg.engine.interrupt import Interrupted
from pacl_mmseg.engine.loops import PretrainLoop
from pacl_mmseg.engine.work_dir import claimed, last_good
from pacl_mmseg.models.encoder import hand_to_transforms
from pacl_mmseg.registry import RUNNERS
from pacl_mmseg.utils import whole_file


@RUNNERS.register_module()
class ContrastivePretrainRunner(Runner):
    """MMEngine's ``Runner`` for training an embedder between frozen encoders.

    Selected by ``runner_type = 'ContrastivePretrainRunner'`` in a config; it tests as
    the stock runner does. What it adds:

    - it refuses to start when nothing is trainable;
    - data transforms are told the model's encoder
      (:func:`~pacl_mmseg.models.encoder.hand_to_transforms`);
    - checkpoints are written to a temporary name and renamed, hold tensors and plain
      values only (``torch.load(..., weights_only=True)``), and carry the data position
      beside weights, optimizer and schedule;
    - ``--resume`` continues where the newest checkpoint of the work directory left
      off: with the same batches and random numbers from map-style data; from shards
      every sample comes once per epoch, and what is left is mixed anew. Processes that
      torchrun or slurm have started again do so without being told;
    - nothing is survived in place: a lost data worker or process or a full disk ends
      training with an error, and the checkpoints before it stay;
    - loading never executes anything in the file, and a checkpoint that lacks a
      trained parameter is an error where it is resumed or tested.
    """

    rank_states: list[dict] | None = None
    _loaded: dict | None = None
    _training = False

    @classmethod
    def from_cfg(cls, cfg: Config | dict) -> ContrastivePretrainRunner:
        return super().from_cfg(unformatted(cfg) if isinstance(cfg, Config) else cfg)

    def __init__(
        self,
        model: nn.Module | dict,
        work_dir: str,
        train_dataloader: DataLoader | dict | None = None,
        val_dataloader: DataLoader | dict | None = None,
        test_dataloader: DataLoader | dict | None = None,
        **kwargs: Any,
    ) -> None:
        loaders = train_dataloader, val_dataloader, test_dataloader
        loaders = [hand_to_transforms(loader, model) for loader in loaders]
        super().__init__(model, work_dir, *loaders, **kwargs)

    def setup_env(self, env_cfg: dict) -> None:
        """As ``Runner.setup_env``; processes on CPUs start here, over gloo.

        MMEngine's own start of several processes selects a CUDA device. There too
        ``dist_cfg.timeout`` is how many seconds processes wait for each other.
        """
        self.timeout = env_cfg.get('dist_cfg', {}).get('timeout', 1800)
        if self._launcher == 'slurm':
            port = env_cfg.get('dist_cfg', {}).get('port')
            os.environ.update(meeting_of_slurm(os.environ, port))
        launched = self._launcher in ('pytorch', 'slurm')
        on_cpu = launched and not torch.cuda.is_available()
        if on_cpu and not dist.is_initialized():
            dist.init_process_group('gloo', timeout=timedelta(seconds=self.timeout))
        super().setup_env(env_cfg)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """As ``Runner.wrap_model``, with a wrapper that leaves batches where they are.

        Given a device, as by default, DistributedDataParallel moves all of a batch
        there itself: it waits for it, and for texts that are wanted on the host. The
        data preprocessor knows better. A model with nothing to train is not wrapped: it
        has nothing to share.
        """
        if not any(parameter.requires_grad for parameter in model.parameters()):
            return model.to(get_device())
        if self.distributed:
            defaults = dict(
                broadcast_buffers=False,
                find_unused_parameters=self.cfg.get('find_unused_parameters', False),
            )
            model_wrapper_cfg = {
                **defaults,
                **(model_wrapper_cfg or {}),
                'device_ids': None,
            }
        return super().wrap_model(model_wrapper_cfg, model)

    def register_default_hooks(self, hooks: dict | None = None) -> None:
        own = dict(runtime_info='LossWatchHook', pretrain='PretrainHook')
        own = {name: dict(type=kind) for name, kind in own.items()}
        super().register_default_hooks({**own, **(hooks or {})})

    @property
    def bare_model(self) -> nn.Module:
        """The model without its wrapper for several processes or augmentations."""
        model = self.model
        while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        return model

    def train(self) -> nn.Module:
        """As ``Runner.train``, alone in the work directory.

        Raises:
            Interrupted: Ctrl-C or SIGTERM came; a checkpoint was written.
            RuntimeError: Nothing is trainable; or another training is at work in the
                work directory, or has left checkpoints there and is not resumed; or a
                loss is not finite, or a data worker or another process was lost.
        """
        trained = [p for p in self.bare_model.parameters() if p.requires_grad]
        if not trained:
            raise RuntimeError(
                'Nothing in this model is trainable: add a PatchEmbedder as '
                'model.neck, or unfreeze an encoder (frozen=False).'
            )
        self.logger.info(
            f'Training {sum(p.numel() for p in trained):,} parameters; '
            f'{sum(p.numel() for p in self.bare_model.parameters()):,} in all.'
        )
        self._training = True
        with claimed(self.work_dir, self._resume, self._load_from) as what:
            self._resume, self._load_from = what
            model = super().train()
        # What a test after it is of; nothing is to be loaded over it.
        self._training, self._has_loaded = False, True
        if getattr(self.train_loop, 'interrupted', False):
            raise Interrupted(
                f'Training was stopped after {self.iter} iterations; the checkpoint to '
                f'go on from is {last_good(self)}.'
            )
        return model

    def test(self) -> dict[str, float]:
        """As ``Runner.test``; an embedder that was never trained is an error."""
        trained = any(p.requires_grad for p in self.bare_model.parameters())
        if trained and self._load_from is None and not self._has_loaded:
            raise RuntimeError(
                'This model has trained parts: give the checkpoint that holds them.'
            )
        return super().test()

    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        *args: Any,
        meta: dict | None = None,
        **kwargs: Any,
    ) -> None:
        """As ``Runner.save_checkpoint``, called on all ranks; the file is whole.

        Raises:
            RuntimeError: A loss or a trained parameter is not finite.
            OSError: The disk is full, or the like, on the main process.
        """
        iterations = (meta or {}).get('iter', self.iter + 1)
        for hook in self.hooks:
            if isinstance(hook, LossWatchHook):
                hook.read(self)
        loop = self.train_loop
        data = loop.state_dict(iterations) if isinstance(loop, PretrainLoop) else None
        self.rank_states = all_gather_object(dict(data=data))
        if not is_main_process():
            return
        try:
            with whole_file(Path(out_dir, filename)) as part:
                super().save_checkpoint(out_dir, part.name, *args, meta=meta, **kwargs)
        except OSError as error:
            raise OSError(
                f'{filename} was not written to {out_dir} ({error}): make room and '
                f'continue with --resume from {last_good(self)}.'
            ) from error

    def load_checkpoint(
        self,
        filename: str,
        map_location: Any = 'cpu',
        strict: bool = False,
        revise_keys: list = [(r'^module.', '')],  # noqa: B006  (the stock signature)
    ) -> dict:
        """As ``Runner.load_checkpoint``, but nothing in the file is executed.

        Raises:
            RuntimeError: The file is damaged or pickled, belongs to other encoders, or
                lacks parameters that this model trains (unless only training starts
                from it, where that is a warning).
        """
        checkpoint = load_checkpoint_file(filename, map_location)
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        model = self.bare_model
        weights = checkpoint.get('state_dict', checkpoint)
        needed = ('meta', 'message_hub', 'optimizer')
        if self._resume and self._training and not all(k in checkpoint for k in needed):
            raise RuntimeError(
                f'{filename} has weights, but no state of a training to resume (the '
                'best checkpoints have none): resume a regular one, or start from its '
                f'weights with --cfg-options load_from={filename}.'
            )
        for pattern, replacement in revise_keys:
            weights = {re.sub(pattern, replacement, k): v for k, v in weights.items()}
        if self._resume or not self._training:
            check_fit(weights, model, filename)
        _load_checkpoint_to_model(model, checkpoint, strict, revise_keys=revise_keys)
        self._has_loaded = True
        self._loaded = checkpoint
        self.logger.info(f'Loaded {filename}')
        return checkpoint

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """As ``Runner.resume``; also returns to the data position."""
        wanted = self._schedule()
        super().resume(filename, *args, **kwargs)
        if wanted not in (None, self._schedule()):
            self.logger.warning(
                f'Learning rates and their schedule are those of {filename}, not those '
                'of the config, which has others: to train by these, start from its '
                f'weights with --cfg-options load_from={filename} in another '
                '--work-dir.'
            )
        states = (self._loaded or {}).get('ranks')
        self._loaded = None
        data = [state['data'] for state in states or ()]
        # Of another loop, or to be resumed by another one.
        if not all(data) or not data or not isinstance(self.train_loop, PretrainLoop):
            self.logger.warning(f'{filename} has no data position: data starts anew.')
            return
        loop = self.train_loop
        batch = data[0].get('samples_per_iter', loop.samples_per_iter)
        if batch != loop.samples_per_iter:
            self.logger.warning(
                f'The global batch was {batch} samples and is {loop.samples_per_iter} '
                'from here on; set train_dataloader.batch_size to '
                f'{batch / self.world_size:g} to keep it.'
            )
        loop.load_state_dict(data)

    def _schedule(self) -> list | None:
        """What a checkpoint brings along of it, whatever the config says."""
        if type(self.optim_wrapper) not in (OptimWrapper, AmpOptimWrapper):
            return None  # not built yet, or several
        groups = self.optim_wrapper.param_groups
        rates = [(g.get('initial_lr'), g.get('weight_decay')) for g in groups]
        steps = self.param_schedulers if isinstance(self.param_schedulers, list) else ()
        return [rates, [(s.end, getattr(s, 'T_max', None)) for s in steps]]


def unformatted(config: Config) -> Config:
    """The same config; its text, which can be read back too, skips the formatter yapf.

    yapf takes up to half a second, and MMEngine writes a config's text several times
    when a run starts, and into each checkpoint. ``format_python_code=False`` is the
    switch for it, which ``Config.fromfile`` loses (mmengine 0.10).
    """
    config = copy.copy(config)
    object.__setattr__(config, '_format_python_code', False)
    return config


def meeting_of_slurm(
    environ: Mapping[str, str], port: int | None = None
) -> dict[str, str]:
    """What torchrun would set, for a process that srun has started.

    As MMEngine sets it, but for the port: jobs that share a node have one each. Steps
    of one job that run at once need a ``MASTER_PORT`` each.

    Args:
        environ: The environment of the process.
        port: Where the processes meet. Defaults to ``MASTER_PORT``, or else one made
            from the job's number.

    Returns:
        What ``init_process_group`` reads from the environment.
    """
    nodes = ['scontrol', 'show', 'hostnames', environ['SLURM_STEP_NODELIST']]
    # Below those that systems give away.
    of_job = 20000 + int(environ['SLURM_JOB_ID']) % 10000
    return dict(
        RANK=environ['SLURM_PROCID'],
        LOCAL_RANK=environ['SLURM_LOCALID'],
        WORLD_SIZE=environ['SLURM_NTASKS'],
        MASTER_ADDR=environ.get('MASTER_ADDR')
        or subprocess.check_output(nodes, text=True).split()[0],
        MASTER_PORT=str(port or environ.get('MASTER_PORT') or of_job),
    )


def shut_down() -> None:
    """Leave the group of processes; call when a run is over and nothing holds it.

    The wrapped model holds the process group, and one that lives on in cycles of
    references would keep gloo's threads running until they die, and abort the process,
    amid the end of the interpreter.
    """
    if not dist.is_initialized():
        return
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()
