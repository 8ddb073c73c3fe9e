"""Results on whole images: methods side by side."""

from __future__ import annotations

import json

import pytest

from pacl_mmseg.benchmark import (
    BENCHMARKS,
    CLASSIFICATION,
    CLASSIFIERS,
    IMAGE_LEVEL,
    compose,
    format_protocol,
    read_protocol,
)
from pacl_mmseg.benchmark.image_tables import markdown, table_row, write_tables


def record(subset: int | None = None, **metrics: float) -> dict:
    return dict(metrics=metrics, protocol=dict(subset=subset))


def accuracy(top1: float, **more) -> dict:
    return record(**{'accuracy/top1': top1, 'accuracy/top5': 100.0}, **more)


def test_methods_stand_side_by_side_and_sets_are_averaged(tmp_path):
    rows = [
        table_row('clip', 'cifar10', accuracy(90.0), None),
        table_row('clip_mean', 'cifar10', accuracy(30.25), None),
        table_row('pacl', 'cifar10', accuracy(92.5), None),
        table_row('clip', 'dtd', accuracy(44.0), None),
        table_row('clip_mean', 'dtd', accuracy(20.0), None),
        table_row('pacl', 'dtd', accuracy(42.0), None),
    ]
    assert markdown(rows).splitlines() == [
        '| benchmark       | metric | CLIP (class token) | CLIP (mean patch) | PACL φ '
        '| difference |',
        '|-----------------|--------|-------------------:|------------------:|-------:'
        '|-----------:|',
        '| cifar10         | top-1  |              90.00 |             30.25 |  92.50 '
        '|      +2.50 |',
        '| dtd             | top-1  |              44.00 |             20.00 |  42.00 '
        '|      -2.00 |',
        '| mean of these 2 | top-1  |              67.00 |             25.12 |  67.25 '
        '|      +0.25 |',
    ]
    write_tables(tmp_path, rows)
    assert (tmp_path / 'results.md').read_text() == markdown(rows)
    written = json.loads((tmp_path / 'results.json').read_text())
    assert written[2]['record']['metrics']['accuracy/top5'] == 100.0


def test_what_is_missing_is_no_number():
    recall = {'i2t/retrieval/Recall@1': 10.0, 't2i/retrieval/Recall@10': 20.0}
    rows = [
        table_row('clip', 'cifar10', accuracy(90.0, subset=100), None),
        table_row('pacl', 'cifar10', None, 'no checkpoint (see log.txt)'),
        table_row('clip', 'coco_retrieval', record(**recall), None),
        table_row('pacl', 'coco_retrieval', record(**recall), None),
        table_row('clip', 'dtd', None, None),
        table_row('pacl', 'dtd', None, None),
    ]
    text = markdown(rows)
    lines = [line.split('|')[1:-1] for line in text.splitlines() if '|' in line][2:]
    assert [[cell.strip() for cell in line] for line in lines] == [
        ['cifar10', 'top-1', '90.00', '-', '-'],
        ['coco_retrieval', 'image to text R@1', '10.00', '10.00', '+0.00'],
        ['coco_retrieval', 'text to image R@10', '20.00', '20.00', '+0.00'],
        ['dtd', '', '-', '-', '-'],
    ]
    assert '- cifar10 clip: on the first 100 images alone' in text
    assert '- cifar10 pacl failed: no checkpoint (see log.txt)' in text
    assert 'mean' not in text
    assert 'difference' not in markdown(rows[-1:])


def test_twelve_sets_whose_names_are_their_own():
    assert len(CLASSIFICATION) == 12
    assert not {*IMAGE_LEVEL} & {*BENCHMARKS}
    for name in IMAGE_LEVEL:
        assert compose('pacl', name).benchmark == name


def test_another_encoder_keeps_the_pooling():
    model = compose('clip', 'dtd', encoder='vitl14').model
    assert model.encoder.model == 'ViT-L-14-quickgelu'
    assert model.backbone.output_cls_token and model.neck is None
    assert compose('pacl', 'dtd', encoder='vitl14').model.neck.in_channels == 1024
    with pytest.raises(
        ValueError, match='in the space of the texts, which dino_vitb16 does'
    ):
        compose('clip', 'dtd', encoder='dino_vitb16')
    with pytest.raises(ValueError, match='leave --encoder out'):
        compose('clip', 'small_world_objects', encoder='vitl14')


@pytest.mark.parametrize('method', CLASSIFIERS)
def test_a_result_says_how_images_were_pooled(method):
    protocol = read_protocol(compose(method, 'food101'))
    assert protocol['pooling']['mode'] == dict(
        clip='cls', clip_mean='mean', pacl='softmax'
    ).get(method)
    assert f'pooling mode {protocol["pooling"]["mode"]}' in format_protocol(protocol)
    assert protocol['names'] == protocol['templates'] == 'food101'
    captions = read_protocol(compose(method, 'small_world_retrieval'))
    assert captions['names'] is captions['templates'] is None
    assert 'names' not in format_protocol(captions)
