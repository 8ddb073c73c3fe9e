"""Converters, on miniatures of the official downloads."""

from __future__ import annotations

import json
import os
import resource
import runpy
from multiprocessing import get_context
from pathlib import Path

import miniatures
import mmseg
import numpy as np
import pytest
from miniatures import NAMES
from mmseg.datasets import PascalContextDataset
from PIL import Image

from pacl_mmseg.datasets import PascalContext459Dataset
from pacl_mmseg.datasets.preparation import prepare_benchmark
from pacl_mmseg.datasets.preparation.pascal_context import CATEGORIES
from pacl_mmseg.datasets.preparation.writing import Job, write_images

COCO_MASKS = 'coco_stuff164k/annotations/val2017'
VOC2010 = 'VOCdevkit/VOC2010'


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """An empty data root."""
    monkeypatch.setenv('PACL_DATA_ROOT', str(tmp_path))
    return tmp_path


def labels(path: Path) -> np.ndarray:
    return np.array(Image.open(path))


def stamps(folder: Path, pattern: str) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob(pattern)}


@pytest.mark.parametrize('nproc', [1, 2])
def test_coco_stuff(root, nproc):
    miniatures.coco(root)
    summary = prepare_benchmark('coco_stuff171', nproc=nproc)
    assert (summary.written, summary.kept, summary.broken) == (3, 0, ())
    for name, expected in miniatures.COCO_STUFF.items():
        mask = root / COCO_MASKS / f'{name}_labelTrainIds.png'
        assert np.array_equal(labels(mask), expected)


def test_coco_stuff_as_by_mmseg(root):
    """The same masks as its program, of all values that there are."""
    tools = Path(mmseg.__file__).parent / '.mim' / 'tools' / 'dataset_converters'
    converter = runpy.run_path(str(tools / 'coco_stuff164k.py'))
    miniatures.coco(root)
    pixel_map = root / COCO_MASKS / f'{NAMES[0]}.png'
    everything = np.array(list(converter['clsID_to_trID']), np.uint8)
    miniatures.save(np.stack([everything, everything[::-1]]), pixel_map)
    prepare_benchmark('coco_stuff171')
    (root / 'val2017').mkdir()
    converter['convert_to_trainID'](str(pixel_map), str(root), is_train=False)
    mask = f'{NAMES[0]}_labelTrainIds.png'
    expected = labels(root / 'val2017' / mask)
    assert np.array_equal(labels(root / COCO_MASKS / mask), expected)


def test_coco_object_from_pixel_maps(root):
    miniatures.coco(root)
    prepare_benchmark('coco_stuff171')  # its masks are not taken for pixel maps
    summary = prepare_benchmark('coco_object')
    assert (summary.written, summary.broken) == (3, ())
    for name, expected in miniatures.COCO_OBJECT.items():
        mask = root / COCO_MASKS / f'{name}_instanceTrainIds.png'
        assert np.array_equal(labels(mask), expected)


def test_coco_object_masks_of_instances(root):
    miniatures.coco(root)
    note = root / COCO_MASKS / '.coco_object_source'
    old = root / COCO_MASKS / '000000000001_instanceTrainIds.png'
    for path in (note, old):
        path.write_text('instances\n')
    assert prepare_benchmark('coco_stuff171').written == 3  # beside them
    with pytest.raises(ValueError, match='not drawn from pixel maps.*--overwrite'):
        prepare_benchmark('coco_object')
    assert note.exists() and old.exists()
    assert prepare_benchmark('coco_object', overwrite=True).written == 3
    assert not note.exists() and not old.exists()
    note.write_text('pixel maps\n')
    assert prepare_benchmark('coco_object').kept == 3


def test_images_of_another_split_are_skipped(root):
    miniatures.coco(root)
    images = root / 'coco_stuff164k' / 'images' / 'val2017'
    (images / f'{NAMES[0]}.jpg').unlink()
    summary = prepare_benchmark('coco_stuff171')
    assert summary.written == 2
    for image in images.iterdir():
        image.unlink()
    with pytest.raises(ValueError, match='None of the 3 annotated images is in '):
        prepare_benchmark('coco_object')


