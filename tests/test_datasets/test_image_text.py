import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pacl_mmseg.datasets import counts
from pacl_mmseg.datasets.counts import sample_counts
from pacl_mmseg.datasets.image_text import CaptionListDataset, CocoCaptionsDataset
from pacl_mmseg.registry import DATASETS

ROOT = Path(__file__).parents[2]
SHARED_DATA = Path(os.environ.get('PACL_SHARED_DATA', ROOT.parent / 'shared' / 'data'))


@pytest.fixture(autouse=True)
def zero_counts():
    sample_counts.reset()


def counted() -> dict[str, int]:
    return {reason: n for reason, n in sample_counts.totals().items() if n}


@pytest.fixture
def messages(monkeypatch) -> list[str]:
    texts = []
    monkeypatch.setattr(counts, 'print_log', lambda text, **_: texts.append(text))
    return texts


def write_coco(folder: Path, captions: dict[str, list[str]]) -> Path:
    images = [dict(id=i, file_name=name) for i, name in enumerate(captions)]
    annotations = [
        dict(id=10 * i + j, image_id=i, caption=caption)
        for i, texts in enumerate(captions.values())
        for j, caption in enumerate(texts)
    ]
    path = folder / 'captions.json'
    path.write_text(json.dumps(dict(images=images, annotations=annotations)))
    return path


def write_image(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 8, 3), value, np.uint8)).save(path)


def pairs(dataset) -> list[tuple[str, str]]:
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    return [
        (info['img_path'], caption) for info in infos for caption in info['captions']
    ]


def test_coco_items(tmp_path):
    write_coco(tmp_path, {'a.jpg': ['one', 'two'], 'b.jpg': [], 'c.jpg': ['three']})
    dataset = CocoCaptionsDataset(
        'captions.json', data_root=str(tmp_path), data_prefix=dict(img_path='images')
    )
    assert len(dataset) == 2
    info = dataset.get_data_info(0)
    assert info['img_path'] == str(tmp_path / 'images' / 'a.jpg')
    assert info['captions'] == ['one', 'two']
    assert info['key'] == 'a'
    assert dataset.get_data_info(1)['captions'] == ['three']


def test_coco_counts_images_without_captions(tmp_path, messages):
    path = write_coco(tmp_path, {'a.jpg': ['x'], 'b.jpg': [' '], 'c.jpg': []})
    assert pairs(CocoCaptionsDataset(str(path))) == [('a.jpg', 'x')]
    assert counted() == {'empty_caption': 2}
    assert messages == [f'empty caption: {path}, {name}.jpg' for name in 'bc']


def test_coco_pipeline_is_found_without_a_runner(tmp_path):
    write_image(tmp_path / 'a.png', 7)
    ann_file = write_coco(tmp_path, {'a.png': ['a  dog']})
    dataset = DATASETS.build(
        dict(
            type='CocoCaptionsDataset',
            ann_file=str(ann_file),
            data_root=str(tmp_path),
            pipeline=[dict(type='LoadPILImage'), dict(type='PickCaption')],
        )
    )
    sample = dataset[0]
    assert sample['caption'] == 'a dog'
    assert (sample['img'] == 7).all()


def test_broken_samples_are_replaced_one_at_a_time(tmp_path):
    write_image(tmp_path / 'good.png', 7)
    (tmp_path / 'bad.png').write_bytes(b'')
    captions = {'bad.png': ['x'], 'missing.png': ['x'], 'good.png': ['fine']}
    dataset = CocoCaptionsDataset(
        str(write_coco(tmp_path, captions)),
        data_root=str(tmp_path),
        pipeline=[dict(type='LoadPILImage')],
    )
    assert [dataset[i]['key'] for i in range(3)] == ['good'] * 3
    totals = sample_counts.totals()
    assert totals['corrupt_image'] >= 1 and totals['missing_file'] >= 1


def test_nothing_usable_is_a_clear_error(tmp_path):
    dataset = CocoCaptionsDataset(
        str(write_coco(tmp_path, {'a.png': ['x'], 'b.png': ['y']})),
        data_root=str(tmp_path / 'elsewhere'),
        pipeline=[dict(type='LoadPILImage')],
        max_refetch=4,
    )
    with pytest.raises(RuntimeError, match=r'5 samples.*5 missing file.*elsewhere'):
        dataset[0]


@pytest.mark.parametrize('kind', [CocoCaptionsDataset, CaptionListDataset])
def test_missing_annotation_file(tmp_path, kind):
    path = str(tmp_path / 'no.csv')
    with pytest.raises(FileNotFoundError, match=r'no\.csv does not exist.*ann_file'):
        kind(path)
    with pytest.raises(FileNotFoundError, match='ann_file'):
        kind('')


