"""Pictures of methods side by side; the worst and the best images of a benchmark."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmseg.evaluation import IoUMetric
from PIL import Image

from pacl_mmseg.benchmark import compose
from pacl_mmseg.benchmark.comparison import Row, draw, image_iou, predict
from pacl_mmseg.datasets.small_world import CLASSES, render_scene

ROOT = Path(__file__).resolve().parents[2]
SUBSET = 12


@pytest.fixture
def compare(monkeypatch, tmp_path):
    """Run ``tools/compare.py``; returns the texts of the SVG picture, in order."""
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    monkeypatch.setattr(sys, 'argv', ['tool'])
    monkeypatch.chdir(tmp_path)
    main = runpy.run_path(str(ROOT / 'tools' / 'compare.py'))['main']

    def compare(*arguments: object, out: str = 'new/picture.svg') -> list[str]:
        main([*map(str, arguments), '-o', out])
        content = Path('new/picture.svg').read_text()
        return [text.strip() for text in re.findall(r'<text[^>]*>([^<]*)<', content)]

    return compare


@pytest.fixture(scope='module')
def ious() -> list[float]:
    """Of the first scenes by NACLIP, as MMSeg's own metric has them, one by one."""
    config = compose(
        'naclip', 'small_world', options={'test_dataloader.dataset.indices': SUBSET}
    )
    found = []
    for index, prediction in enumerate(predict(config)):
        scene = render_scene(index, split='test')
        assert prediction.index == index
        assert (prediction.image == scene.image).all()
        assert (prediction.truth == scene.mask).all()
        metric = IoUMetric(iou_metrics=['mIoU'])
        metric.dataset_meta = dict(classes=CLASSES)
        sample = {
            f'{name}_sem_seg': dict(data=torch.as_tensor(values).long())
            for name, values in (('gt', scene.mask), ('pred', prediction.labels))
        }
        metric.process({}, [sample])
        found.append(metric.evaluate(1)['mIoU'])
        assert prediction.iou == pytest.approx(found[-1], abs=0.01)
    return found


def test_iou_of_an_image():
    truth = torch.tensor([[0, 0, 1, 255], [2, 2, 2, 255]])
    labels = torch.tensor([[0, 1, 1, 3], [2, 2, 2, 2]])
    # Of 0 a half, of 1 a half, of 2 all; 3 and the ignored pixels do not count.
    assert image_iou(labels, truth, 5, 255) == pytest.approx(100 * (0.5 + 0.5 + 1) / 3)
    assert np.isnan(image_iou(labels, torch.full_like(truth, 255), 5, 255))


def test_images_of_a_benchmark(compare, ious):
    options = ('--benchmark', 'small_world', '--methods', 'naclip', '--subset', SUBSET)
    texts = compare(*options, '--index', 5, '--worst', 2, '--best', 2)
    order = np.argsort(ious)
    chosen = [*dict.fromkeys([5, *order[:2], *order[-2:]])]
    shown = [int(text.split()[1]) for text in texts if re.match(r'image \d', text)]
    assert shown == chosen
    titles = [text for text in texts if text.startswith('NACLIP')]
    assert [float(text.split()[-1]) for text in titles] == pytest.approx(
        [ious[index] for index in chosen], abs=0.06
    )
    assert texts.count('ground truth') == len(chosen)
    for index in chosen:
        assert {*render_scene(index, split='test').nouns} <= {*texts}


def test_a_photo(compare):
    scene = render_scene(0, split='test')
    Image.fromarray(scene.image).save('a_$x$.png')
    words = [*scene.nouns, '_$\\frac$ <b>']
    texts = compare(
        'a_$x$.png', *words, '--small-world', '--methods', 'clip', 'pacl', 'clip'
    )
    assert texts[:3] == ['a_$x$.png', 'CLIP', 'PACL']
    assert texts[3:] == [*scene.nouns, '_$\\frac$ &lt;b&gt;']


def test_forms_of_files(tmp_path):
    grey = np.full((20, 30, 3), 128, dtype=np.uint8)
    row = Row([('one', grey), ('two', grey)], {str(i): (i, 0, 0) for i in range(40)})
    starts = dict(png=b'\x89PNG', pdf=b'%PDF', svg=b'<?xml')
    for form, start in starts.items():
        draw([row], tmp_path / f'x.{form}')
        assert (tmp_path / f'x.{form}').read_bytes().startswith(start)
    content = (tmp_path / 'x.svg').read_text()
    shown = re.findall(r'>\s*(\d+)</text>', content)
    assert shown == [str(index) for index in range(len(shown))]
    assert f'and {40 - len(shown)} more' in content


@pytest.mark.parametrize(
    'arguments, reason',
    [
        ('a.png cat dog', 'a.gif ends in none of .png, .pdf, .svg'),
        ('a.png cat dog --worst 3', '--worst is for --benchmark'),
        ('--methods clip', 'Give a photo and words, or --benchmark'),
        ('a.png cat dog --benchmark voc20', 'has its own images and classes'),
        ('a.png cat dog --methods klip', "Did you mean 'clip'"),
        ('a.png cat dog --checkpoint pacl=a.pth', 'for methods that are drawn'),
        ('--benchmark small_world', 'Give --index, --worst or --best'),
        ('--benchmark small_world --index 500', 'has images 0 to 499, not 500'),
        (
            '--benchmark small_world --methods clip --checkpoint clip=a.pth',
            'CLIP takes no checkpoint',
        ),
        ('--benchmark small_world --methods nms05', 'Give --checkpoint nms05=FILE'),
    ],
)
def test_what_is_refused(compare, arguments, reason):
    Path('a.png').touch()
    out = 'a.gif' if 'a.gif' in reason else 'a.png'
    with pytest.raises(ValueError, match=reason):
        compare(*arguments.split(), out=out)
