"""Whole images by class name or caption, with the parts that segment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import mmpretrain.registry
import torch
from mmengine.dist import get_world_size
from mmengine.model import BaseModel
from mmpretrain.structures import DataSample
from torch import Tensor

from pacl_mmseg.models.decode_heads import ZeroShotTextHead
from pacl_mmseg.models.encoder import with_encoder
from pacl_mmseg.registry import MODELS


@MODELS.register_module()
@mmpretrain.registry.MODELS.register_module()
class ZeroShotClassifier(BaseModel):
    """Classifies images by their compatibility with the names of classes.

    A class scores ``logit_scale * compatibility(image, class embedding)``, by its best
    name where it has several. ``decode_head.compatibility`` says how the image is
    pooled: by ``softmax``, as PACL trains it, anew for every class; ``cls`` with
    ``backbone.output_cls_token=True`` takes the class token, and is CLIP's own
    zero-shot classifier where the backbone gives ``output='projection'`` and there is
    no neck; ``mean``, the mean of the patches.

    Parts have the names that they have in :class:`ZeroShotSegmentor`, so that one
    checkpoint serves both. Data, loops and metrics are those of MMPretrain, in whose
    registry it is too: ``Accuracy`` for classes, ``RetrievalTestLoop`` with
    ``RetrievalRecall`` for captions. It is no ``BaseClassifier`` of MMPretrain's, whose
    models cannot be imported beside transformers 5.

    Args:
        backbone, neck, decode_head, data_preprocessor: As in
            :class:`ZeroShotSegmentor`; the head is a :class:`ZeroShotTextHead`.
        encoder: As there.
        train_cfg, test_cfg, pretrained: None; MMSeg's ``init_model`` gives them.

    Raises:
        ValueError: Another head, options of segmentors, or ``own_caption`` pooling.
    """

    def __init__(
        self,
        backbone: dict,
        decode_head: dict,
        neck: dict | None = None,
        encoder: Mapping | None = None,
        data_preprocessor: dict | None = None,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        pretrained: None = None,
        init_cfg: dict | None = None,
    ) -> None:
        unused = dict(train_cfg=train_cfg, test_cfg=test_cfg, pretrained=pretrained)
        for name, options in unused.items():
            if options:
                raise ValueError(
                    f'A ZeroShotClassifier has no {name}, which is for segmentors: set '
                    f'model.{name}=None.'
                )
        parts = dict(backbone=backbone, neck=neck, decode_head=decode_head)
        parts = with_encoder(dict(parts, data_preprocessor=data_preprocessor), encoder)
        # The parts' types are named as in an MMSeg config, whatever the runner's scope.
        with MODELS.switch_scope_and_registry('mmseg'):
            super().__init__(parts.data_preprocessor, init_cfg)
            self.backbone = MODELS.build(parts.backbone)
            self.neck = None if neck is None else MODELS.build(parts.neck)
            self.decode_head = MODELS.build(parts.decode_head)
        if not isinstance(self.decode_head, ZeroShotTextHead):
            raise ValueError(
                'ZeroShotClassifier needs a ZeroShotTextHead, not a '
                f'{type(self.decode_head).__name__}.'
            )
        if self.decode_head.compatibility.pooling != 'pairwise':
            raise ValueError(
                "pooling='own_caption' pools an image for its own text, which is not "
                'known when testing: set decode_head.compatibility.pooling=pairwise.'
            )

    def extract_feat(self, inputs: Tensor) -> tuple[Tensor | list[Tensor], ...]:
        """Feature maps of images ``(N, 3, H, W)``, of the neck if there is one."""
        maps = self.backbone(inputs)
        return maps if self.neck is None else self.neck(maps)

    def forward(
        self,
        inputs: Tensor,
        data_samples: Sequence[DataSample] | None = None,
        mode: str = 'tensor',
    ) -> dict[str, Tensor] | list[DataSample]:
        """What MMPretrain's runner and loops call.

        Args:
            inputs: Preprocessed images ``(N, 3, H, W)``.
            data_samples: Their data samples, with captions for mode ``loss``.
            mode: ``tensor``, ``predict`` or ``loss``.

        Returns:
            Of ``tensor``: ``tokens (N, T, D)`` and, of a backbone that gives it,
            ``cls_tokens (N, D)``; of ``predict``, see :meth:`predict`; of ``loss``, see
            :meth:`ZeroShotTextHead.loss`.
        """
        if mode == 'predict':
            return self.predict(inputs, data_samples)
        maps = self.extract_feat(inputs)
        if mode == 'loss':
            return self.decode_head.loss(maps, data_samples)
        if mode != 'tensor':
            raise ValueError(f'mode must be tensor, predict or loss, not {mode!r}.')
        tokens, cls_tokens = self.decode_head.image_tokens(maps)
        return dict(tokens=tokens) | (
            {} if cls_tokens is None else dict(cls_tokens=cls_tokens)
        )

    def class_scores(self, inputs: Tensor) -> Tensor:
        """Logits ``(N, C)`` of images ``(N, 3, H, W)``."""
        head = self.decode_head
        bank = head.text_bank
        if head.compatibility.takes_words:
            phi = self._compatibility(self(inputs), head.prompt_words)
            phi = phi.unflatten(1, (-1, len(head.templates))).mean(2)
        else:
            phi = self._compatibility(self(inputs), bank.embeddings)
        return head.logit_scale * bank.merge(phi)

    def predict(
        self, inputs: Tensor, data_samples: Sequence[DataSample] | None = None
    ) -> list[DataSample]:
        """Classify images.

        Args:
            inputs: Preprocessed images ``(N, 3, H, W)``.
            data_samples: Their data samples, which may have a ``gt_label``.

        Returns:
            The samples with ``pred_score``, softmax over all classes ``(C,)``, and
            ``pred_label (1,)``.

        Raises:
            ValueError: A label is none of the vocabulary.
        """
        samples = list(data_samples or [DataSample() for _ in inputs])
        self._check_labels(samples)
        scores = self.class_scores(inputs)
        results = scores.softmax(1), scores.argmax(1, keepdim=True)
        for sample, score, label in zip(samples, *results, strict=True):
            sample.set_pred_score(score).set_pred_label(label)
        return samples

    def predict_all(
        self,
        feats: Mapping[str, Tensor],
        data_samples: Sequence[DataSample],
        num_images: int | None = None,
        num_texts: int | None = None,
    ) -> tuple[list[DataSample], list[DataSample]]:
        """Compare all images with all captions, for ``RetrievalTestLoop``.

        Args:
            feats: What mode ``tensor`` gives of all images.
            data_samples: Of these images, each with its ``captions``.
            num_images, num_texts: As MMPretrain's loop says them; not needed.

        Returns:
            For every image its compatibility with all captions (``pred_score``) and
            which are its own (``gt_label``); and for every caption the same of images.

        Raises:
            RuntimeError: Several processes, of which each has some images only.
        """
        if get_world_size() > 1:
            raise RuntimeError(
                'Retrieval compares all images with all captions in one process: start '
                'it without a launcher.'
            )
        counts = torch.tensor([len(sample.captions) for sample in data_samples])
        owners = torch.arange(len(counts)).repeat_interleave(counts)
        own = torch.arange(len(owners)).split(counts.tolist())
        captions = [text for sample in data_samples for text in sample.captions]
        texts = self.decode_head.embed_texts(captions)
        phi = self._compatibility(feats, texts).cpu()
        of_images, of_texts = (
            [
                DataSample().set_pred_score(row).set_gt_label(label)
                for row, label in zip(scores, labels, strict=True)
            ]
            for scores, labels in ((phi, own), (phi.T, owners[:, None]))
        )
        return of_images, of_texts

    def _compatibility(self, feats: Mapping[str, Tensor], texts: Tensor) -> Tensor:
        """``(N, K)`` of images and unit-length texts ``(K, D)``, in blocks."""
        return self.decode_head.compatibility(
            feats['tokens'], texts, cls_tokens=feats.get('cls_tokens')
        )

    def _check_labels(self, samples: Sequence[DataSample]) -> None:
        labels = [sample.gt_label for sample in samples if 'gt_label' in sample]
        count = self.decode_head.num_classes
        if labels and (largest := int(torch.cat(labels).max())) >= count:
            raise ValueError(
                f'An image has label {largest}, but the vocabulary {count} classes '
                f'(0 to {count - 1}): set model.decode_head.dataset_name (or '
                'vocabulary) to what belongs to the data.'
            )
