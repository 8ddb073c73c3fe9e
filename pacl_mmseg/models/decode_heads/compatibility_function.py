"""The compatibility function as a part of a model."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import record_function

from pacl_mmseg.models.losses.info_nce import distinct, repeat
from pacl_mmseg.ops import (
    MODES,
    compatibility,
    own_caption_compatibility,
    weight_entropy,
)
from pacl_mmseg.ops.compatibility import DEFAULT_WEIGHT_SCALE, MATMUL_DTYPES
from pacl_mmseg.registry import MODELS
from pacl_mmseg.utils.devices import send
from pacl_mmseg.utils.names import check_choice

POOLINGS = ('pairwise', 'own_caption')

# Images whose weights are looked at for the log: enough for a mean.
STATISTICS_IMAGES = 256

# Bounds of a learnt weight scale. At the least one all patches weigh the same to 2 %,
# at the largest a patch outweighs another that is 0.07 less similar a thousand times.
LEAST, LARGEST = 0.01, 100.0


@MODELS.register_module()
class CompatibilityFunction(nn.Module):
    """Compatibility of images and texts, with a weight scale that may be learnt.

    See :mod:`pacl_mmseg.ops.compatibility` for the definitions.

    Args:
        mode: ``softmax`` (PACL), ``sigmoid``, ``max``, ``mean`` or ``cls``.
        weight_scale: Factor on similarities before softmax or sigmoid over patches;
            the initial one if ``learnable``. None: 1 for softmax, 10 for sigmoid.
            Accounts of the paper do not agree on it.
        learnable: Train the factor's logarithm, the parameter ``log_weight_scale``,
            which is then part of the checkpoint. Give it no weight decay, which would
            draw the factor to 1: ``optim_wrapper.paramwise_cfg=dict(custom_keys={
            'log_weight_scale': dict(decay_mult=0.)})``. Otherwise the module has no
            parameters.
        normalize_first: Bring patch tokens to unit length before pooling; by default
            not, as in the paper's figure.
        renormalize: Bring pooled vectors to unit length, as the paper does.
        include_cls: Pool the class token too, as one more patch. kahnchana/clippy
            trains so, with the maximum of 197 tokens, and tests with the 196 patches.
            Not for mode ``cls``.
        pooling: ``pairwise``: anew for each text, as the paper defines it;
            ``own_caption``: once, for an image's own caption, as public
            re-implementations do (modes softmax and sigmoid; for ablations).
        matmul_dtype: Precision of matrix products, ``bfloat16``, ``float16`` or None,
            which rounds nothing; see :func:`pacl_mmseg.ops.compatibility`.

    Raises:
        ValueError: Unknown mode, pooling or option, an option that the mode cannot
            have, or a learnt factor outside of its bounds.
    """

    takes_words = False  # but one embedding for each text

    def __init__(
        self,
        mode: str = 'softmax',
        weight_scale: float | None = None,
        learnable: bool = False,
        normalize_first: bool = False,
        renormalize: bool = True,
        include_cls: bool = False,
        pooling: str = 'pairwise',
        matmul_dtype: str | None = None,
    ) -> None:
        super().__init__()
        check_choice('mode', mode, MODES)
        check_choice('pooling', pooling, POOLINGS)
        check_choice('matmul_dtype', matmul_dtype, (None, *MATMUL_DTYPES))
        self.has_weights = mode in DEFAULT_WEIGHT_SCALE
        if not self.has_weights and (learnable or pooling == 'own_caption'):
            raise ValueError(
                f'Mode {mode!r} weighs no patches: learnable and '
                "pooling='own_caption' are for the modes softmax and sigmoid."
            )
        if include_cls and mode == 'cls':
            raise ValueError("Mode 'cls' pools nothing: leave out include_cls.")
        if weight_scale is None:
            weight_scale = DEFAULT_WEIGHT_SCALE.get(mode)
        self.mode = mode
        self.learnable = learnable
        self.normalize_first = normalize_first
        self.renormalize = renormalize
        self.include_cls = include_cls
        self.pooling = pooling
        self.matmul_dtype = matmul_dtype
        if learnable:
            if not LEAST <= weight_scale <= LARGEST:
                raise ValueError(
                    f'A learnt weight_scale must be from {LEAST} to {LARGEST}, unlike '
                    f'{weight_scale}.'
                )
            log_scale = torch.tensor(math.log(weight_scale), dtype=torch.float32)
            self.log_weight_scale = nn.Parameter(log_scale)
        else:
            self.fixed_weight_scale = weight_scale

    @property
    def weight_scale(self) -> Tensor | float | None:
        """Current factor: a number, or a scalar tensor with gradient if learnable."""
        if not self.learnable:
            return self.fixed_weight_scale
        # The parameter itself is clamped: clamping its exponential would stop the
        # gradient that can bring it back.
        with torch.no_grad():
            self.log_weight_scale.clamp_(math.log(LEAST), math.log(LARGEST))
        return self.log_weight_scale.exp()

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
            texts: (N, D) text embeddings.
            offset: Image i's own text is ``offset + i``; matters to ``own_caption``
                pooling only.
            cls_tokens: (B, D); needed by mode ``cls`` and ``include_cls`` only.
            text_ids: (N,) int64, equal where texts are: of equal ones it is computed
                once. None: all differ.

        Returns:
            (B, N), float32 (float64 for float64 inputs).

        Raises:
            ValueError: No class tokens, where they are needed.
        """
        if self.include_cls:
            if cls_tokens is None:
                raise ValueError(
                    'include_cls pools the class token: set '
                    'model.backbone.output_cls_token=True.'
                )
            patch_tokens = torch.cat([cls_tokens[:, None], patch_tokens], dim=1)
        definition = dict(
            mode=self.mode,
            weight_scale=self.weight_scale,
            normalize_first=self.normalize_first,
            renormalize=self.renormalize,
        )
        own_texts = texts[offset : offset + len(patch_tokens)]
        places = None
        if text_ids is not None:
            first, places = distinct(text_ids)
            # To whole 16 bytes: rows of 16-bit products, which GPUs want aligned.
            first = F.pad(first, (0, -len(first) % 8))
            texts = texts[send(first, texts.device)]
        if self.pooling == 'own_caption':
            phi = own_caption_compatibility(
                patch_tokens, own_texts, texts, **definition
            )
        else:
            phi = compatibility(
                patch_tokens,
                texts,
                cls_tokens=cls_tokens,
                matmul_dtype=self.matmul_dtype,
                **definition,
            )
        return phi if places is None else repeat(phi.T, places).T

    @torch.no_grad()
    def statistics(self, patch_tokens: Tensor, own_texts: Tensor) -> dict[str, Tensor]:
        """How an image's patches are weighted for its own text, to be logged.

        Looks at the first 256 images at most, as it runs in every step.

        Args:
            patch_tokens: (B, T, D) patch tokens.
            own_texts: (B, D) the text of each image.

        Returns:
            Scalars without gradient: ``weight_entropy``, the mean over these images, in
            nats; ``effective_patches``, its exponential, from 1 to T;
            ``weight_scale``, if it is learnt. Empty in modes without weights.
        """
        if not self.has_weights:
            return {}
        scale = self.weight_scale
        entropy = weight_entropy(
            patch_tokens[:STATISTICS_IMAGES],
            own_texts[:STATISTICS_IMAGES],
            mode=self.mode,
            weight_scale=scale,
        ).mean()
        result = dict(weight_entropy=entropy, effective_patches=entropy.exp())
        if self.learnable:
            result['weight_scale'] = scale.detach()
        return result
