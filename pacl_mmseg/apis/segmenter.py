"""A photo and some words in, a segmentation out."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmseg.structures import SegDataSample

from pacl_mmseg.apis.export import HUB, download, read_exported, steps_of
from pacl_mmseg.apis.images import MAX_PIXELS, read_image
from pacl_mmseg.apis.inference import init_model, set_vocabulary
from pacl_mmseg.apis.segmentation import Scores, Segmentation
from pacl_mmseg.models import ZeroShotSegmentor
from pacl_mmseg.models.text_encoders import TextMemory
from pacl_mmseg.paths import CONFIGS
from pacl_mmseg.prompts import get_templates
from pacl_mmseg.prompts.words import read_words
from pacl_mmseg.registry import kind_of
from pacl_mmseg.utils import did_you_mean
from pacl_mmseg.utils.names import check_choice

# Of what is encoded: at least a token of any encoder, and as the field's configs have.
_SHORT_SIDE, _LONG_SIDE = 32, 2048
# A batch ends with the image that reaches so many.
_BATCH_PIXELS = 16_000_000


class Segmenter:
    """Segments images by any words.

    >>> segmenter = Segmenter('naclip')
    >>> result = segmenter('photo.jpg', ['cat, kitten', 'sofa'])
    >>> result.save('out')

    Words belong to a call: they are kept neither here nor in a file, only their
    embeddings, in memory. Calls of several threads wait for one another.

    Args:
        model: A method: ``clip``, ``maskclip``, ``sclip``, ``clearclip``, ``naclip``,
            which need no training; or ``pacl``, ``clippy``, ``nms05``, which need a
            checkpoint. Or a folder that :func:`~pacl_mmseg.apis.export` wrote, or
            ``'hf-hub:user/name'``, one in the Hugging Face hub (``@revision`` may
            follow). Nothing in such a folder is executed.
        checkpoint: File with the trained parts of a method.
        encoder: ``vitb16`` (the default), ``vitl14``, ``rn50`` or ``dino_vitb16``.
        pretrained: Weights of the encoder, a file or tag, in place of OpenAI's.
        world: ``'small'`` for the tiny encoder of the quickstart's scenes, which needs
            no download; with it ``pacl`` has a checkpoint.
        device: By default a GPU, where there is one.
        templates: Prompt templates; see :class:`ZeroShotTextHead`.
        max_pixels: Larger images are refused.

    Attributes:
        model: The :class:`ZeroShotSegmentor`.
        checkpoint: The file that its trained parts are from, or None.

    Raises:
        ValueError: There is no such model, or an argument is not for it.
        FileNotFoundError: There is no such file.
        RuntimeError: Weights cannot be fetched, or do not fit.
    """

    def __init__(
        self,
        model: str = 'naclip',
        *,
        checkpoint: str | os.PathLike | None = None,
        encoder: str | None = None,
        pretrained: str | None = None,
        world: str | None = None,
        device: str | None = None,
        templates: str | Sequence[str] = 'pacl7',
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        # Not above: that package imports this one.
        from pacl_mmseg.benchmark.configs import ENCODERS, SMALL_WORLD, compose
        from pacl_mmseg.benchmark.methods import METHODS

        model = os.fspath(model)
        options = {}
        if pretrained is not None:
            options['model.encoder.pretrained'] = os.fspath(pretrained)
        check_choice('world', world, (None, 'small'))
        if model in METHODS:
            if world is None:
                encoder = encoder or ENCODERS[0]
                config = compose(model, 'voc20', options=options, encoder=encoder)
            elif encoder or pretrained:
                raise ValueError('The small world has its own encoder: leave it out.')
            else:
                config = compose(model, SMALL_WORLD)
                if model == 'pacl' and checkpoint is None:
                    checkpoint = CONFIGS / SMALL_WORLD / 'pacl.safetensors'
            if METHODS[model].trained and checkpoint is None:
                lacking = 'no weights of it have been published yet'
                hint = ' In the small world (world, --small-world) pacl needs none.'
                if world is not None:
                    lacking = 'of the small world only that of pacl is shipped'
                    hint = ''
                raise ValueError(
                    f'{METHODS[model].title} has a trained part, and {lacking}: give a '
                    'checkpoint (--checkpoint) that training wrote, or take a method '
                    f'without training, such as naclip.{hint}'
                )
            if checkpoint is not None and not METHODS[model].trained:
                raise ValueError(f'{METHODS[model].title} takes no checkpoint.')
        elif model.startswith(HUB) or os.path.isdir(model):
            if checkpoint or encoder or world:
                raise ValueError(
                    'An exported model has its own checkpoint and encoder: leave '
                    'checkpoint, encoder and world out.'
                )
            folder = download(model) if model.startswith(HUB) else Path(model)
            config, checkpoint = read_exported(folder, own=model.startswith(HUB))
            config.merge_from_dict(options)
        else:
            raise ValueError(
                f'There is no method or folder {model!r}; methods are '
                f'{", ".join(METHODS)}.{did_you_mean(model, METHODS)}'
            )
        self._start(config, checkpoint, device, templates, max_pixels)

    @classmethod
    def from_config(
        cls,
        config: str | Path | Config,
        checkpoint: str | None = None,
        *,
        device: str | None = None,
        templates: str | Sequence[str] | None = None,
        max_pixels: int = MAX_PIXELS,
        cfg_options: Mapping[str, Any] | None = None,
    ) -> Segmenter:
        """A segmenter of a :class:`ZeroShotSegmentor`'s config, with its settings.

        Under a background rule the first word of a call is the background.

        Args:
            config, checkpoint, device, cfg_options: See :func:`init_model`.
            templates: Default: those of the config.
            max_pixels: Larger images are refused.

        Raises:
            ValueError: See :func:`init_model`; or it is the config of something else.
        """
        self = cls.__new__(cls)
        self._start(config, checkpoint, device, templates, max_pixels, cfg_options)
        return self

    def _start(
        self,
        config: str | Path | Config,
        checkpoint: str | os.PathLike | None,
        device: str | None,
        templates: str | Sequence[str] | None,
        max_pixels: int,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        path = checkpoint if checkpoint is None else os.fspath(checkpoint)
        model = init_model(config, path, device, options)
        if not isinstance(model, ZeroShotSegmentor):
            raise ValueError(
                f'Segmenter takes the config of a ZeroShotSegmentor, not of a '
                f'{type(model).__name__}: use pacl_mmseg.apis.init_model for that.'
            )
        # What is for tests with ground truth, or of whole videos.
        model.test_cfg.update(
            present_classes=False, token_labels=False, keep_tokens=False, keep_maps=True
        )
        head = model.decode_head
        head.text_memory = TextMemory(head.text_encoder, head.text_projector)
        if templates is not None:
            head.templates = get_templates(templates)
        self.model = model
        self.checkpoint = path
        self.max_pixels = max_pixels
        self._steps = steps_of(model.cfg)
        self._lock = Lock()

    def __call__(
        self,
        images: Any,
        words: Sequence[str | Sequence[str]],
        short_side: int | None = None,
    ) -> Segmentation | list[Segmentation]:
        """Segment an image, or several.

        Args:
            images: An image as :func:`~pacl_mmseg.apis.images.read_image` takes it, or
                a list of such.
            words: At least two, since every pixel gets one of them. ``'cat, kitten'``
                is one class of two names; see
                :func:`~pacl_mmseg.prompts.words.read_words`.
            short_side: Pixels to which the shorter side of an image is brought before
                it is encoded; by default as the model has it, 336 for most. Results
                have the size of the image.

        Returns:
            One, or a list of as many.

        Raises:
            ValueError: Of words or image; one sentence that names it.
            FileNotFoundError: There is no such image file.
        """
        if isinstance(images, (list, tuple)):
            return [result for _, result in self.stream(images, words, short_side)]
        return next(self.stream([images], words, short_side))[1]

    def stream(
        self,
        images: Iterable[Any],
        words: Sequence[str | Sequence[str]],
        short_side: int | None = None,
        batch_size: int = 8,
        on_error: Callable[[Any, Exception], None] | None = None,
    ) -> Iterator[tuple[Any, Segmentation]]:
        """Segment any number of images, few of which are in memory at a time.

        Args:
            images, words, short_side: As of a call.
            batch_size: Images that are read, and encoded if they are of equal sizes, at
                once; fewer if they have 16 megapixels or more together.
            on_error: Called with an image that cannot be read, and why, after which
                the others go on. By default that is raised.

        Yields:
            Each image as it was given, and its segmentation.
        """
        classes = read_words(words)
        pipeline = Compose(_resized(self._steps, short_side))
        for batch in self._batches(images, pipeline, batch_size, on_error):
            given, pixels, data = zip(*batch, strict=True)
            # Without a name, which would keep them while the next ones are computed.
            yield from zip(given, self._segment(pixels, data, classes), strict=True)

    def _batches(
        self,
        images: Iterable[Any],
        pipeline: Compose,
        batch_size: int,
        on_error: Callable[[Any, Exception], None] | None,
    ) -> Iterator[list[tuple[Any, np.ndarray, dict]]]:
        """Read images, about one batch ahead; see :meth:`stream`."""
        sources = iter(images)
        ahead: deque[tuple[Any, Future]] = deque()
        count = 1  # to be read ahead; until a size is known
        batch, pixels = [], 0
        with ThreadPoolExecutor(min(batch_size, os.cpu_count() or 1)) as pool:

            def read() -> None:
                for source in islice(sources, max(count - len(ahead), 0)):
                    future = pool.submit(self._read, source, pipeline)
                    ahead.append((source, future))

            read()
            while ahead:
                source, future = ahead.popleft()
                try:
                    image, data = future.result()
                except (ValueError, OSError) as error:
                    if on_error is None:
                        raise
                    on_error(source, error)
                else:
                    size = image.shape[0] * image.shape[1]
                    # As if the next ones were as large.
                    count = min(max(_BATCH_PIXELS // size, 1), batch_size)
                    batch.append((source, image, data))
                    pixels += size
                    del image, data
                del future
                read()
                if len(batch) == batch_size or pixels >= _BATCH_PIXELS:
                    yield batch
                    batch, pixels = [], 0
            if batch:
                yield batch

    def _read(self, source: Any, pipeline: Compose) -> tuple[np.ndarray, dict]:
        image = read_image(source, self.max_pixels)
        size = image.shape[:2]
        bgr = np.ascontiguousarray(image[..., ::-1])
        return image, pipeline(dict(img=bgr, img_shape=size, ori_shape=size))

    @torch.inference_mode()
    def _segment(
        self,
        images: Sequence[np.ndarray],
        data: Sequence[dict],
        classes: list[list[str]],
    ) -> list[Segmentation]:
        model = self.model
        words = [names[0] for names in classes]
        with self._lock:
            set_vocabulary(model, classes)
            # One by one, since they may be of different sizes.
            batches = [
                model.data_preprocessor(
                    dict(inputs=[one['inputs']], data_samples=[one['data_samples']])
                )
                for one in data
            ]
            samples: list[SegDataSample] = model.predict(
                [batch['inputs'][0] for batch in batches],
                [batch['data_samples'][0] for batch in batches],
            )
        return [
            Segmentation(
                image,
                words,
                sample.pred_sem_seg.data[0].cpu().numpy(),
                Scores(words, *sample.score_maps),
            )
            for image, sample in zip(images, samples, strict=True)
        ]


def _resized(steps: Sequence[Mapping], short_side: int | None) -> Sequence[Mapping]:
    """Steps of a pipeline with another short side for the images; None: their own.

    Raises:
        ValueError: It is out of range, or nothing here resizes by it.
    """
    if short_side is None:
        return steps
    if not _SHORT_SIDE <= short_side <= _LONG_SIDE:
        raise ValueError(
            f'short_side is from {_SHORT_SIDE} to {_LONG_SIDE} pixels, not '
            f'{short_side}.'
        )
    if not any(kind_of(s) == 'Resize' and s.get('keep_ratio') for s in steps):
        raise ValueError(
            'This model does not bring images to a short side: leave short_side out.'
        )
    scale = dict(scale=(_LONG_SIDE, short_side))
    return [dict(s, **scale) if kind_of(s) == 'Resize' else s for s in steps]
