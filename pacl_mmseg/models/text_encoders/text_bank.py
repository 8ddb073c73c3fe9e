"""Text embeddings of a vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pacl_mmseg.models.text_encoders.open_clip_text_encoder import OpenCLIPTextEncoder
from pacl_mmseg.prompts import Vocabulary


@dataclass(frozen=True)
class TextBank:
    """One embedding per name; a class may have several names (synonyms).

    Attributes:
        embeddings: ``(K, D)``, unit length, one row per name.
        class_of: ``(K,)`` int64, the class of each name.
        num_classes: Number of classes, C <= K.
    """

    embeddings: Tensor
    class_of: Tensor
    num_classes: int

    def merge(self, scores: Tensor) -> Tensor:
        """Scores per name ``(N, K, H, W)`` to scores per class ``(N, C, H, W)``.

        A class scores as its best synonym does.
        """
        if len(self.class_of) == self.num_classes:
            return scores
        shape = (len(scores), self.num_classes, *scores.shape[2:])
        index = self.class_of.view(1, -1, 1, 1).expand_as(scores)
        lowest = scores.new_full(shape, -torch.inf)
        return lowest.scatter_reduce(1, index, scores, 'amax')


@torch.no_grad()
def build_text_bank(
    encoder: OpenCLIPTextEncoder, vocabulary: Vocabulary, templates: Sequence[str]
) -> TextBank:
    """Embed every name of a vocabulary in every template.

    A name's embedding is the mean over templates of its unit-length prompt
    embeddings, normalised again, as in CLIP's zero-shot classifier.
    """
    prompts = [t.format(name) for name in vocabulary.names for t in templates]
    device = next(encoder.parameters()).device
    with torch.autocast(device.type, enabled=False):  # kept, so not in low precision
        embeddings = encoder(prompts)
    embeddings = embeddings.unflatten(0, (len(vocabulary.names), len(templates)))
    embeddings = F.normalize(embeddings.mean(1), dim=-1)
    class_of = torch.tensor(vocabulary.class_of, device=embeddings.device)
    return TextBank(embeddings, class_of, len(vocabulary.classes))
