"""Zero-shot segmentation by class name, trained by captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor
from torch.nn import functional as F

from pacl_mmseg.models.decode_heads.compatibility_function import (
    CompatibilityFunction,
)
from pacl_mmseg.models.losses.info_nce import (
    distinct,
    gather_texts,
    repeat,
    text_ids,
)
from pacl_mmseg.models.text_encoders import (
    OpenCLIPTextEncoder,
    TextBank,
    TextMemory,
    build_text_bank,
    project_texts,
)
from pacl_mmseg.prompts import Vocabulary, fill_template, get_templates
from pacl_mmseg.registry import MODELS


@MODELS.register_module()
class ZeroShotTextHead(BaseDecodeHead):
    """Compares patch tokens with texts: captions to train, class names to test.

    Training: ``loss`` is the contrastive loss over the compatibility function of every
    image with every caption of the batch (of all processes). Testing: a class scores
    ``logit_scale * cos(patch token, class embedding)``, upsampled bilinearly.

    Args:
        text_encoder: Config of the text encoder (``OpenCLIPTextEncoder``).
        dataset_name: Take classes and synonyms of this benchmark or MMSeg dataset.
        vocabulary: Or give them: a list whose items are a name, a string of
            comma-separated synonyms, or a list of synonyms. Exactly one of the two.
        templates: Name of a template set (``pacl7``, ``imagenet80``, ``vild``,
            ``photo``, ``plain``) or a list of templates with one ``{}`` each.
        text_projector: Config of a ``PatchEmbedder`` that is trained on the text
            tower's embeddings, before these are brought to unit length. By default
            texts stay where the tower puts them, as in PACL.
        compatibility: Arguments of :class:`CompatibilityFunction` for training, such as
            ``mode``, ``weight_scale``, ``normalize_first``; or with
            ``type='CrossAttentionCompatibility'`` those of
            :class:`CrossAttentionCompatibility`, which changes the scores of patches
            when testing too: a name's is the mean over its templates.
        second_compatibility: Arguments of another :class:`CompatibilityFunction`, whose
            loss is added in training, such as ``mode='cls'`` beside PACL's. By default
            there is none.
        logit_scale: Multiplies cosines when testing; ``'pretrained'`` takes the text
            encoder's own. It moves whatever takes a softmax (background rules, averaged
            probabilities), not the argmax. The default, 40, is the field's most used
            (SCLIP's) protocol.
        loss_decode: Config of the loss.

    Raises:
        ValueError: Bad vocabulary, templates, or channels that do not match.
    """

    def __init__(
        self,
        text_encoder: dict,
        dataset_name: str | None = None,
        vocabulary: Sequence[str | Sequence[str]] | None = None,
        templates: str | Sequence[str] = 'pacl7',
        text_projector: dict | None = None,
        compatibility: dict | None = None,
        second_compatibility: dict | None = None,
        logit_scale: float | str = 40.0,
        loss_decode: dict | None = None,
        in_index: int = -1,
        init_cfg: dict | None = None,
    ) -> None:
        names = resolve_vocabulary(vocabulary, dataset_name)
        encoder = MODELS.build(text_encoder)
        projector = text_projector and MODELS.build(text_projector)
        if projector and projector.in_channels != encoder.embed_dims:
            raise ValueError(
                f'text_projector.in_channels is {projector.in_channels}, but the text '
                f'encoder gives {encoder.embed_dims} channels: set it to that.'
            )
        dims = projector.out_channels if projector else encoder.embed_dims
        super().__init__(
            in_channels=dims,
            channels=dims,
            num_classes=len(names.classes),
            out_channels=len(names.classes),
            dropout_ratio=0,
            in_index=in_index,
            loss_decode=loss_decode or dict(type='InfoNCELoss'),
            init_cfg=init_cfg,
        )
        del self.conv_seg  # texts classify
        self.text_encoder = encoder
        self.text_projector = projector
        self.compatibility = MODELS.build(
            {'type': 'CompatibilityFunction', **(compatibility or {})}
        )
        if projector and self.compatibility.takes_words:
            raise ValueError(
                'text_projector is for embeddings of whole texts, but this '
                'compatibility function takes words: leave one of the two out.'
            )
        self.second_compatibility = None
        if second_compatibility is not None:
            if self.compatibility.takes_words:
                raise ValueError(
                    'second_compatibility is for embeddings of whole texts, but the '
                    'first one takes words: leave it out.'
                )
            self.second_compatibility = CompatibilityFunction(**second_compatibility)
        self.logit_scale = _resolve_scale(logit_scale, encoder)
        self.vocabulary = names
        self.templates = get_templates(templates)
        self.text_memory: TextMemory | None = None  # in place of files
        self._bank: tuple[tuple, TextBank] | None = None
        self._words: tuple[tuple, Tensor] | None = None
        self.register_load_state_dict_post_hook(_forget_texts)

    def set_vocabulary(
        self,
        vocabulary: Sequence[str | Sequence[str]] | None = None,
        dataset_name: str | None = None,
        templates: str | Sequence[str] | None = None,
    ) -> None:
        """Change the classes after construction; arguments as in the constructor.

        The segmentor around this head keeps its own count of classes for sliding
        windows: :func:`pacl_mmseg.apis.set_vocabulary` updates both.
        """
        names = resolve_vocabulary(vocabulary, dataset_name)
        if templates is not None:
            self.templates = get_templates(templates)
        self.vocabulary = names
        self.num_classes = self.out_channels = len(self.vocabulary.classes)

    @property
    def text_bank(self) -> TextBank:
        """Embeddings of the current vocabulary, computed once."""
        key = self._bank_key
        if self._bank is None or self._bank[0] != key:
            if self.text_memory is not None:
                bank = self.text_memory.bank(self.vocabulary, self.templates)
            else:
                bank = build_text_bank(
                    self.text_encoder,
                    self.vocabulary,
                    self.templates,
                    self.text_projector,
                )
            self._bank = (key, bank)
        return self._bank[1]

    @property
    def prompt_words(self) -> Tensor:
        """Words of all prompts of the current vocabulary, computed once.

        Returns:
            ``(K * templates, L, D)``, zero behind the end of a prompt, name by name.
        """
        key = self._bank_key
        if self._words is None or self._words[0] != key:
            prompts = [
                fill_template(template, name)
                for name in self.vocabulary.names
                for template in self.templates
            ]
            parts = []
            for start in range(0, len(prompts), self.text_encoder.batch_size):
                some = prompts[start : start + self.text_encoder.batch_size]
                with torch.no_grad():
                    words = self.text_encoder.words(some)
                longest = int((words != 0).any(2).sum(1).max())
                parts.append(words[:, :longest].clone())  # ends of prompts alone
            longest = max(part.shape[1] for part in parts)
            parts = [F.pad(p, (0, 0, 0, longest - p.shape[1])) for p in parts]
            self._words = (key, torch.cat(parts))
        return self._words[1]

    @property
    def _bank_key(self) -> tuple:
        device = next(self.text_encoder.parameters()).device
        return self.vocabulary, self.templates, device

    def train(self, mode: bool = True) -> ZeroShotTextHead:
        if mode and not (self.text_encoder.frozen and self.text_projector is None):
            self._bank = self._words = None  # its weights are about to change
        return super().train(mode)

    def embed_texts(self, texts: Sequence[str] | Tensor) -> Tensor:
        """What the compatibility function takes of texts.

        Args:
            texts: N strings, or their token ids ``(N, context length)``.

        Returns:
            Unit-length embeddings ``(N, D)`` in the space of the patch tokens, or, if
            it takes words, those of each text ``(N, L, D)``.
        """
        if self.compatibility.takes_words:
            return self.text_encoder.words(texts)
        if self.text_projector is None:
            return self.text_encoder(texts)
        features = self.text_encoder(texts, normalize=False)
        return project_texts(self.text_projector, features)

    def name_scores(self, inputs: Sequence[Tensor | list[Tensor]]) -> Tensor:
        """Scaled cosine of every patch token with every name, before synonyms merge.

        Returns:
            ``(N, K, h, w)`` for K names.
        """
        tokens = self.tokens(inputs)[0]
        if self.compatibility.takes_words:
            scores = self.compatibility.patch_scores(
                tokens.flatten(2).transpose(1, 2), self.prompt_words
            )
            scores = scores.unflatten(1, (-1, len(self.templates))).mean(2)
            return self.logit_scale * scores.unflatten(2, tokens.shape[2:])
        bank = self.text_bank.embeddings.to(tokens.dtype)
        maps = F.normalize(tokens, dim=1)
        return self.logit_scale * torch.einsum('nchw,kc->nkhw', maps, bank)

    def forward(self, inputs: Sequence[Tensor | list[Tensor]]) -> Tensor:
        """Logits ``(N, C, h, w)`` of the classes with names, at token resolution."""
        return self.text_bank.merge(self.name_scores(inputs))

    def loss(
        self,
        inputs: Sequence[Tensor | list[Tensor]],
        batch_data_samples: Sequence | Mapping,
        train_cfg: dict | None = None,
    ) -> dict[str, Tensor]:
        """Contrastive loss of the batch's images and their captions.

        Args:
            inputs: Feature maps of the neck or backbone.
            batch_data_samples: Data samples with a ``caption``; or a dict of the
                batch's ``captions`` and, where they are known already, their
                ``text_tokens (B, L)``, which are then used.

        Returns:
            The loss; the retrieval accuracies in the batch, in percent; and what the
            compatibility function's ``statistics`` gives, of this process' images. Loss
            and accuracies of the second one begin with ``second_``.

        Raises:
            ValueError: No caption for an image.
        """
        tokens, cls_tokens = self.image_tokens(inputs)
        own_ids, own_texts = self._texts(batch_data_samples, len(tokens))
        texts, ids, offset = gather_texts(own_texts, own_ids)
        # Dropout makes equal texts differ.
        equal = ids if self.text_projector is None else None
        phi = self.compatibility(tokens, texts, offset, cls_tokens, equal)
        losses = {
            **self.loss_decode(phi, ids, offset),
            **self.compatibility.statistics(tokens, own_texts),
        }
        if self.second_compatibility is not None:
            phi = self.second_compatibility(tokens, texts, offset, cls_tokens, equal)
            second = self.loss_decode(phi, ids, offset)
            losses.update({f'second_{key}': value for key, value in second.items()})
        return losses

    def image_tokens(
        self, inputs: Sequence[Tensor | list[Tensor]]
    ) -> tuple[Tensor, Tensor | None]:
        """Tokens that images are pooled of.

        Returns:
            Patch tokens ``(N, T, D)``, and ``(N, D)`` class tokens if there are any.

        Raises:
            ValueError: The compatibility function needs class tokens, and there are
                none.
        """
        maps, cls_tokens = self.tokens(inputs)
        functions = self.compatibility, self.second_compatibility
        needed = 'cls' in [getattr(function, 'mode', None) for function in functions]
        if needed and cls_tokens is None:
            raise ValueError(
                "Mode 'cls' of the compatibility function needs the class token: set "
                'model.backbone.output_cls_token=True.'
            )
        return maps.permute(0, 2, 3, 1).flatten(1, 2), cls_tokens

    def _texts(
        self, data_samples: Sequence | Mapping, images: int
    ) -> tuple[Tensor, Tensor]:
        """Ids ``(B,)`` and embeddings of the captions of the images.

        The latter are ``(B, D)``, or the words of each ``(B, L, D)`` if the
        compatibility function takes words.
        """
        known = data_samples if isinstance(data_samples, Mapping) else {}
        captions = (
            known.get('captions', [])
            if isinstance(data_samples, Mapping)
            else [sample.metainfo.get('caption') for sample in data_samples]
        )
        if len(captions) != images or None in captions:
            raise ValueError(
                'ZeroShotTextHead trains on captions, but a data sample has none: use '
                "an image-text dataset, and 'caption' in the meta_keys of "
                'PackSegInputs.'
            )
        # Equal ones, noun prompts above all, are encoded once, unless the dropout of a
        # projector treats them apart.
        ids = text_ids(captions)
        first = places = torch.arange(images)
        if self.text_projector is None:
            first, places = distinct(ids)
        if 'text_tokens' in known:
            texts = known['text_tokens'][first]
        else:
            texts = [captions[index] for index in first]
        rows = self.embed_texts(texts)
        repeated = repeat(rows.flatten(1), places)
        return ids, repeated.unflatten(1, rows.shape[1:])

    def tokens(
        self, inputs: Sequence[Tensor | list[Tensor]]
    ) -> tuple[Tensor, Tensor | None]:
        """The selected feature map ``(N, D, h, w)`` and, if given, ``cls (N, D)``."""
        selected = self._transform_inputs(inputs)
        maps, cls_tokens = (
            selected if isinstance(selected, (list, tuple)) else (selected, None)
        )
        if maps.shape[1] != self.in_channels:
            raise ValueError(
                f'Patch tokens have {maps.shape[1]} channels and texts '
                f'{self.in_channels}: put neck=dict(type="PatchEmbedder", in_channels='
                f'{maps.shape[1]}, out_channels={self.in_channels}) between backbone '
                'and head, or use the backbone\'s output="projection".'
            )
        return maps, cls_tokens


def _forget_texts(head: ZeroShotTextHead, _: object) -> None:
    head._bank = head._words = None


def resolve_vocabulary(
    vocabulary: Sequence[str | Sequence[str]] | None, dataset_name: str | None
) -> Vocabulary:
    """The vocabulary that either of a head's two arguments gives.

    Raises:
        ValueError: Both are given, or none; or it is no vocabulary.
    """
    if (vocabulary is None) == (dataset_name is None):
        raise ValueError('Give either vocabulary or dataset_name.')
    if dataset_name is not None:
        return Vocabulary.from_dataset(dataset_name)
    names = Vocabulary.from_list(vocabulary)
    if len(names.classes) < 2:
        raise ValueError(
            f'With {names.classes[0]!r} alone everything would be that: add a word for '
            "the rest, such as 'background'."
        )
    return names


def _resolve_scale(logit_scale: float | str, encoder: OpenCLIPTextEncoder) -> float:
    if logit_scale == 'pretrained':
        return encoder.logit_scale
    if isinstance(logit_scale, str) or not logit_scale > 0:
        raise ValueError(
            "logit_scale must be a number above 0 or 'pretrained', not "
            f'{logit_scale!r}.'
        )
    return float(logit_scale)
