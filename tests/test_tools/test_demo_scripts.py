"""demo/image_demo.py and demo/video_demo.py, with MMSeg's arguments."""

import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest

from pacl_mmseg import Segmenter
from pacl_mmseg.datasets.small_world import render_scene

ROOT = Path(__file__).resolve().parents[2]
WORLD = ROOT / 'configs' / 'small_world'
TRAINED = [str(WORLD / 'pacl.py'), str(WORLD / 'pacl.safetensors')]


def run(script: str, *words: str) -> None:
    runpy.run_path(str(ROOT / 'demo' / script))['main'](words)


@pytest.fixture(scope='module')
def scene():
    return render_scene(1, split='test')


def test_image(scene, tmp_path):
    photo, out = str(tmp_path / 'photo.png'), tmp_path / 'out.png'
    cv2.imwrite(photo, scene.image[..., ::-1])
    words = ['checked purple', 'plain yellow', 'dotted red']
    options = ('--words', *words, '--out-file', str(out), '--opacity', '1')
    run('image_demo.py', photo, *TRAINED, *options)
    # At full opacity pixels have one colour if, and only if, they have one label.
    drawn = cv2.imread(str(out)).reshape(-1, 3)
    labels = Segmenter('pacl', world='small')(scene.image, words).labels.reshape(-1)
    pairs = {(n, *c) for n, c in zip(labels.tolist(), drawn.tolist(), strict=True)}
    found = len(np.unique(labels))
    assert found > 1
    assert len(pairs) == len({pair[1:] for pair in pairs}) == found


def test_video(scene, tmp_path):
    source, out = str(tmp_path / 'in.mp4'), str(tmp_path / 'out.mp4')
    writer = cv2.VideoWriter(source, cv2.VideoWriter_fourcc(*'mp4v'), 5, (64, 64))
    for _ in range(3):
        writer.write(np.ascontiguousarray(scene.image[..., ::-1]))
    writer.release()
    config = str(WORLD / 'naclip.py')  # nothing of it is trained
    run('video_demo.py', source, config, '--output-file', out, '--output-width', '96')
    video = cv2.VideoCapture(out)
    assert video.get(cv2.CAP_PROP_FPS) == 5
    sizes = []
    while (frame := video.read()[1]) is not None:
        sizes.append(frame.shape)
    assert sizes == [(64, 96, 3)] * 3


@pytest.mark.parametrize('words', [(), ('--output-file', 'out.mp4')])
def test_no_video(words, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run('video_demo.py', str(tmp_path / 'none.mp4'), str(WORLD / 'clip.py'), *words)
    message = capsys.readouterr().err
    assert ('cannot be opened' if words else 'give --show') in message
