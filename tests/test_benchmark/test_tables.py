"""Measured beside published: what is compared, and what the tables say."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from pacl_mmseg.benchmark import BENCHMARKS, METHODS, PROTOCOLS, compose, read_protocol
from pacl_mmseg.benchmark.protocols import read_method
from pacl_mmseg.benchmark.tables import (
    find_published,
    markdown,
    published_figures,
    table_row,
    write_tables,
)


def record(
    method: str, mIoU: float, images: int = 1449, options: dict | None = None
) -> dict:
    """What tools/test.py would write of VOC21."""
    config = compose(method, 'voc21', options=options)
    return dict(
        metrics={'mIoU': mIoU, 'present_classes/mIoU': mIoU + 9},
        method=json.loads(json.dumps(read_method(config))),
        protocol=read_protocol(config),
        images=images,
        images_per_s=3.25,
        peak_memory_mb=2048,
    )


@pytest.fixture(scope='module')
def rows() -> list[dict]:
    sclip = record('sclip', 59.13)
    clip = record('clip', 17.0)
    return [
        table_row('sclip', 'voc21', sclip, None),
        table_row('clip', 'voc21', clip, None),
        table_row('maskclip', 'voc21', None, 'CUDA out of memory (see log.txt)'),
        table_row('naclip', 'voc21', None, None),
    ]


def test_published_figures_are_of_known_things():
    figures = published_figures()
    assert len({(f.method, f.benchmark, f.protocol) for f in figures}) == len(figures)
    for figure in figures:
        assert figure.method in METHODS
        assert figure.benchmark in BENCHMARKS
        assert figure.protocol in ('', *PROTOCOLS)
        assert 0 < figure.mIoU < 100 and figure.source


@pytest.mark.parametrize(
    'method, source, count, mean',
    [  # the averages that the sources give themselves
        ('naclip', 'README of sinahmr/NACLIP', 8, 42.46),
        ('clip', 'SCLIP (ECCV 2024)', 8, 14.1),  # in the abstract
        ('clip', 'ClearCLIP (ECCV 2024), Table 2', 5, 12.6),
        ('sclip', 'ClearCLIP (ECCV 2024), Table 2', 5, 35.2),
        ('clearclip', 'ClearCLIP (ECCV 2024), Table 2', 5, 37.5),
    ],
)
def test_published_figures_have_the_published_mean(method, source, count, mean):
    figures = [
        figure.mIoU
        for figure in published_figures()
        if figure.method == method and figure.source.startswith(source)
    ]
    assert len(figures) == count
    assert sum(figures) / count == pytest.approx(mean, abs=0.05)


def test_a_figure_of_the_same_protocol_is_preferred():
    naclip = read_protocol(compose('naclip', 'ade20k', 'naclip'))
    assert naclip['protocol'] == 'sclip'  # the same settings there
    assert find_published('naclip', 'ade20k', naclip).mIoU == 17.4
    pamr = read_protocol(compose('naclip', 'ade20k', 'naclip_pamr'))
    assert find_published('naclip', 'ade20k', pamr).mIoU == 19.05
    assert find_published('naclip', 'ade847', naclip) is None


def test_difference_under_the_same_protocol_alone(rows):
    sclip, clip, *_ = rows
    assert (sclip['published_mIoU'], sclip['difference']) == (59.63, -0.5)
    assert (clip['published_mIoU'], clip['difference']) == (18.8, None)
    assert 'not known in full' in clip['notes']['published_mIoU']


def test_no_difference_where_something_else_was_measured():
    weights = {'model.encoder.pretrained': 'other.pt'}
    row = table_row('sclip', 'voc21', record('sclip', 59.0, options=weights), None)
    assert (row['published_mIoU'], row['difference']) == (59.63, None)
    assert 'with ViT-B-16-quickgelu (openai)' in row['notes']['published_mIoU']
    other = {'model.backbone.dense_attention': 'clearclip'}
    row = table_row('sclip', 'voc21', record('sclip', 59.0, options=other), None)
    assert row['difference'] is None and row['published_mIoU'] is not None
    assert row['notes']['method'] == 'with options that are not those of sclip'
    part = {'test_dataloader.dataset.indices': 19}
    row = table_row('sclip', 'voc21', record('sclip', 59.0, 19, part), None)
    assert row['difference'] is None
    assert row['notes']['mIoU'] == 'on the first 19 images alone'
    row = table_row('sclip', 'voc21', record('sclip', 59.0, images=19), None)
    assert row['difference'] is None
    assert row['notes']['mIoU'] == 'on 19 images; the split has 1449'


def test_markdown(rows):
    text = markdown(rows)
    header, rule, sclip, clip, maskclip, naclip = text.splitlines()[:6]
    assert 'patch accuracy' not in header  # nobody measured it
    assert len({len(line) for line in (header, rule, sclip, clip, maskclip)}) == 1
    cells = [cell.strip() for cell in sclip.strip('|').split('|')]
    assert cells[:5] == ['voc21', 'sclip', 'sclip [1]', '59.13', '68.13']
    assert cells[5:] == ['59.63 [2]', '-0.50', '3.25', '2048']
    assert '18.8 [3]' in clip
    assert '| failed |' in ' '.join(maskclip.split())
    assert 'failed' not in naclip  # not run yet
    assert '- voc21 maskclip: CUDA out of memory' in text
    assert (
        '\n1. voc21: protocol sclip\n  ViT-B-16-quickgelu (openai), float32\n' in text
    )


def test_all_files_are_written(rows, tmp_path):
    write_tables(tmp_path / 'new', rows)
    names = {'results.json', 'results.md', 'chart.png'}
    assert {file.name for file in (tmp_path / 'new').iterdir()} == names
    assert len(json.loads((tmp_path / 'new' / 'results.json').read_text())) == 4
    with Image.open(tmp_path / 'new' / 'chart.png') as chart:
        assert chart.width > 600
        assert len(chart.convert('RGB').getcolors(2**24)) > 10
    write_tables(tmp_path / 'none', rows[3:])  # before the first result