@pytest.mark.parametrize(
    'content',
    [
        dict(images=[], annotations=[dict(image_id=1, caption='A cup')]),
        dict(images=[dict(id=1)], annos_segmentation=[]),
        dict(annos_segmentation=[]),
        [1, 2],
    ],
    ids=['captions', 'no phase', 'no images', 'list'],
)
def test_annotation_of_another_kind(root, content):
    pytest.importorskip('pycocotools')
    path = root / 'another.json'
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match='another.json is another kind of annotation'):
        prepare_benchmark('context60', path)


def test_annotations_in_a_shared_folder(root, tmp_path_factory):
    """Images linked, pixel maps read where they are, and nothing written there."""
    shared = tmp_path_factory.mktemp('shared')
    miniatures.coco(shared)
    before = stamps(shared / COCO_MASKS, '*')
    images = 'coco_stuff164k/images'
    (root / images).mkdir(parents=True)
    (root / images / 'val2017').symlink_to(shared / images / 'val2017')
    summary = prepare_benchmark('coco_object', shared / COCO_MASKS)
    assert summary.written == 3
    assert stamps(shared / COCO_MASKS, '*') == before


@pytest.mark.parametrize('benchmark', ['context59', 'context60'])
def test_context(root, benchmark):
    pytest.importorskip('pycocotools')
    miniatures.context(root)
    summary = prepare_benchmark(benchmark)
    assert (summary.written, summary.broken) == (3, ())
    for name, expected in miniatures.CONTEXT.items():
        mask = root / VOC2010 / 'SegmentationClassContext' / f'{name}.png'
        assert np.array_equal(labels(mask), expected)
    split = root / VOC2010 / 'ImageSets' / 'SegmentationContext' / 'val.txt'
    assert split.read_text().split() == list(NAMES)


def test_the_59_are_named_as_among_the_459():
    everything = PascalContext459Dataset.METAINFO['classes']
    classes = PascalContextDataset.METAINFO['classes'][1:]
    assert tuple(everything[category - 1] for category in CATEGORIES) == classes


def test_context459(root):
    miniatures.context459(root)
    miniatures.context_split(root)
    summary = prepare_benchmark('pc459')
    assert (summary.written, summary.broken) == (3, ())
    for name, expected in miniatures.CONTEXT459.items():
        path = root / VOC2010 / 'annotations_detectron2' / 'pc459_val' / f'{name}.tif'
        assert labels(path).dtype == np.uint16
        assert np.array_equal(labels(path), expected)


def test_context459_finds_its_split(root):
    miniatures.context459(root)
    image = dict(image_id=1, height=24, width=32)
    images = [dict(image, file_name=f'{name}.jpg', phase='val') for name in NAMES]
    images.append(dict(image, file_name='another.jpg', phase='train'))
    annotation = dict(images=images, annos_segmentation=[])
    path = root / VOC2010 / 'trainval_merged.json'
    path.write_text(json.dumps(annotation))
    assert prepare_benchmark('pc459').written == 3
    split = root / VOC2010 / 'ImageSets' / 'SegmentationContext' / 'val.txt'
    split.write_text('another')
    assert prepare_benchmark('pc459').kept == 3
    assert split.read_text().split() == list(NAMES)
    split.unlink()
    path.write_text(json.dumps(annotation)[:-10])
    with pytest.raises(ValueError, match='trainval_merged.json is damaged or half-do'):
        prepare_benchmark('pc459')