@pytest.mark.parametrize(
    'text',
    [
        *('', '[]', '{"images": []}', '{"images": 1, "annotations": []}', '{"ima'),
        '[' * 100_000,
    ],
)
def test_not_a_coco_file(tmp_path, text):
    path = tmp_path / 'broken.json'
    path.write_text(text)
    with pytest.raises(ValueError, match=r'broken\.json is not.*COCO captions'):
        CocoCaptionsDataset(str(path))


def test_coco_file_without_pairs(tmp_path):
    path = write_coco(tmp_path, {'a.jpg': []})
    with pytest.raises(ValueError, match=r'captions\.json holds no usable'):
        CocoCaptionsDataset(str(path))


def test_csv_quoting_by_index(tmp_path):
    path = tmp_path / 'list.csv'
    path.write_text('a.jpg,"a dog, and ""a cat"""\n\nb.jpg,an owl\n')
    dataset = CaptionListDataset(str(path), data_prefix=dict(img_path='images'))
    assert pairs(dataset) == [
        ('images/a.jpg', 'a dog, and "a cat"'),
        ('images/b.jpg', 'an owl'),
    ]
    assert counted() == {}
    assert dataset.get_data_info(0)['key'] == 'a'


def test_tsv_named_columns_in_any_order(tmp_path):
    path = tmp_path / 'list.tsv'
    path.write_text(
        'title\tfilepath\tscore\na dog\ta.jpg\t1\n"a ""big"" cat"\tb.jpg\t2\n'
    )
    dataset = CaptionListDataset(
        str(path), path_column='filepath', caption_column='title'
    )
    assert pairs(dataset) == [('a.jpg', 'a dog'), ('b.jpg', 'a "big" cat')]


def test_tsv_unmatched_quote_does_not_swallow_lines(tmp_path):
    path = tmp_path / 'list.tsv'
    path.write_text('a.jpg\t"the sign said\nb.jpg\ta cow\nc.jpg\t"Hello" she said\n')
    assert pairs(CaptionListDataset(str(path))) == [
        ('a.jpg', '"the sign said'),
        ('b.jpg', 'a cow'),
        ('c.jpg', '"Hello" she said'),
    ]


def test_header_and_byte_order_mark(tmp_path):
    path = tmp_path / 'list.CSV'
    path.write_bytes(b'\xef\xbb\xbfpath,caption\r\na.jpg,a dog\r\n')
    for options in (
        dict(header=True),
        dict(path_column='path', caption_column='caption'),
    ):
        dataset = CaptionListDataset(str(path), **options)
        assert pairs(dataset) == [('a.jpg', 'a dog')]


def test_malformed_rows_and_bad_bytes_are_counted_and_named(tmp_path, messages):
    path = tmp_path / 'list.tsv'
    path.write_bytes(
        b'file\ttext\na.jpg\ta caf\xe9\nb.jpg\nc.jpg\tx\ty\n\t no path\nd.jpg\t \n'
        b'e.jpg\tan eel\nf.j\0pg\tan owl\n'
    )
    dataset = CaptionListDataset(str(path), path_column='file', caption_column='text')
    assert pairs(dataset) == [('a.jpg', 'a caf\ufffd'), ('e.jpg', 'an eel')]
    assert counted() == {'undecodable_text': 1, 'malformed_row': 5}
    assert messages == [
        f'{what}: {path}, line {number}'
        for what, number in [
            *(('undecodable text', 2), ('malformed row', 3), ('malformed row', 4)),
            ('malformed row', 5),
        ]
    ]


@pytest.mark.parametrize('bad', ['bad.jpg,"a dog', 'bad.jpg,"a" dog', 'bad,"'])
def test_a_quote_that_is_not_closed_costs_one_row(tmp_path, messages, bad):
    path = tmp_path / 'list.csv'
    path.write_text(f'x.jpg,5" wide\ny.jpg,"a, b"\n{bad}\nw.jpg,"an owl"\n')
    assert pairs(CaptionListDataset(str(path))) == [
        *(('x.jpg', '5" wide'), ('y.jpg', 'a, b'), ('w.jpg', 'an owl'))
    ]
    assert counted() == {'malformed_row': 1}
    assert messages == [f'malformed row: {path}, line 3']


def test_a_cell_of_several_lines_gives_no_pair(tmp_path):
    path = tmp_path / 'list.csv'
    path.write_text('a.jpg,"two dogs,\nrunning, fast"\nb.jpg,5" wide\n')
    assert pairs(CaptionListDataset(str(path))) == [('b.jpg', '5" wide')]
    assert counted() == {'malformed_row': 2}


