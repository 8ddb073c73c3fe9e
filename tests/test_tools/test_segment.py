"""Photos, folders and videos, segmented by words in the small world."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from filelock import FileLock, Timeout
from PIL import Image

from pacl_mmseg import Segmenter
from pacl_mmseg.apis import Segmentation, export
from pacl_mmseg.datasets.small_world import CLASSES, IGNORE_INDEX, render_scene
from pacl_mmseg.paths import CONFIGS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Run a tool in an empty folder; returns what it returns, and what it printed."""
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    monkeypatch.setattr(sys, 'argv', ['tool'])
    monkeypatch.chdir(tmp_path)

    def run(tool: str, *arguments: object) -> tuple[object, str]:
        main = runpy.run_path(str(ROOT / 'tools' / f'{tool}.py'))['main']
        found = main([*map(str, arguments)])
        said = capsys.readouterr()
        return found, said.out + said.err

    return run


def labels(folder: str) -> np.ndarray:
    return np.asarray(Image.open(Path(folder) / 'labels.png'))


def save_scene(path: str, index: int = 0) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(render_scene(index, split='test').image).save(path)


def test_scenes_and_their_words(run):
    files, said = run('scene', '-n', 2, '-o', 'some scenes')
    for index, file in enumerate(files):
        scene = render_scene(index, split='test')
        assert (np.asarray(Image.open(file)) == scene.image).all()
        assert f'{file}: {", ".join(scene.nouns)}\n' in said
    assert "pacl segment 'some scenes' '" in said
    with pytest.raises(ValueError, match='from 1 to'):
        run('scene', '-n', 0)


def test_a_photo(run):
    run('scene', '-n', 1)
    scene = render_scene(0, split='test')
    ok, said = run('segment', 'scenes/scene_0.png', *scene.nouns, '--small-world')
    assert ok
    folder = Path('segmented/scene_0.png')
    assert str(folder) in said
    # The words of the scene are where it has them, but for pixels at edges.
    truth = [scene.nouns.index(CLASSES[c]) for c in np.unique(scene.mask)[:-1]]
    right = np.full(256, IGNORE_INDEX)
    right[np.unique(scene.mask)[:-1]] = truth
    scored = scene.mask != IGNORE_INDEX
    found = labels(folder)
    assert (found == right[scene.mask])[scored].mean() > 0.8
    areas = json.loads((folder / 'areas.json').read_text())['areas']
    for index, word in enumerate(scene.nouns):
        assert areas[word] == pytest.approx((found == index).mean())
        assert f'{areas[word]:6.1%}  {word}' in said
    assert len(list((folder / 'heat_maps').glob('*.png'))) == len(scene.nouns)
    assert (folder / 'overlay.png').is_file()
    assert 'means nothing' not in said
    Image.fromarray(scene.image).resize((96, 80)).save('photo.png')
    said = run('segment', 'photo.png', *scene.nouns, '--small-world')[1]
    assert 'of photos this means nothing' in said


WORDS = ('plain red, red', 'plain blue')


def test_a_folder(run):
    for name in ('a.png', 'a.jpg', 'b c/ä☕.JPG', 'z.png', '.hidden.png', '.h/x.png'):
        save_scene(f'in/{name}')
    Path('in/broken.jpg').write_bytes(Path('in/a.jpg').read_bytes()[:500])
    Path('in/empty.png').touch()
    Path('in/notes.txt').touch()
    os.symlink('../in', 'in/loop')
    os.symlink('nowhere.png', 'in/lost.png')
    save_scene('in/old/x.png/overlay.png')
    record = '{"source": [], "words": [], "files": []}'
    Path('in/old/x.png/segmentation.json').write_text(record)
    Path('in/b c/segmentation.json').write_text('{}')  # of something else
    arguments = ('in', *WORDS, '--small-world', '-o', 'in/out')

    ok, said = run('segment', *arguments)
    assert not ok  # status 1
    good = ['a.jpg', 'a.png', 'b c/ä☕.JPG', 'z.png']
    results = sorted(Path('in/out').rglob('labels.png'))
    assert [str(p.parent.relative_to('in/out')) for p in results] == good
    assert '4 of 7 images are segmented in in/out, 0 of them before.' in said
    assert 'not of images: 2.' in said
    for name in ('broken.jpg', 'empty.png', 'lost.png'):
        assert said.count(f'in/{name}') == 1

    def times() -> dict:
        return {file: file.stat().st_mtime_ns for file in results}

    before = times()
    Path('in/out/z.png/overlay.png').unlink()  # it is not whole any more
    save_scene('in/a.png', 1)  # another photo of this name
    assert (
        '4 of 7 images are segmented in in/out, 2 of them before.'
        in (run('segment', *arguments)[1])
    )
    anew = {file.parent.name for file in results if times()[file] != before[file]}
    assert anew == {'a.png', 'z.png'}

    for name in ('broken.jpg', 'empty.png', 'lost.png'):
        Path('in', name).unlink()
    before = times()
    others = ('--small-world', '-o', 'in/out', '--heat-maps', '1')
    ok, said = run('segment', 'in', 'plain green', 'plain blue', *others)
    assert ok and ' 0 of them before' in said  # these are other words
    assert all(times()[file] != before[file] for file in results)
    (heat_map,) = Path('in/out/a.png/heat_maps').iterdir()  # and none of the first ones
    assert 'green' in heat_map.name or 'blue' in heat_map.name
    assert run('segment', 'in', 'plain green', 'plain blue', *others)[1].startswith(
        '4 of 4 images are segmented in in/out, 4 of them before.'
    )


