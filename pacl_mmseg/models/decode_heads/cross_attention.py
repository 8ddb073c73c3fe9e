"""Compatibility of tokens and words that have attended to each other."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import record_function
from torch.utils.checkpoint import checkpoint

from pacl_mmseg.models.losses.info_nce import distinct, repeat
from pacl_mmseg.registry import MODELS
from pacl_mmseg.utils.devices import send

# Pairs x their tokens and words x channels held at once, of which a layer makes about a
# dozen: 4 MiB each in float32 on a CPU, for its caches, 256 MiB elsewhere.
BLOCK_CPU, BLOCK = 2**20, 2**26


@MODELS.register_module()
class CrossAttentionCompatibility(nn.Module):
    """PACL's compatibility, after the tokens and words of a pair have seen each other.

    For every image i and text j a transformer reads the patch tokens of i and the words
    of j as one sequence, as ViLT (Kim et al., ICML 2021) does. What it makes of the
    patch tokens is pooled as in PACL, for what it makes of the end of the text:
    ``a = softmax_k(weight_scale * cos(P_ijk, t_ij))``, ``phi_ij = cos(sum_k a_k P_ijk,
    t_ij)``. To segment, a patch scores ``cos(P_ijk, t_ij)`` for the class of text j.

    The layers begin as the identity, so that training starts at PACL's own
    compatibility. In time it costs what so many sequences of tokens and words cost in
    a transformer; in memory a block of pairs, which backward computes once more.

    Args:
        embed_dims: Channels of tokens and words.
        num_layers: Layers of the transformer.
        num_heads: Heads of its attention.
        mlp_ratio: Hidden channels of its MLPs, as a multiple of ``embed_dims``.
        weight_scale: Factor on similarities before the softmax over patches.
        block: Upper limit of pairs x tokens and words x channels held at once (a block
            has at least one pair). None: 2**20 on a CPU, 2**26 elsewhere.

    Attributes:
        takes_words: True: texts are the words of ``OpenCLIPTextEncoder.words``.
        mode, pooling: What others ask of a compatibility function.
    """

    takes_words = True
    mode = 'cross_attention'
    pooling = 'pairwise'

    def __init__(
        self,
        embed_dims: int,
        num_layers: int = 1,
        num_heads: int = 4,
        mlp_ratio: float = 2.0,
        weight_scale: float = 10.0,
        block: int | None = None,
    ) -> None:
        super().__init__()
        if num_layers < 1 or embed_dims % num_heads:
            raise ValueError(
                f'Cross-attention has 1 layer or more, not {num_layers}, and as many '
                f'heads as divide its {embed_dims} channels, not {num_heads}.'
            )
        if block is not None and block < 1:
            raise ValueError(f'block must be at least 1, not {block}.')
        self.embed_dims = embed_dims
        self.weight_scale = weight_scale
        self.block = block
        # Whether a vector is a token or a word, as ViLT's modal-type embedding.
        self.kinds = nn.Parameter(torch.zeros(2, embed_dims))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                embed_dims,
                num_heads,
                round(mlp_ratio * embed_dims),
                dropout=0.0,
                activation='gelu',
                batch_first=True,
                norm_first=True,
            )
            for _ in range(num_layers)
        )
        for layer in self.layers:
            for last in (layer.self_attn.out_proj, layer.linear2):
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)

    @record_function('phi')
    def forward(
        self,
        patch_tokens: Tensor,
        texts: Tensor,
        offset: int = 0,
        cls_tokens: Tensor | None = None,
        text_ids: Tensor | None = None,
    ) -> Tensor:
        """Compatibility of every image with every text.

        Args:
            patch_tokens: (B, T, D) patch tokens.
            texts: (N, L, D) words, zero behind the end of a text.
            offset, cls_tokens: As of :class:`CompatibilityFunction`; not used.
            text_ids: (N,) int64, equal where texts are: of equal ones it is computed
                once. None: all differ.

        Returns:
            (B, N) cosines, float32.

        Raises:
            ValueError: One vector for each text in place of its words.
        """
        places = None
        if text_ids is not None:
            first, places = distinct(text_ids)
            texts = texts[send(first, texts.device)]
        phi = self._in_blocks(self._pair_compatibility, patch_tokens, texts)
        return phi if places is None else repeat(phi.T, places).T

    def patch_scores(self, patch_tokens: Tensor, texts: Tensor) -> Tensor:
        """Cosine of every patch with every text, after they attended to each other.

        Args:
            patch_tokens: (B, T, D) patch tokens.
            texts: (N, L, D) words, zero behind the end of a text.

        Returns:
            (B, N, T), float32.

        Raises:
            ValueError: As :meth:`forward`.
        """
        return self._in_blocks(self._similarities, patch_tokens, texts)

    def statistics(self, patch_tokens: Tensor, own_texts: Tensor) -> dict[str, Tensor]:
        """Nothing to be logged beside the loss."""
        return {}

    def _in_blocks(
        self, function: Callable[..., Tensor], patch_tokens: Tensor, texts: Tensor
    ) -> Tensor:
        """``function`` of tokens and words, in blocks of images and of texts."""
        if texts.dim() != 3 or texts.shape[2] != self.embed_dims:
            raise ValueError(
                'Cross-attention takes the words of texts, (N, L, '
                f'{self.embed_dims}), not {tuple(texts.shape)}: it serves a '
                'ZeroShotTextHead whose channels are its embed_dims.'
            )
        limit = self.block
        if limit is None:
            limit = BLOCK_CPU if texts.device.type == 'cpu' else BLOCK
        with torch.autocast(texts.device.type, enabled=False):
            patch_tokens, texts = patch_tokens.to(self.kinds), texts.to(self.kinds)
            words = (texts != 0).any(2)
            longest = int(words.sum(1).max())
            texts, words = texts[:, :longest], words[:, :longest]
            length = patch_tokens.shape[1] + longest
            pairs = max(limit // (length * self.embed_dims), 1)
            texts_each = min(pairs, len(texts))
            images_each = pairs // texts_each
            rows = []
            for tokens in patch_tokens.split(images_each):
                row = [
                    checkpoint(
                        function,
                        *(tokens, *part),
                        use_reentrant=False,
                        preserve_rng_state=False,
                    )
                    for part in zip(
                        texts.split(texts_each), words.split(texts_each), strict=True
                    )
                ]
                rows.append(torch.cat(row, 1))
            return torch.cat(rows)

    def _attend(
        self, tokens: Tensor, texts: Tensor, words: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Of all pairs, patches ``(b, n, T, D)`` and unit texts ``(b, n, D)``."""
        count, grid = len(texts), tokens.shape[1]
        pairs = len(tokens) * count
        x = torch.cat(
            [
                (tokens + self.kinds[0]).repeat_interleave(count, 0),
                (texts + self.kinds[1]).repeat(len(tokens), 1, 1),
            ],
            dim=1,
        )
        behind = F.pad(~words, (grid, 0)).repeat(len(tokens), 1)
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=behind)
        end = (grid + words.sum(1) - 1).repeat(len(tokens))
        text = x[torch.arange(pairs, device=x.device), end]
        shape = len(tokens), count
        return (
            x[:, :grid].unflatten(0, shape),
            F.normalize(text, dim=-1).unflatten(0, shape),
        )

    def _similarities(self, tokens: Tensor, texts: Tensor, words: Tensor) -> Tensor:
        patches, text = self._attend(tokens, texts, words)
        return _cosines(patches, text)

    def _pair_compatibility(
        self, tokens: Tensor, texts: Tensor, words: Tensor
    ) -> Tensor:
        patches, text = self._attend(tokens, texts, words)
        weights = (self.weight_scale * _cosines(patches, text)).softmax(-1)
        pooled = torch.einsum('bnt,bntd->bnd', weights, patches)
        return (F.normalize(pooled, dim=-1) * text).sum(-1)


def _cosines(patches: Tensor, text: Tensor) -> Tensor:
    """Of patches ``(b, n, T, D)`` and unit vectors ``(b, n, D)``: ``(b, n, T)``."""
    return torch.einsum('bntd,bnd->bnt', F.normalize(patches, dim=-1), text)
