"""Whether an activation map is highest where its class is."""

from __future__ import annotations

from torch import Tensor


def pointing(
    maps: Tensor, classes: Tensor, ignore_index: int = 255
) -> tuple[Tensor, Tensor, Tensor]:
    """The pointing game on patches, for every class that an image has.

    A class is hit if the most active patch is of it. It is played for classes that some
    patch is of. In the pointing game as published (Zhang et al., 2018) the place is a
    pixel, and may be some pixels away.

    Args:
        maps: ``(C, h, w)`` activation of each class.
        classes: ``(h, w)``, of the patches (:func:`pacl_mmseg.ops.patch_labels`).
        ignore_index: Class of patches that have none.

    Returns:
        Of the M classes played for: which ones ``(M,)``; whether each was hit, ``(M,)``
        bool; and how likely a patch drawn blindly hits it, ``(M,)``.
    """
    played = classes.unique()
    played = played[played != ignore_index]
    peaks = maps.flatten(1)[played].argmax(1)
    hits = classes.flatten()[peaks] == played
    chance = (classes.flatten() == played[:, None]).double().mean(1)
    return played, hits, chance
