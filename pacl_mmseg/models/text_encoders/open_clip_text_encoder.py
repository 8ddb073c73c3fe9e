"""The text tower of an open_clip model."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

import torch
from open_clip.model import CustomTextCLIP
from open_clip.transformer import TextTransformer, text_global_pool
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import record_function

from pacl_mmseg.models.encoder import ENCODER_KEYS
from pacl_mmseg.models.frozen import FrozenModule
from pacl_mmseg.models.open_clip_block import block_runner
from pacl_mmseg.models.open_clip_model import (
    build_open_clip,
    build_tokenizer,
    describe,
    model_config,
)
from pacl_mmseg.models.open_clip_weights import load_projection
from pacl_mmseg.registry import MODELS
from pacl_mmseg.utils.devices import send

# All but cuDNN's, which plans anew for every number and length of texts: those of the
# groups are other ones in every batch.
_ATTENTION = [
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


@MODELS.register_module()
class OpenCLIPTextEncoder(FrozenModule):
    """Texts to L2-normalised embeddings, frozen by default.

    In CLIP's own text tower no token sees a later one and the embedding is read at the
    end-of-text token. So there texts go in groups of similar length, cut behind the
    longest, with the same result; a tower of another kind gets its full context length.

    Args:
        model, pretrained, init_seed: As for :class:`PACLBackbone`, and the same.
        frozen: If False the tower trains.
        dtype: Precision of the frozen tower.
        compile: Compile the frozen tower's blocks; see :class:`PACLBackbone`.
        batch_size: Texts of full length encoded at once; of shorter ones, as many as
            have as many tokens.
        projection: File of the last linear map of a text tower of transformers, whose
            own weights open_clip does not look for: as Sentence-T5's
            ``2_Dense/pytorch_model.bin``; see
            :func:`~pacl_mmseg.models.open_clip_weights.load_projection`. None: as the
            model has it, at random where the tower's weights are those of transformers.
        clip: The open_clip model itself; see :class:`PACLBackbone`.
    """

    encoder_keys, encoder_tower = ENCODER_KEYS, 'text'

    def __init__(
        self,
        model: str | Mapping = 'ViT-B-16-quickgelu',
        pretrained: str | None = None,
        init_seed: int = 0,
        frozen: bool = True,
        dtype: str = 'float32',
        compile: bool = False,
        batch_size: int = 256,
        projection: str | None = None,
        clip: CustomTextCLIP | None = None,
    ) -> None:
        super().__init__(frozen)
        self.architecture = model_config(model)
        self.description = self._describe(model, pretrained, init_seed, projection)
        if 'multimodal_cfg' in self.architecture:
            raise ValueError(
                f'{self.description} is a captioner (CoCa), whose text tower is not '
                'one of a CLIP: take a CLIP, such as ViT-B-16-quickgelu.'
            )
        clip = clip or build_open_clip(model, pretrained, init_seed)
        self.text = clip.text
        if projection is not None:
            load_projection(self.text, os.path.expanduser(projection))
        self.embed_dims = int(clip.text.output_dim)
        self.logit_scale = min(math.exp(clip.logit_scale.item()), 100.0)
        self.batch_size = batch_size
        self.tokenizer = build_tokenizer(model)
        self.freeze(dtype)
        self._cuts = frozen and _can_cut(self.text)
        runner = block_runner(self.text.transformer.resblocks if self._cuts else ())
        # Groups of texts have another size in every batch.
        self._run_block = self.compile_if(compile, runner, dynamic=True)

    def _describe(
        self,
        model: str | Mapping,
        pretrained: str | None,
        init_seed: int,
        projection: str | None,
    ) -> str:
        text = self.architecture['text_cfg']
        name = text.get('hf_model_name')
        own = name and pretrained is None and not isinstance(model, str)
        if not own or not text.get('hf_model_pretrained', True):
            name = describe(model, pretrained, init_seed)
        elif projection is None and text.get('hf_proj_type'):
            name += f' (pretrained, projected at random, seed {init_seed})'
        else:
            name += ' (pretrained)'
        return name if projection is None else f'{name}, projected by {projection}'

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Token ids, int64 ``(len(texts), context length)``; longer texts are cut."""
        return self.tokenizer(list(texts))

    @record_function('text')
    def forward(self, texts: Sequence[str] | Tensor, normalize: bool = True) -> Tensor:
        """Encode texts.

        Args:
            texts: Strings, or token ids ``(N, context length)`` of :meth:`tokenize`:
                best in the host's memory, since their lengths are looked at there.
            normalize: Bring embeddings to unit length.

        Returns:
            Float32 embeddings ``(N, embed_dims)``.
        """
        tokens = texts if isinstance(texts, Tensor) else self.tokenize(texts)
        device = next(self.text.parameters()).device
        full = tokens.shape[1]
        lengths, order = self._lengths(tokens).sort()
        order = send(order, device)
        tokens = send(tokens, device)[order]
        sizes, counts = lengths.unique_consecutive(return_counts=True)
        groups = zip(sizes.tolist(), tokens.split(counts.tolist()), strict=True)
        with self.encoding(), sdpa_kernel(_ATTENTION):
            parts = [
                self._encode(part)
                for length, group in groups
                for part in group[:, :length].split(self.batch_size * full // length)
            ]
        # Out of inference mode: what is made here is an ordinary tensor.
        embeddings = torch.cat(parts)[order.argsort()].float()
        return F.normalize(embeddings, dim=-1) if normalize else embeddings

    @record_function('text')
    def words(self, texts: Sequence[str] | Tensor) -> Tensor:
        """Encode the words of texts, each as the whole text is at its end.

        Args:
            texts: As of :meth:`forward`.

        Returns:
            Float32 ``(N, context length, embed_dims)``, not normalised, zero behind the
            end of a text; at its end what :meth:`forward` normalises.

        Raises:
            ValueError: The text tower is of another kind than CLIP's own.
        """
        if not _can_cut(self.text):
            raise ValueError(
                f'Words are those of a text tower like that of CLIP, unlike that of '
                f'{self.description}: take another encoder, or a compatibility '
                'function that compares whole texts.'
            )
        tokens = texts if isinstance(texts, Tensor) else self.tokenize(texts)
        tokens = send(tokens, next(self.text.parameters()).device)
        with self.encoding(), sdpa_kernel(_ATTENTION):
            parts = [self._words(part) for part in tokens.split(self.batch_size)]
        return torch.cat(parts).float()

    def _words(self, tokens: Tensor) -> Tensor:
        text = self.text
        x = text.token_embedding(tokens) + text.positional_embedding[: tokens.shape[1]]
        if self._cuts:
            for block in text.transformer.resblocks:
                x = self._run_block(block, x, text.attn_mask)
        else:
            x = text.transformer(x, attn_mask=text.attn_mask)
        x = self._project(text.ln_final(x))
        ends = tokens == text.eos_id if text.pool_type == 'eos' else tokens
        end = ends.int().argmax(1, keepdim=True)
        places = torch.arange(tokens.shape[1], device=tokens.device)
        return x * (places <= end)[..., None]

    def _lengths(self, tokens: Tensor) -> Tensor:
        """At how many tokens each text may be cut, ``(N,)`` on the host.

        In steps of 8, so that there are few groups, and what is added costs little.
        """
        if not self._cuts:
            return torch.full((len(tokens),), tokens.shape[1])
        tokens = tokens.cpu()
        if self.text.pool_type == 'eos':
            tokens = (tokens == self.text.eos_id).int()
        needed = tokens.argmax(1) + 1
        return (-(-needed // 8) * 8).clamp_max(tokens.shape[1])

    def _encode(self, tokens: Tensor) -> Tensor:
        """``(N, embed_dims)``, not normalised, of token ids ``(N, L)``."""
        text = self.text
        if not self._cuts:
            return text(tokens)
        length = tokens.shape[1]
        x = text.token_embedding(tokens) + text.positional_embedding[:length]
        mask = text.attn_mask[:length, :length].contiguous()
        for block in text.transformer.resblocks:
            x = self._run_block(block, x, mask)
        x = text_global_pool(x, tokens, text.pool_type, text.eos_id)
        return self._project(text.ln_final(x))

    def _project(self, x: Tensor) -> Tensor:
        projection = self.text.text_projection
        if isinstance(projection, nn.Linear):
            return projection(x)
        return x if projection is None else x @ projection


def _can_cut(text: nn.Module) -> bool:
    """Whether the embedding depends on nothing behind the end of a text."""
    return (
        type(text) is TextTransformer
        and text.attn_mask is not None
        and torch.equal(text.attn_mask.float(), text.build_causal_mask())
        and text.cls_emb is None
        and text.pool_type in ('argmax', 'eos')
        and not text.output_tokens
    )