@pytest.mark.parametrize('encoding', ['utf-16', 'utf-16-le', 'utf-32'])
def test_another_encoding_is_one_clear_error(tmp_path, encoding):
    path = tmp_path / 'list.csv'
    path.write_text('a.jpg,a dog\nb.jpg,a cat\n', encoding=encoding)
    with pytest.raises(ValueError, match=r'list\.csv holds no usable.*in UTF-8'):
        CaptionListDataset(str(path))
    coco = write_coco(tmp_path, {'a.jpg': ['x']})
    coco.write_text(coco.read_text(), encoding=encoding)
    with pytest.raises(ValueError, match='not a JSON file in the COCO'):
        CocoCaptionsDataset(str(coco))


def test_coco_items_that_are_damaged_are_counted(tmp_path, messages):
    path = write_coco(tmp_path, {'a.jpg': ['x'], 'b.jpg': ['y']})
    content = json.loads(path.read_text())
    bad = [1, None, 'ab', {}, dict(id=[], file_name='c'), dict(id=0, file_name='twice')]
    content['images'] += [*bad, dict(id=7, file_name=3)]
    bad = [[], {}, dict(image_id={}, caption='x'), dict(image_id=1, caption=3)]
    content['annotations'] += [*bad, dict(image_id=1, caption='z')]
    path.write_text(json.dumps(content))
    assert pairs(CocoCaptionsDataset(str(path))) == [
        *(('a.jpg', 'x'), ('b.jpg', 'y'), ('b.jpg', 'z'))
    ]
    assert counted() == {'malformed_row': 7 + 4}
    assert messages[0] == f'malformed row: {path}, image 2'


@pytest.mark.parametrize(
    'name',
    [
        'x\0y.jpg',
        'x\ud83d.jpg',
        'foo://x/y.jpg',
        'http://127.0.0.1:9/y.jpg',
        '.',
        'pipe',
    ],
)
def test_a_path_that_is_no_file_is_a_missing_file(tmp_path, messages, name):
    os.mkfifo(tmp_path / 'pipe')
    write_image(tmp_path / 'a.png', 7)
    dataset = CocoCaptionsDataset(
        str(write_coco(tmp_path, {name: ['x'], 'a.png': ['a dog']})),
        data_root=str(tmp_path),
        pipeline=[dict(type='LoadPILImage')],
    )
    assert dataset[0]['key'] == 'a'
    assert set(counted()) == {'missing_file'}
    assert messages[0].isprintable()


def test_unknown_column_names_those_there_are(tmp_path):
    path = tmp_path / 'list.csv'
    path.write_text('path,caption\na.jpg,x\n')
    with pytest.raises(ValueError, match=r"no column 'title'.*'path', 'caption'"):
        CaptionListDataset(str(path), path_column='path', caption_column='title')
    with pytest.raises(ValueError, match='header'):
        CaptionListDataset(str(path), path_column='path', header=False)


@pytest.mark.parametrize('text', ['', 'path,caption\n', 'only one column\n'])
def test_list_without_pairs(tmp_path, text):
    path = tmp_path / 'empty.csv'
    path.write_text(text)
    with pytest.raises(ValueError, match=r'empty\.csv holds no usable'):
        CaptionListDataset(str(path), header=text.startswith('path'))


@pytest.mark.skipif(
    not (SHARED_DATA / 'coco_captions').is_dir(),
    reason=f'real photographs not found in {SHARED_DATA}; set PACL_SHARED_DATA',
)
def test_real_photographs():
    dataset = CocoCaptionsDataset(
        'captions.json',
        data_root=str(SHARED_DATA / 'coco_captions'),
        data_prefix=dict(img_path='images'),
        pipeline=[
            dict(type='LoadPILImage'),
            dict(type='CLIPResizeCrop', model='ViT-B-16', pretrained='openai'),
            dict(type='PickCaption'),
        ],
    )
    assert len(dataset) == 51
    assert len(pairs(dataset)) == 255
    samples = [dataset[i] for i in range(51)]
    assert {sample['key'] for sample in samples} == {
        dataset.get_data_info(i)['key'] for i in range(51)
    }
    assert all(sample['img'].shape == (224, 224, 3) for sample in samples)
    assert all(len(sample['caption'].split()) > 3 for sample in samples)
    skipped = {'missing_file', 'corrupt_image', 'empty_caption'}
    assert not any(sample_counts.totals()[reason] for reason in skipped)
