"""The order of the frames of a video."""

from __future__ import annotations

from collections.abc import Mapping


def follows(last: tuple | None, meta: Mapping, wanted_by: str) -> bool:
    """Whether a frame comes right after the last one, or begins a clip.

    Args:
        last: ``clip`` and ``frame`` of the last one; None at the beginning.
        meta: Metainfo of this frame, with ``clip`` and ``frame``.
        wanted_by: Who asks, for the messages.

    Returns:
        True if it is the next frame of the same clip, False if it is frame 0 of one.

    Raises:
        ValueError: It is neither, or does not say which frame it is.
    """
    if 'clip' not in meta or 'frame' not in meta:
        raise ValueError(
            f'{wanted_by} goes from frame to frame of a video, and a sample does not '
            'say which one it is: use a dataset that gives clip and frame, such as '
            'SmallWorldClips, and name both in the meta_keys of PackSegInputs.'
        )
    clip, frame = meta['clip'], meta['frame']
    if frame == 0:
        return False
    if last != (clip, frame - 1):
        before = 'the beginning' if last is None else f'frame {last[1]} of {last[0]!r}'
        raise ValueError(
            f'{wanted_by} goes from frame to frame of a video, but frame {frame} of '
            f'clip {clip!r} comes after {before}: test all frames of a clip, from 0 '
            'on, in order and in one process.'
        )
    return True
