"""Small World in motion."""

import numpy as np
import pytest

from pacl_mmseg.datasets.small_world import CLASSES, HELD_OUT
from pacl_mmseg.datasets.small_world_clips import Clip, render_clip
from pacl_mmseg.registry import DATASETS


@pytest.fixture(scope='module')
def clips() -> list[Clip]:
    return [render_clip(index) for index in range(30)]


def along(clip: Clip, frame: int) -> tuple[np.ndarray, ...]:
    """Pixels (y, x) of a frame whose source the frame before has, and the sources."""
    y, x = np.mgrid[:64, :64]
    dx, dy = np.moveaxis(clip.flows[frame].astype(int), -1, 0)
    there = (x + dx >= 0) & (x + dx < 64) & (y + dy >= 0) & (y + dy < 64)
    return y[there], x[there], (y + dy)[there], (x + dx)[there]


def test_flow_is_exact(clips):
    differences, still = [], []
    for clip in clips:
        assert clip.images.dtype == np.uint8 and clip.flows.dtype == np.float32
        assert clip.images.shape == (8, 64, 64, 3)
        assert clip.masks.shape == (8, 64, 64)
        for frame in range(1, 8):
            y, x, from_y, from_x = along(clip, frame)
            mask, before = clip.masks[frame], clip.masks[frame - 1]
            same = mask[y, x] == before[from_y, from_x]
            # A thing is where it was, or was hidden there.
            assert same[mask[y, x] != 255].mean() > 0.5
            image, last = (clip.images[f].astype(float) for f in (frame, frame - 1))
            moves = same & ((y != from_y) | (x != from_x))
            if moves.any():
                y, x, from_y, from_x = (a[moves] for a in (y, x, from_y, from_x))
                differences.append(image[y, x] - last[from_y, from_x])
                still.append(image[y, x] - last[y, x])
    # What is left is the camera's noise, of two frames.
    assert np.concatenate(differences).std() == pytest.approx(3.3 * 2**0.5, rel=0.05)
    assert np.concatenate(still).std() > 20


def test_things_move_by_whole_textures(clips):
    speeds = {tuple(v) for clip in clips for v in clip.flows.reshape(-1, 2)}
    assert speeds == {(x, y) for x in (-4.0, 0, 4) for y in (-4.0, 0, 4)}
    for clip in clips:
        assert clip.flows.any()
        assert not (clip.masks[0] == clip.masks[-1]).all()


def test_clips_are_functions_of_their_numbers(clips):
    again = render_clip(7)
    for name in ('images', 'masks', 'flows'):
        assert np.array_equal(getattr(again, name), getattr(clips[7], name))
    others = dict(seed=1), dict(split='val'), dict(frames=4)
    for other in others:
        assert not np.array_equal(render_clip(7, **other).images[0], again.images[0])
    held_out = {CLASSES.index(name) for name in HELD_OUT}
    trained = {
        c for i in range(30) for c in np.unique(render_clip(i, split='train').masks)
    }
    assert not trained & held_out
    assert {c for clip in clips for c in np.unique(clip.masks)} & held_out
    with pytest.raises(ValueError, match="not 'trian'"):
        render_clip(0, split='trian')


def test_dataset_gives_frames_in_order():
    meta = ('clip', 'frame', 'flow')
    dataset = DATASETS.build(
        dict(
            type='SmallWorldClips',
            num_scenes=2,
            frames=3,
            split='val',
            pipeline=[dict(type='PackSegInputs', meta_keys=meta)],
        )
    )
    samples = [dataset[index]['data_samples'] for index in range(len(dataset))]
    assert [(s.clip, s.frame) for s in samples] == [
        (clip, frame) for clip in range(2) for frame in range(3)
    ]
    clip = render_clip(1, split='val', frames=3)
    assert np.array_equal(samples[5].gt_sem_seg.data[0], clip.masks[2])
    assert np.array_equal(samples[5].flow, clip.flows[2])
    image = dataset[5]['inputs'].permute(1, 2, 0).numpy()
    assert np.array_equal(image[..., ::-1], clip.images[2])
    with pytest.raises(ValueError, match='2 frames or more'):
        DATASETS.build(dict(type='SmallWorldClips', num_scenes=2, frames=1))
