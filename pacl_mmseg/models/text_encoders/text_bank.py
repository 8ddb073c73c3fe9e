"""Text embeddings of a vocabulary, encoded once and kept on disk."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import print_log
from mmengine.utils import track_iter_progress
from torch import Tensor
from torch.nn import functional as F

from pacl_mmseg.models.frozen import weights_fingerprint
from pacl_mmseg.models.necks import PatchEmbedder
from pacl_mmseg.models.text_encoders.open_clip_text_encoder import OpenCLIPTextEncoder
from pacl_mmseg.prompts import Vocabulary, fill_template
from pacl_mmseg.utils import whole_file

_VERSION = 1  # of the files, and of what makes embeddings of names and templates


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

    def merge(self, scores: Tensor, dim: int = 1) -> Tensor:
        """Scores per name to scores per class, along ``dim``: K to C entries.

        A class scores as its best synonym does; one without names, minus infinity.
        """
        if self._one_name_each:
            return scores
        shape = list(scores.shape)
        shape[dim] = self.num_classes
        index = self.class_of.view(
            [-1 if d == dim % scores.ndim else 1 for d in range(scores.ndim)]
        )
        lowest = scores.new_full(shape, -torch.inf)
        return lowest.scatter_reduce(dim, index.expand_as(scores), scores, 'amax')

    @cached_property
    def _one_name_each(self) -> bool:
        return self.class_of.tolist() == list(range(self.num_classes))


@torch.inference_mode(False)  # what is kept is used outside of it too
@torch.no_grad()
def build_text_bank(
    encoder: OpenCLIPTextEncoder,
    vocabulary: Vocabulary,
    templates: Sequence[str],
    projector: PatchEmbedder | None = None,
) -> TextBank:
    """Embed every name of a vocabulary in every template.

    A name's embedding is the mean over templates of its unit-length prompt
    embeddings, normalised again, as in CLIP's zero-shot classifier. With a text
    projector these are of :func:`project_texts`.

    What a frozen encoder, and a projector of the same weights, make of the same names
    and templates is read from
    ``$PACL_CACHE_DIR`` (default ``~/.cache/pacl_mmseg/text_banks``; empty keeps
    nothing). A folder that cannot be used costs time and a warning, never the result.
    """
    content = encoder, vocabulary.names, templates, projector
    folder = os.environ.get('PACL_CACHE_DIR', '~/.cache/pacl_mmseg/text_banks')
    if encoder.frozen and folder:
        path = Path(os.path.expanduser(folder), f'{_key(*content)}.npz')
        dims = encoder.embed_dims if projector is None else projector.out_channels
        embeddings = _read(path, (len(vocabulary.names), dims))
        if embeddings is None:
            embeddings = _announced(*content)
            _write(path, embeddings)
    else:
        embeddings = _announced(*content)
    device = next(encoder.parameters()).device
    class_of = torch.tensor(vocabulary.class_of, device=device)
    return TextBank(embeddings.to(device), class_of, len(vocabulary.classes))


class TextMemory:
    """Embeddings of single names in memory, and nothing on disk.

    For vocabularies that change from call to call, such as those that people type.

    Args:
        encoder, projector: See :func:`build_text_bank`; their weights do not change.
        size: Names that are kept, those used last.
    """

    def __init__(
        self,
        encoder: OpenCLIPTextEncoder,
        projector: PatchEmbedder | None = None,
        size: int = 10_000,
    ) -> None:
        self.encoder = encoder
        self.projector = projector
        self.size = size
        self._kept: OrderedDict[tuple, Tensor] = OrderedDict()

    @torch.inference_mode(False)
    @torch.no_grad()
    def bank(self, vocabulary: Vocabulary, templates: Sequence[str]) -> TextBank:
        """As :func:`build_text_bank`; names that are kept are not encoded again."""
        device = next(self.encoder.parameters()).device
        templates, kept = tuple(templates), self._kept
        keys = {name: (name, templates, device) for name in vocabulary.names}
        new = [name for name, key in keys.items() if key not in kept]
        if new:
            rows = _encode(self.encoder, new, templates, self.projector)
            kept.update(
                (keys[name], row.clone()) for name, row in zip(new, rows, strict=True)
            )
        for key in keys.values():
            kept.move_to_end(key)
        embeddings = torch.stack([kept[keys[name]] for name in vocabulary.names])
        while len(kept) > self.size:
            kept.popitem(last=False)
        class_of = torch.tensor(vocabulary.class_of, device=device)
        return TextBank(embeddings, class_of, len(vocabulary.classes))


def project_texts(projector: PatchEmbedder, embeddings: Tensor) -> Tensor:
    """Unit-length texts in the space of the projector.

    Args:
        projector: Of texts, as NMS05/Patch-Aligned-Contrastive-Learning trains one.
        embeddings: ``(N, D)``, as they leave the text tower, of any length: its layer
            norm would feel that they were brought to unit length.

    Returns:
        ``(N, projector.out_channels)``.
    """
    return F.normalize(projector.embed(embeddings).float(), dim=-1)


def _announced(
    encoder: OpenCLIPTextEncoder,
    names: Sequence[str],
    templates: Sequence[str],
    *args: PatchEmbedder | None,
) -> Tensor:
    print_log(
        f'Encoding {len(names) * len(templates):,} prompts ({len(names)} names x '
        f'{len(templates)} templates)',
        logger='current',
    )
    return _encode(encoder, names, templates, *args)


def _encode(
    encoder: OpenCLIPTextEncoder,
    names: Sequence[str],
    templates: Sequence[str],
    projector: PatchEmbedder | None,
) -> Tensor:
    """Unit-length float32 embeddings ``(len(names), D)``."""
    device = next(encoder.parameters()).device
    step = max(encoder.batch_size // len(templates), 1)
    parts = [names[start : start + step] for start in range(0, len(names), step)]
    if len(parts) > 1:
        parts = track_iter_progress(parts, file=sys.stderr)
    means = []
    training = projector is not None and projector.training
    if training:
        projector.eval()  # without dropout: the bank is kept
    with torch.autocast(device.type, enabled=False):  # kept, so not in low precision
        for part in parts:
            prompts = [fill_template(t, name) for name in part for t in templates]
            if projector is None:
                embeddings = encoder(prompts)
            else:
                embeddings = project_texts(projector, encoder(prompts, normalize=False))
            means.append(embeddings.unflatten(0, (len(part), -1)).mean(1))
    if training:
        projector.train()
    return F.normalize(torch.cat(means), dim=-1)


def _key(
    encoder: OpenCLIPTextEncoder,
    names: Sequence[str],
    templates: Sequence[str],
    projector: PatchEmbedder | None,
) -> str:
    """SHA-256 of everything that the embeddings depend on.

    Weights alone do not say what an encoder does: the same ones serve with another
    activation function, number of heads, or precision.
    """
    content = dict(
        version=_VERSION,
        architecture=encoder.architecture,
        weights=encoder.fingerprint(),
        dtype=str(next(encoder.parameters()).dtype),
        names=list(names),
        templates=list(templates),
    )
    if projector is not None:
        # Its repr has what weights do not say: activation, eps of the norm.
        content['projector'] = [repr(projector), weights_fingerprint(projector)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _write(path: Path, embeddings: Tensor) -> None:
    """Keep embeddings for the next time; a warning if that is not possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part:
            np.savez(part, embeddings=embeddings.cpu().numpy())
    except OSError as error:
        print_log(
            f'Text embeddings are not kept: {path.parent} cannot be used ({error}); '
            'set PACL_CACHE_DIR to another folder.',
            logger='current',
            level=logging.WARNING,
        )


def _read(path: Path, shape: tuple[int, int]) -> Tensor | None:
    """The embeddings in a file; None if there is none, or a damaged one (logged)."""
    try:
        with np.load(path) as file:  # a zip file: its checksum is compared
            embeddings = torch.from_numpy(file['embeddings'])
        right = embeddings.shape == shape and embeddings.dtype == torch.float32
        if not right or not ((embeddings.norm(dim=1) - 1).abs() < 1e-3).all():
            raise ValueError('not unit vectors of the names')
    except OSError:
        return None
    except Exception as error:  # of many types, by where the damage is
        print_log(
            f'{path} is damaged, and is written anew ({type(error).__name__}).',
            logger='current',
            level=logging.WARNING,
        )
        return None
    return embeddings
