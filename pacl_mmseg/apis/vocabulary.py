"""Changing the classes of a model."""

from __future__ import annotations

from collections.abc import Sequence

from mmseg.models import EncoderDecoder

from pacl_mmseg.models import ZeroShotTextHead


def set_vocabulary(
    model: EncoderDecoder,
    vocabulary: Sequence[str | Sequence[str]] | None = None,
    dataset_name: str | None = None,
    templates: str | Sequence[str] | None = None,
) -> None:
    """Segment by other class names from now on.

    Under a background rule (``model.test_cfg.background``) the first class is still the
    background.

    Args:
        model: A segmentor with a :class:`ZeroShotTextHead`, e.g. from ``init_model``.
        vocabulary, dataset_name, templates: See :class:`ZeroShotTextHead`.

    Raises:
        TypeError: The model has another head.
    """
    head = model.decode_head
    if not isinstance(head, ZeroShotTextHead):
        raise TypeError(
            f'A {type(head).__name__} has fixed classes; only a ZeroShotTextHead takes '
            'a vocabulary.'
        )
    head.set_vocabulary(vocabulary, dataset_name, templates)
    # The segmentor counts classes for its sliding windows and names them in pictures.
    model.num_classes = head.num_classes
    model.out_channels = head.out_channels
    model.dataset_meta = head.vocabulary.dataset_meta
