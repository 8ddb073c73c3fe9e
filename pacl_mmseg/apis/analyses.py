"""What models make of whole images, patch by patch: docs/analyses.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.device import get_device
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.datasets import BaseSegDataset
from mmseg.models import EncoderDecoder, SegDataPreProcessor
from torch import Tensor, nn

from pacl_mmseg.apis.inference import init_model
from pacl_mmseg.evaluation.pointing import pointing
from pacl_mmseg.evaluation.semantic_coherence import PatchSample, choose_patches, unit
from pacl_mmseg.models import PACLBackbone, ZeroShotTextHead
from pacl_mmseg.models.backbones import token_patches
from pacl_mmseg.models.encoder import hand_over
from pacl_mmseg.ops import activation_map, patch_labels
from pacl_mmseg.registry import DATASETS, MODELS


@dataclass(frozen=True)
class EncodedImage:
    """An image, encoded whole, and of test data its labels.

    Attributes:
        image: Resized, before it was normalised, BGR, uint8, ``(3, H, W)``.
        maps: ``(C, h, w)`` each.
        index: Its place in the data set.
        labels: Of the pixels of the original image, ``(H', W')``.
        classes: ``(h, w)``, the label that most pixels of a patch have.
        ignore_index: The label of pixels that do not count.
        padding: Left, right, top and bottom, of what the model saw.
    """

    image: Tensor
    maps: Sequence[Tensor]
    index: int = 0
    labels: Tensor | None = None
    classes: Tensor | None = None
    ignore_index: int = 255
    padding: Sequence[int] = (0, 0, 0, 0)

    @property
    def picture(self) -> Tensor:
        """The image to be drawn, RGB, ``(H, W, 3)``."""
        return self.image.flip(0).permute(1, 2, 0)


@torch.no_grad()
def encode_images(
    dataset: BaseDataset,
    loader: dict,
    preprocessor: SegDataPreProcessor,
    backbone: nn.Module,
    encode: Callable[[Tensor], Sequence[Tensor]],
    indices: Sequence[int] | None = None,
) -> Iterator[EncodedImage]:
    """Encode images of segmentation data, whole.

    Args:
        dataset: The data.
        loader: Config of the data loader.
        preprocessor, backbone: Of the model.
        encode: What makes feature maps ``(N, C, h, w)`` of images ``(N, 3, H, W)``.
        indices: Places of the images in the data set; all by default.

    Raises:
        ValueError: The data have no masks.
    """
    if not isinstance(dataset, BaseSegDataset):
        raise ValueError(
            f'{type(dataset).__name__} has no masks: give the config of a segmentor, '
            'with the data of a segmentation benchmark.'
        )
    indices = range(len(dataset)) if indices is None else indices
    places = iter(indices)
    subset = dataset.get_subset(list(indices))
    sampler = dict(type='DefaultSampler', shuffle=False)
    for batch in Runner.build_dataloader(dict(loader, dataset=subset, sampler=sampler)):
        data = preprocessor(batch, False)
        inputs = data['inputs']
        if isinstance(inputs, Tensor):
            maps = zip(*encode(inputs), strict=True)
        else:  # of different sizes
            maps = ([m[0] for m in encode(one[None])] for one in inputs)
        images = zip(batch['inputs'], inputs, maps, data['data_samples'], strict=True)
        for image, given, of_image, sample in images:
            labels = sample.gt_sem_seg.data[0]
            patches = token_patches(backbone, of_image[0].shape[1:], given.shape[1:])
            options = dict(
                padding=sample.metainfo.get('img_padding_size', (0, 0, 0, 0)),
                ignore_index=dataset.ignore_index,
            )
            yield EncodedImage(
                image,
                of_image,
                index=next(places),
                labels=labels,
                classes=patch_labels(labels, **patches, **options),
                **options,
            )


@torch.no_grad()
def read_tokens(model: EncoderDecoder, images: int) -> Iterator[EncodedImage]:
    """Encode test images of a model's config: tokens as they are compared with texts.

    Args:
        model: A segmentor from ``init_model`` with a :class:`ZeroShotTextHead`.
        images: How many of the first ones, at most.

    Returns:
        The images, whose only map are the tokens.

    Raises:
        ValueError: A model of another kind, or padded images.
    """
    loader = model.cfg.test_dataloader
    dataset = DATASETS.build(loader.dataset)
    parts = model.data_preprocessor, model.backbone, lambda x: [_tokens(model, x)]
    indices = range(min(images, len(dataset)))
    for item in encode_images(dataset, loader, *parts, indices):
        if any(item.padding):
            raise ValueError(
                'Tokens are taken of images as they are: leave size and size_divisor '
                'of the data preprocessor out.'
            )
        yield item


@torch.no_grad()
def file_tokens(model: EncoderDecoder, image: str) -> EncodedImage:
    """Encode an image file; arguments and errors as of :func:`read_tokens`."""
    picture, inputs = _load(model, image)
    return EncodedImage(picture, _tokens(model, inputs))


class LayerReader:
    """Reads every layer of a config's image encoder on its test data.

    Layers of a :class:`PACLBackbone` are its transformer's blocks, each read out as the
    config's ``output`` says; those of another backbone, what its config returns. Of
    the model nothing but data preprocessor and backbone is built; with a checkpoint all
    of it, as that was trained, and the tokens of the neck are one layer more.

    Args:
        config: Of a segmentor, with test data.
        device: By default a GPU, where there is one.
        checkpoint: File with the trained parts.

    Attributes:
        dataset: The test data.
    """

    def __init__(
        self, config: Config, device: str | None = None, checkpoint: str | None = None
    ) -> None:
        init_default_scope(config.get('default_scope', 'mmseg'))
        device = device or get_device()
        self.neck: nn.Module | None = None
        if checkpoint is None:
            model = hand_over(config.model)
            self.preprocessor = MODELS.build(model.data_preprocessor).to(device)
            self.backbone = MODELS.build(model.backbone).to(device).eval()
        else:
            model = init_model(config, checkpoint, device)
            self.preprocessor, self.backbone = model.data_preprocessor, model.backbone
            self.neck = model.neck if model.with_neck else None
        trained = any(p.requires_grad for p in self.backbone.parameters())
        if checkpoint is None and trained:
            raise ValueError(
                'This config trains its backbone: give the checkpoint that holds it.'
            )
        self._last = -1  # place of what the neck takes
        if isinstance(self.backbone, PACLBackbone):
            blocks = self.backbone.visual.transformer.resblocks
            self._last = self.backbone.out_indices[-1]
            self.backbone.out_indices = list(range(len(blocks)))
        self.loader = config.test_dataloader
        self.dataset = DATASETS.build(self.loader.dataset)

    def read(self, indices: Sequence[int]) -> Iterator[EncodedImage]:
        """Encode images of the data set; ``maps`` are the layers."""
        parts = self.preprocessor, self.backbone, self._layers
        return encode_images(self.dataset, self.loader, *parts, indices)

    def sample(
        self, images: int, patches: int, generator: torch.Generator
    ) -> PatchSample:
        """Draw images, and patches of each that have a class.

        Args:
            images: How many at most, without replacement.
            patches: Likewise, of each image.
            generator: Of the draws, on the CPU.
        """
        order = torch.randperm(len(self.dataset), generator=generator)[:images]
        tokens, classes, numbers = [], [], []
        for item in self.read(order.sort().values.tolist()):
            of_patches = item.classes.flatten()
            chosen = choose_patches(
                of_patches, patches, generator, self.dataset.ignore_index
            )
            tokens.append([unit(m.flatten(1)[:, chosen].T) for m in item.maps])
            classes.append(of_patches[chosen])
            numbers.append(torch.full_like(chosen, item.index))
        layers = [torch.cat(layer) for layer in zip(*tokens, strict=True)]
        return PatchSample(layers, torch.cat(classes), torch.cat(numbers))

    def _layers(self, inputs: Tensor) -> list[Tensor]:
        outputs = self.backbone(inputs)
        if self.neck is not None:
            outputs = *outputs, *self.neck((outputs[self._last],))
        return [m[0] if isinstance(m, (list, tuple)) else m for m in outputs]


@torch.no_grad()
def activate(
    model: EncoderDecoder,
    image: str,
    prompts: Sequence[str],
    mode: str = 'cosine',
    weight_scale: float | None = None,
    blur: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Activation maps of prompts in an image, which is encoded whole.

    Args:
        model: A segmentor from ``init_model`` with a :class:`ZeroShotTextHead`.
        image: Path of an image file.
        prompts: Any texts, encoded as they stand, without templates.
        mode, weight_scale, blur: See :func:`pacl_mmseg.ops.activation_map`. None is the
            weight scale of the model, if its compatibility function has this mode.

    Returns:
        Maps ``(K, h, w)``, a value for each patch; and the image as it was given to the
        model, resized, RGB, uint8, ``(H, W, 3)``.

    Raises:
        TypeError: The model has another head, or one that compares words.
        ValueError: An empty prompt; or see :func:`pacl_mmseg.ops.activation_map`.
    """
    if not prompts or not all(prompt.strip() for prompt in prompts):
        raise ValueError('Give at least one prompt, and none that is empty.')
    texts = _text_head(model).embed_texts(prompts)
    loaded, inputs = _load(model, image)
    maps = _maps(model, inputs, texts, mode, weight_scale, blur)[0]
    return maps, EncodedImage(loaded, ()).picture