def test_ade847(root):
    miniatures.ade847(root)
    summary = prepare_benchmark('ade847')
    assert (summary.written, summary.broken) == (6, ())
    folder = root / 'ADE20K_2021_17_01'
    masks = folder / 'annotations_detectron2' / 'validation'
    images = folder / 'images_detectron2' / 'validation'
    large = labels(masks / 'ADE_val_00000001.tif')
    small = labels(masks / 'ADE_val_00000002.tif')
    assert small.dtype == np.uint16 and np.array_equal(small, miniatures.ADE847)
    assert Image.open(images / 'ADE_val_00000002.jpg').size == (32, 24)
    # 800 x 600, scaled to a short side of 512; stripes stay stripes.
    assert large.shape == (512, 683)
    assert Image.open(images / 'ADE_val_00000001.jpg').size == (683, 512)
    assert np.array_equal(large[256, 20::137], [65535, 0, 846, 14, 65535])


def test_cityscapes(root):
    pytest.importorskip('cityscapesscripts')
    miniatures.cityscapes(root)
    summary = prepare_benchmark('cityscapes')
    assert (summary.written, summary.broken) == (3, ())
    folder = root / 'cityscapes' / 'gtFine' / 'val' / 'frankfurt'
    for name in NAMES:
        mask = folder / f'frankfurt_000000_{name[-6:]}_gtFine_labelTrainIds.png'
        assert np.array_equal(labels(mask), miniatures.CITYSCAPES)


def test_a_second_run_keeps_what_is_there(root):
    miniatures.coco(root)
    prepare_benchmark('coco_object')
    folder = root / COCO_MASKS
    (folder / f'{NAMES[1]}_instanceTrainIds.png').unlink()
    before = stamps(folder, '*')
    summary = prepare_benchmark('coco_object')
    assert (summary.written, summary.kept) == (1, 2)
    after = stamps(folder, '*')
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 1
    summary = prepare_benchmark('coco_object', overwrite=True)
    assert (summary.written, summary.kept) == (3, 0)
    assert str(summary).startswith('3 files written, 0 were there already, 0 have')


def test_broken_inputs_are_named_and_do_not_stop_the_others(root):
    miniatures.coco(root)
    folder = root / COCO_MASKS
    cut = folder / f'{NAMES[0]}.png'
    cut.write_bytes(cut.read_bytes()[:60])
    miniatures.save(miniatures.blocks(0, 200), folder / f'{NAMES[2]}.png')
    summary = prepare_benchmark('coco_object')
    assert (summary.written, len(summary.broken)) == (1, 2)
    assert summary.broken[0].startswith(f'{NAMES[0]}_instanceTrainIds.png: ')
    assert 'the values [200] are none of COCO-Stuff' in summary.broken[1]
    assert NAMES[2] in str(summary)
    assert {path.name for path in folder.glob('*TrainIds*')} == {
        f'{NAMES[1]}_instanceTrainIds.png'
    }


def test_broken_and_missing_label_maps(root):
    miniatures.context459(root)
    miniatures.context_split(root)
    (root / VOC2010 / 'trainval' / f'{NAMES[1]}.mat').write_bytes(b'MATLAB 5.0')
    (root / VOC2010 / 'trainval' / f'{NAMES[2]}.mat').unlink()
    summary = prepare_benchmark('pc459')
    assert [line.partition(':')[0] for line in summary.broken] == [
        f'{name}.tif' for name in NAMES[1:]
    ]
    assert f'trainval/{NAMES[2]}.mat' in summary.broken[1]


def test_unknown_label_of_cityscapes(root):
    pytest.importorskip('cityscapesscripts')
    miniatures.cityscapes(root)
    folder = root / 'cityscapes' / 'gtFine' / 'val' / 'frankfurt'
    path = sorted(folder.glob('*.json'))[0]
    path.write_text(path.read_text().replace('road', 'spaceship'))
    summary = prepare_benchmark('cityscapes')  # its converter exits the program
    assert (summary.written, len(summary.broken)) == (2, 1)


def test_segment_outside_the_59(root):
    pytest.importorskip('pycocotools')
    miniatures.context(root)
    path = root / VOC2010 / 'trainval_merged.json'
    annotation = json.loads(path.read_text())
    annotation['annos_segmentation'][0]['category_id'] = 1
    path.write_text(json.dumps(annotation))
    summary = prepare_benchmark('context60')
    assert (summary.written, len(summary.broken)) == (2, 1)
    assert 'category 1 is none of the 59' in summary.broken[0]


