"""The text tower of an open_clip model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import open_clip
import torch
from torch import Tensor
from torch.nn import functional as F

from pacl_mmseg.models.frozen import FrozenModule
from pacl_mmseg.models.open_clip_model import build_open_clip, describe, model_config
from pacl_mmseg.registry import MODELS


@MODELS.register_module()
class OpenCLIPTextEncoder(FrozenModule):
    """Texts to L2-normalised embeddings, frozen by default.

    Args:
        model, pretrained, init_seed: As for :class:`PACLBackbone`; give the same.
        frozen: If False the tower trains.
        dtype: Precision of the frozen tower.
        batch_size: Texts encoded at once.
    """

    def __init__(
        self,
        model: str | Mapping = 'ViT-B-16-quickgelu',
        pretrained: str | None = None,
        init_seed: int = 0,
        frozen: bool = True,
        dtype: str = 'float32',
        batch_size: int = 256,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(frozen, init_cfg)
        clip = build_open_clip(model, pretrained, init_seed)
        self.architecture = model_config(model)
        self._description = describe(model, pretrained, init_seed)
        self.text = clip.text
        self.embed_dims = int(clip.text.output_dim)
        self.logit_scale = min(math.exp(clip.logit_scale.item()), 100.0)
        self.batch_size = batch_size
        self.tokenizer = (
            open_clip.get_tokenizer(model)
            if isinstance(model, str)
            else open_clip.SimpleTokenizer(
                context_length=self.architecture['text_cfg'].get('context_length', 77)
            )
        )
        self.freeze(dtype)

    @property
    def description(self) -> str:
        return self._description

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Encode texts; longer ones than the context length are cut.

        Returns:
            Unit-length float32 embeddings ``(len(texts), embed_dims)``.
        """
        device = next(self.text.parameters()).device
        tokens = self.tokenizer(list(texts)).to(device)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            parts = [self.text(part) for part in tokens.split(self.batch_size)]
            return F.normalize(torch.cat(parts).float(), dim=-1)