def pointing_accuracy(
    model: EncoderDecoder,
    mode: str = 'cosine',
    weight_scale: float | None = None,
    blur: float = 0.0,
) -> dict[str, float]:
    """How often the most active patch for a class of a test image is of that class.

    Of classes with several names the map is the maximum of theirs. Without blur all
    modes point at the same patch, as their values rise with the cosine.

    Args:
        model, mode, weight_scale, blur: See :func:`activate`. The test data are those
            of the model's config, encoded whole.

    Returns:
        ``accuracy``, and by ``chance``, in percent; the number of ``pairs`` of an image
        and a class that it has (:func:`pacl_mmseg.evaluation.pointing.pointing`).
    """
    bank = _text_head(model).text_bank
    loader = model.cfg.test_dataloader
    dataset = DATASETS.build(loader.dataset)

    def encode(inputs: Tensor) -> list[Tensor]:
        maps = _maps(model, inputs, bank.embeddings, mode, weight_scale, blur)
        return [bank.merge(maps)]

    results = [
        pointing(item.maps[0], item.classes, dataset.ignore_index)
        for item in encode_images(
            dataset, loader, model.data_preprocessor, model.backbone, encode
        )
    ]
    _, hits, chance = (
        torch.cat(of_images).double() for of_images in zip(*results, strict=True)
    )
    return dict(
        accuracy=100 * float(hits.mean()),
        chance=100 * float(chance.mean()),
        pairs=len(hits),
    )


