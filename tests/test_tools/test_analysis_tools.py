"""The analyses' tools, in this process, in the small world."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pacl_mmseg.datasets.small_world import render_scene

TOOLS = Path(__file__).resolve().parents[2] / 'tools'
FEW = [
    '--cfg-options',
    *('test_dataloader.num_workers=0', 'test_dataloader.dataset.num_scenes=12'),
]
CLIP = 'configs/small_world/clip.py'


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setattr(sys, 'path', [*sys.path, str(TOOLS)])

    def run_tool(name, *arguments):
        path = TOOLS / 'analysis_tools' / f'{name}.py'
        spec = importlib.util.spec_from_file_location(f'tool_{name}', path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.main([str(argument) for argument in arguments])

    return run_tool


def is_picture(path):
    with Image.open(path) as image:
        return np.asarray(image.convert('L')).std() > 5  # not blank


def test_semantic_coherence(run, tmp_path, capsys):
    options = ['--pairs', 20_000, '--bootstrap', 10, '--work-dir', tmp_path, *FEW]
    rows = run('semantic_coherence', CLIP, *options)
    assert [row['layer'] for row in rows] == [1, 2, 3]
    for row in rows:
        assert 0.7 < row['low'] < row['auroc'] < row['high'] < 1
    written = json.loads((tmp_path / 'coherence.json').read_text())
    assert written['layers'] == rows
    assert written['pairs']['same_class'] > 100
    assert is_picture(tmp_path / 'roc.png') and is_picture(tmp_path / 'similarity.png')
    assert 'of 12 images; their tokens of 3 layers take 0 MB' in capsys.readouterr().out


@pytest.mark.parametrize(
    'arguments, message',
    [
        ([CLIP, '--images', 0], '--images must be at least 1, not 0'),
        ([CLIP, '--bootstrap', -1], '--bootstrap must be at least 1, not -1'),
        (['configs/pacl_vitb16_cc12m.py'], 'has no test data'),
        (['configs/pacl_voc20.py', '--data-root', '/nowhere'], 'does not exist: put'),
    ],
)
def test_semantic_coherence_refuses(run, arguments, message, monkeypatch):
    monkeypatch.setenv('PACL_DATA_ROOT', 'data')  # which the option changes
    with pytest.raises((ValueError, OSError), match=message):
        run('semantic_coherence', *arguments)


def test_activation_map(run, tmp_path, capsys):
    scene = tmp_path / 'scene.png'
    Image.fromarray(render_scene(0, split='test').image).save(scene)
    out = tmp_path / 'new' / 'map.png'
    options = ['--mode', 'sigmoid', '--blur', 0.8, '--out', out]
    assert run('activation_map', CLIP, scene, 'a red shape', 'sky', *options) is None
    assert is_picture(out)
    assert 'a red shape: from 0.' in capsys.readouterr().out
    measured = run('activation_map', CLIP, '--pointing', *FEW)
    assert measured['accuracy'] > measured['chance'] > 5


@pytest.mark.parametrize(
    'arguments, message',
    [
        ([CLIP], 'Give an image and at least one prompt, or --pointing alone'),
        ([CLIP, 'x.png'], 'Give an image and at least one prompt'),
        ([CLIP, 'x.png', 'sky', '--pointing'], 'or --pointing alone'),
        ([CLIP, 'x.png', 'sky'], 'There is no image file x.png'),
        ([CLIP, __file__, 'sky'], 'failed to load image: .*py'),
        (['configs/small_world/pacl.py', __file__, 'sky'], 'give the checkpoint'),
    ],
)
def test_activation_map_refuses(run, arguments, message):
    with pytest.raises((ValueError, OSError, AssertionError), match=message):
        run('activation_map', *arguments)


def test_grouping(run, tmp_path, capsys):
    options = ['--groups', 1, 4, '--work-dir', tmp_path, *FEW]
    one, four = run('grouping', CLIP, '--images', 10, *options)
    assert one['tokens'] == one['places alone'] < four['tokens'] < 90
    written = json.loads((tmp_path / 'grouping.json').read_text())
    assert written['rows'] == [one, four] and written['images'] == 10
    assert is_picture(tmp_path / 'grouping.png')
    assert f'10 images with {written["segments"]} segments' in capsys.readouterr().out
    run('grouping', CLIP, '--images', 10, '--all-pixels', *options)
    background = json.loads((tmp_path / 'grouping.json').read_text())
    assert background['segments'] == written['segments'] + 10


def test_feature_pca(run, tmp_path, capsys):
    path = tmp_path / 'pca.png'
    shares = run('feature_pca', CLIP, '--images', 3, '--out', path, *FEW)
    assert 1 > shares[0] > shares[1] > shares[2] > 0 and is_picture(path)
    files = [tmp_path / f'{index}.png' for index in range(3)]
    for index, file in enumerate(files):
        Image.fromarray(render_scene(index, split='test').image).save(file)
    again = run('feature_pca', CLIP, *files, '--out', tmp_path / 'files.png')
    assert again == pytest.approx(shares, abs=1e-5)  # the same scenes
    assert 'of the variance of the tokens' in capsys.readouterr().out


@pytest.mark.parametrize(
    'tool, arguments, message',
    [
        ('grouping', [CLIP, '--groups', 0], '--groups must be at least 1, not 0'),
        ('grouping', [CLIP, '--images', 0], '--images must be at least 1, not 0'),
        ('grouping', ['configs/pacl_vitb16_cc12m.py'], 'has no test data: use one'),
        ('feature_pca', [CLIP, 'none.png'], 'There is no image file none.png'),
        ('feature_pca', [CLIP, '--images', 0], '--images must be at least 1, not 0'),
        ('feature_pca', ['configs/pacl_vitb16_cc12m.py'], 'has no test data: use one'),
    ],
)
def test_bad_input_of_clippys_tools(run, tool, arguments, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(tool, *arguments)
