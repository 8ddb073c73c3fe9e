"""Models for single images, from checkpoints of which nothing is executed."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mmseg.apis
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.device import get_device
from mmseg.models import EncoderDecoder
from torch import nn

from pacl_mmseg.apis.config import apply_options, load_config
from pacl_mmseg.engine.checkpoint import check_fit, load_checkpoint_file
from pacl_mmseg.models import ZeroShotTextHead


def init_model(
    config: str | Path | Config,
    checkpoint: str | None = None,
    device: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """As MMSeg's ``init_model``, but nothing in the checkpoint is executed.

    MMSeg's unpickles it: whoever wrote the file can run any program here.

    Args:
        config: Path of a config, or a config, which stays as it is.
        checkpoint: File with the trained parts; none for a model that has none.
        device: Where the model goes; by default a GPU, where there is one.
        cfg_options: See :func:`apply_options`.

    Returns:
        The model, in evaluation mode. Its ``dataset_meta`` names the classes of its
        vocabulary, or without one those in the checkpoint.

    Raises:
        ValueError: See :func:`load_config`; or there are trained parts, and no
            checkpoint.
        FileNotFoundError: There is no such file.
        RuntimeError: The checkpoint is damaged, holds pickled objects, or belongs to
            another config.
    """
    if isinstance(config, Config):
        config = copy.deepcopy(config)
        apply_options(config, cfg_options)
    else:
        config = load_config(str(config), cfg_options)
    model = mmseg.apis.init_model(config, None, device or get_device())
    meta = {}
    if checkpoint is not None:
        content = load_checkpoint_file(checkpoint)
        weights = content.get('state_dict', content)
        weights = {k.removeprefix('module.'): v for k, v in weights.items()}
        check_fit(weights, model, checkpoint)
        model.load_state_dict(weights, strict=False)  # without what is frozen
        meta = content.get('meta') or {}
    elif any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            'This model has trained parts: give the checkpoint that holds them.'
        )
    head = model.decode_head
    if isinstance(head, ZeroShotTextHead):
        model.dataset_meta = head.vocabulary.dataset_meta
    elif 'dataset_meta' in meta:
        model.dataset_meta = meta['dataset_meta']
    return model


def set_vocabulary(
    model: EncoderDecoder | mmseg.apis.MMSegInferencer,
    vocabulary: Sequence[str | Sequence[str]] | None = None,
    dataset_name: str | None = None,
    templates: str | Sequence[str] | None = None,
) -> None:
    """Segment by other class names from now on.

    Under a background rule (``model.test_cfg.background``) the first class is still the
    background.

    Args:
        model: A segmentor with a :class:`ZeroShotTextHead`, e.g. from ``init_model``,
            or an ``MMSegInferencer`` that has one, MMSeg's own or :class:`Inferencer`,
            whose pictures then show these classes.
        vocabulary, dataset_name, templates: See :class:`ZeroShotTextHead`.

    Raises:
        TypeError: The model has another head.
    """
    if isinstance(model, mmseg.apis.MMSegInferencer):
        set_vocabulary(model.model, vocabulary, dataset_name, templates)
        model.visualizer.dataset_meta = model.model.dataset_meta
        return
    head = model.decode_head
    if not isinstance(head, ZeroShotTextHead):
        raise TypeError(
            f'A {type(head).__name__} has fixed classes; only a ZeroShotTextHead takes '
            'a vocabulary.'
        )
    head.set_vocabulary(vocabulary, dataset_name, templates)
    # The segmentor counts classes for its sliding windows and names them in pictures.
    model.num_classes = head.num_classes
    model.out_channels = head.out_channels
    model.dataset_meta = head.vocabulary.dataset_meta


class Inferencer(mmseg.apis.MMSegInferencer):
    """MMSeg's ``MMSegInferencer`` with the checkpoints of :func:`init_model`.

    Pictures show the classes of the model, where MMSeg's show those of Cityscapes.

    Args:
        model: Path of a config, or a config.
        weights: Checkpoint with the trained parts, if it has any.
        **kwargs: See MMSeg's.
    """

    def __init__(
        self, model: str | Config, weights: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(model, weights, **kwargs)
        if not {'classes', 'palette', 'dataset_name'} & kwargs.keys():
            self.visualizer.dataset_meta = self.model.dataset_meta

    def _init_pipeline(self, cfg: Config) -> Compose:
        # What data sets are tested by may load no files, as the small world's does.
        pipeline = cfg.get('test_pipeline') or cfg.test_dataloader.dataset.pipeline
        cfg.test_dataloader.dataset.pipeline = copy.deepcopy(pipeline)
        return super()._init_pipeline(cfg)

    def _init_model(
        self, cfg: Config, weights: str | None, device: str = 'cpu'
    ) -> nn.Module:
        if not cfg:
            raise ValueError(
                'Give a config: the one within a checkpoint is a program, and would be '
                'run.'
            )
        return init_model(
            cfg if isinstance(cfg, Config) else Config(cfg), weights, device
        )