def _text_head(model: EncoderDecoder) -> ZeroShotTextHead:
    head = model.decode_head
    if not isinstance(head, ZeroShotTextHead) or head.compatibility.takes_words:
        raise TypeError(
            'Activation maps are of a ZeroShotTextHead that compares patches with an '
            'embedding of each text, which the decode head of this model is not.'
        )
    return head


def _maps(
    model: EncoderDecoder,
    inputs: Tensor,
    texts: Tensor,
    mode: str,
    weight_scale: float | None,
    blur: float,
) -> Tensor:
    """``(N, K, h, w)`` of images as the data preprocessor gives them."""
    head = model.decode_head
    own = head.compatibility
    if weight_scale is None and own.mode == mode:
        weight_scale = own.weight_scale
    return activation_map(
        _tokens(model, inputs), texts, mode=mode, weight_scale=weight_scale, blur=blur
    )


def _load(model: EncoderDecoder, image: str) -> tuple[Tensor, Tensor]:
    """An image file, resized, and as the data preprocessor gives it."""
    data = Compose(model.cfg.test_pipeline)(dict(img_path=image))
    batch = {key: [value] for key, value in data.items()}
    return data['inputs'], model.data_preprocessor(batch, False)['inputs']


def _tokens(model: EncoderDecoder, inputs: Tensor) -> Tensor:
    """``(N, D, h, w)`` of images as the data preprocessor gives them."""
    if not isinstance(model.decode_head, ZeroShotTextHead):
        raise ValueError(
            'Tokens are those that a ZeroShotTextHead compares with texts; the decode '
            f'head of this model is a {type(model.decode_head).__name__}.'
        )
    return model.decode_head.tokens(model.extract_feat(inputs))[0]