@pytest.mark.parametrize(
    'benchmark, message',
    [
        ('coco_stuff171', 'stuffthingmaps_trainval2017.zip'),
        ('coco_object', 'stuffthingmaps_trainval2017.zip'),
        ('context59', 'trainval_merged.json'),
        ('pc459', 'trainval.tar.gz'),
        ('ade847', 'unpack ADE20K_2021_17_01'),
        ('cityscapes', 'gtFine_trainvaltest.zip'),
    ],
)
def test_nothing_to_convert(root, benchmark, message):
    if benchmark == 'context59':
        pytest.importorskip('pycocotools')
    with pytest.raises(FileNotFoundError, match=message):
        prepare_benchmark(benchmark)


def test_benchmarks_that_need_no_converter(root):
    with pytest.raises(ValueError, match='ade20k is loaded as downloaded'):
        prepare_benchmark('ade20k')
    with pytest.raises(ValueError, match="no benchmark 'vok20'.*Did you mean 'voc20'"):
        prepare_benchmark('vok20')


# Interruptions: real processes that end at the worst moment.


def draw_or_die(color: int) -> np.ndarray:
    if color == 2:
        os.kill(os.getpid(), 9)
    return np.full((200, 300), color, np.uint8)


def noise(color: int) -> np.ndarray:
    return np.random.default_rng(color).integers(0, 256, (200, 300), dtype=np.uint8)


def jobs_of(folder: Path, draw) -> list[Job]:
    return [Job(folder / f'{i}.png', draw, i) for i in range(4)]


def with_small_files(jobs: list[Job]) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # of 60,000 needed
    write_images(jobs)


@pytest.mark.parametrize(
    'program, draw, finished',
    [(write_images, draw_or_die, 2), (with_small_files, noise, 0)],
    ids=['killed', 'disk full'],
)
def test_interrupted(tmp_path, program, draw, finished):
    jobs = jobs_of(tmp_path / 'masks', draw)
    process = get_context('fork').Process(target=program, args=(jobs,))
    process.start()
    process.join()
    assert process.exitcode != 0
    found = sorted((tmp_path / 'masks').glob('[!.]*'))
    assert len(found) == finished
    for path in found:
        labels(path)  # whole
    summary = write_images(jobs_of(tmp_path / 'masks', noise))
    assert (summary.written, summary.kept) == (4 - finished, finished)
    assert sorted(path.name for path in (tmp_path / 'masks').iterdir()) == [
        f'{i}.png' for i in range(4)
    ]


def test_a_killed_worker(tmp_path):
    with pytest.raises(RuntimeError, match='worker was killed.* a smaller --nproc'):
        write_images(jobs_of(tmp_path, draw_or_die), nproc=2)
    for path in tmp_path.glob('[!.]*'):
        labels(path)  # whole
    summary = write_images(jobs_of(tmp_path, noise), nproc=2)
    assert summary.written + summary.kept == 4 and summary.written > 0
    assert sorted(path.name for path in tmp_path.glob('[!.]*')) == [
        f'{i}.png' for i in range(4)
    ]


def draw_with_a_package(color: int) -> np.ndarray:
    import a_package_that_nobody_has  # noqa: F401


@pytest.mark.parametrize('nproc', [1, 2])
def test_a_package_is_lacking(tmp_path, nproc):
    """Which is not the sources' fault."""
    with pytest.raises(ImportError, match='a_package_that_nobody_has'):
        write_images([Job(tmp_path / 'mask.png', draw_with_a_package, 0)], nproc=nproc)


def test_empty_files_are_written_again(tmp_path):
    (tmp_path / '0.png').touch()
    summary = write_images([Job(tmp_path / '0.png', noise, 0)])
    assert (summary.written, summary.kept) == (1, 0)
    labels(tmp_path / '0.png')