def test_a_model_of_the_hub_that_changed(run, tmp_path, monkeypatch):
    world = CONFIGS / 'small_world'
    export(world / 'pacl.py', world / 'pacl.safetensors', 'model')
    save_scene('a.png')
    # As its cache has it.
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path))
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    kept = Path('models--user--name')
    (kept / 'refs').mkdir(parents=True)
    for commit, before in (('a' * 40, False), ('a' * 40, True), ('b' * 40, False)):
        shutil.copytree('model', kept / 'snapshots' / commit, dirs_exist_ok=True)
        (kept / 'refs/main').write_text(commit)
        said = run('segment', 'a.png', *WORDS, '--method', 'hf-hub:user/name')[1]
        assert said.startswith('Finished before') == before


def test_the_pictures_threshold_and_the_models_size(run):
    save_scene('a.png')
    arguments = ('a.png', *WORDS, '--small-world', '--threshold', 1, '--short-side')
    segmenter = Segmenter('pacl', world='small')
    for side in (64, 128):  # the second is no result of the first
        assert run('segment', *arguments, side)[0]
        result = segmenter('a.png', WORDS, short_side=side)
        assert (labels('segmented/a.png') == result.labels).all()
        picture = np.asarray(Image.open('segmented/a.png/overlay.png').convert('RGB'))
        assert (picture == np.asarray(result.picture(threshold=1))).all()
    assert (picture != np.asarray(result.picture())).any()
    assert run('segment', *arguments, 128)[1].startswith('Finished before')
    with pytest.raises(ValueError, match='short_side is from 32'):
        run('segment', *arguments, 8)
    with pytest.raises(ValueError, match='--threshold is from 0 to 1, not 2'):
        run('segment', 'a.png', *WORDS, '--threshold', 2)


def test_two_runs_do_not_write_at_once(run, monkeypatch):
    save_scene('a.png')
    save = Segmentation.save

    def while_others_wait(*args):
        with pytest.raises(Timeout):
            FileLock('out/.lock').acquire(timeout=0)
        return save(*args)

    monkeypatch.setattr(Segmentation, 'save', while_others_wait)
    assert run('segment', 'a.png', *WORDS, '--small-world', '-o', 'out')[0]
    FileLock('out/.lock').acquire(timeout=0).lock.release()


def test_a_video(run):
    size = (96, 64)
    codec = cv2.VideoWriter_fourcc(*'mp4v')
    writer = cv2.VideoWriter('a b.mp4', codec, 10, size)
    for index in range(3):
        picture = cv2.resize(render_scene(index, split='test').image, size)
        writer.write(np.ascontiguousarray(picture[..., ::-1]))
    writer.release()
    arguments = ('a b.mp4', *WORDS, '--small-world', '--heat-maps', 1)
    assert run('segment', *arguments)[0]
    folder = Path('segmented/a b.mp4')
    # As each frame is by itself.
    capture, shares = cv2.VideoCapture('a b.mp4'), []
    segmenter = Segmenter('pacl', world='small')
    for index in range(3):
        result = segmenter(capture.read()[1][..., ::-1], WORDS)
        frame = np.asarray(Image.open(folder / 'labels' / f'{index:06}.png'))
        assert (frame == result.labels).all()
        shares.append(result.areas['plain red'])
    summary = json.loads((folder / 'areas.json').read_text())
    assert summary['areas']['plain red'] == pytest.approx(np.mean(shares))
    assert (summary['frames'], summary['frames_per_second']) == (3, 10)
    for name in ('overlay.mp4', 'heat_maps/001_plain_red.mp4'):
        written, frames = cv2.VideoCapture(str(folder / name)), 0
        while written.read()[0]:
            frames += 1
        assert frames == 3
        assert written.get(cv2.CAP_PROP_FPS) == 10
    assert not (folder / 'heat_maps' / '002_plain_blue.mp4').exists()
    assert run('segment', *arguments)[1].startswith('Finished before')

    whole = Path('a b.mp4').read_bytes()
    Path('cut.mp4').write_bytes(whole[: len(whole) // 3])
    with pytest.raises(ValueError, match=r'cut\.mp4 (is damaged|has no frame)'):
        run('segment', 'cut.mp4', *WORDS, '--small-world')
    assert not list(Path('segmented/cut.mp4').rglob('*.mp4'))


def test_what_is_refused(run):
    save_scene('a.png')
    small = ('--small-world', '-o')
    with pytest.raises(FileNotFoundError, match='There is no file or folder b'):
        run('segment', 'b', *WORDS)
    with pytest.raises(FileNotFoundError, match='There is no file or folder b'):
        run('compare', 'b', *WORDS)
    for tool in ('segment', 'compare'):
        with pytest.raises(ValueError, match='download it first'):
            run(tool, 'https://example.org/a.jpg', *WORDS)
    with pytest.raises(ValueError, match=r'results of a\.png .* give another folder'):
        run('segment', 'a.png', *WORDS, *small, '.')
    with pytest.raises(ValueError, match='at least two words'):
        run('segment', 'a.png', 'cat')
    with pytest.raises(ValueError, match='heat-maps'):
        run('segment', 'a.png', *WORDS, '--heat-maps', -1)
    Path('file').touch()
    for tool, *given in (
        ('segment', 'a.png', *WORDS, *small, 'file'),
        ('scene', '-o', 'file/x'),
        ('compare', 'a.png', *WORDS, *small, 'file/x.png'),
    ):
        with pytest.raises(ValueError, match='Nothing can be written to the folder fi'):
            run(tool, *given)
    shutil.copy('a.png', 'b.png')
    Path('a.png').write_bytes(b'no image')
    with pytest.raises(ValueError, match=r'a\.png is damaged'):
        run('segment', 'a.png', *WORDS, *small, 'out')
    Path('empty').mkdir()
    with pytest.raises(ValueError, match='no image in empty'):
        run('segment', 'empty', *WORDS)
