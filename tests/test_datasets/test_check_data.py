"""What is said of the benchmarks' data, in whatever state it is."""

from __future__ import annotations

import os
import runpy
import shlex
import sys
from pathlib import Path

import miniatures
import numpy as np
import pytest
from miniatures import NAMES, blocks, save
from mmengine.logging import MMLogger
from PIL import Image

from pacl_mmseg.datasets.preparation import (
    CONVERTERS,
    OFFICIAL,
    Verdict,
    check_benchmark,
    prepare_benchmark,
)

TOOLS = Path(__file__).resolve().parents[2] / 'tools'


def context_and_459(root: Path) -> None:
    miniatures.context(root)
    miniatures.context459(root)


# What to make the download with, and a package that converting it needs.
CONVERSIONS = [
    ('context59', miniatures.context, 'pycocotools'),
    ('context60', miniatures.context, 'pycocotools'),
    ('coco_stuff171', miniatures.coco, 'mmseg'),
    ('coco_object', miniatures.coco, 'mmseg'),
    ('cityscapes', miniatures.cityscapes, 'cityscapesscripts'),
    ('ade847', miniatures.ade847, 'mmseg'),
    ('pc459', context_and_459, 'pycocotools'),
]


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """An empty data root."""
    monkeypatch.setenv('PACL_DATA_ROOT', str(tmp_path))
    return tmp_path


def check(benchmark: str, **options) -> Verdict:
    """Check a miniature; prints what a user would see."""
    verdict = check_benchmark(benchmark, expected=len(NAMES), **options)
    print(verdict)
    return verdict


def command(benchmark: str, root: Path) -> str:
    """The command that converts a benchmark's download."""
    return f'python tools/prepare_data.py {benchmark} --data-root {root}'


def follow(remedy: str, root: Path) -> None:
    """Do what a remedy says, once all is unpacked: its command."""
    _, _, arguments = remedy.partition('python tools/prepare_data.py ')
    benchmark, option, folder, *overwrite = shlex.split(arguments)
    assert (option, folder) == ('--data-root', str(root))
    assert overwrite in ([], ['--overwrite'])
    prepare_benchmark(benchmark, overwrite=bool(overwrite))


def relabel(path: Path, change: dict[int, int]) -> None:
    """Change labels of a mask."""
    mask = np.array(Image.open(path))
    changed = mask.copy()
    for old, new in change.items():
        changed[mask == old] = new
    save(changed, path)


def test_every_benchmark_has_its_official_split():
    assert set(CONVERTERS) < set(OFFICIAL)


@pytest.mark.parametrize('benchmark', OFFICIAL)
def test_ok(root, benchmark):
    miniatures.converted(root, benchmark)
    verdict = check(benchmark)
    assert verdict.usable, verdict
    assert verdict.finding == '3 images and masks, 3 of them read'
    assert verdict.remedy == ''


@pytest.mark.parametrize('benchmark, download, needs', CONVERSIONS)
def test_unpacked_but_not_converted(root, benchmark, download, needs):
    pytest.importorskip(needs)
    download(root)
    verdict = check(benchmark)
    assert (verdict.state, verdict.remedy) == ('unconverted', command(benchmark, root))
    follow(verdict.remedy, root)
    assert check(benchmark).usable


def emptied(file: Path) -> None:
    file.write_bytes(b'')


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-40])


@pytest.mark.parametrize('damage', [emptied, cut_off, Path.unlink])
@pytest.mark.parametrize('benchmark, download, needs', CONVERSIONS)
def test_remedies_cure_what_was_converted(root, benchmark, download, needs, damage):
    pytest.importorskip(needs)
    download(root)
    before = set(root.rglob('*.*'))
    prepare_benchmark(benchmark)
    written = {path.suffix: path for path in set(root.rglob('*.*')) - before}
    kinds = {'.jpg', '.png', '.tif'} & set(written)
    assert len(kinds) == (2 if benchmark == 'ade847' else 1)  # it has images, too
    for kind in kinds:
        damage(written[kind])
        verdict = check(benchmark)
        assert verdict.state in ('incomplete', 'wrong')
        follow(verdict.remedy, root)
        assert check(benchmark).usable


@pytest.mark.parametrize('benchmark', ['context60', 'pc459'])
@pytest.mark.parametrize(
    'content, message',
    [
        (b'', '0 of 3 images'),
        (b'\xff\xfe', 'val.txt is not a list of images'),
        ('\n'.join([*NAMES, 'x']).encode(), '4 images, but the official split has 3'),
        (f'{NAMES[0]}\n'.encode(), '1 of 3 images'),
    ],
    ids=['empty', 'binary', 'long', 'short'],
)
def test_remedies_cure_wrong_splits(root, benchmark, content, message):
    pytest.importorskip('pycocotools')
    context_and_459(root)
    prepare_benchmark(benchmark)
    split = root / 'VOCdevkit/VOC2010/ImageSets/SegmentationContext/val.txt'
    split.write_bytes(content)
    verdict = check(benchmark)
    assert message in verdict.finding
    assert 'put trainval_merged.json ' in verdict.remedy
    follow(verdict.remedy, root)
    assert check(benchmark).usable


def test_remedies_without_a_data_root(tmp_path, monkeypatch):
    monkeypatch.delenv('PACL_DATA_ROOT', raising=False)
    monkeypatch.chdir(tmp_path)
    miniatures.coco(tmp_path / 'data')
    verdict = check('coco_stuff171')
    assert verdict.remedy == 'python tools/prepare_data.py coco_stuff171'


def test_a_data_root_with_a_space(tmp_path, monkeypatch):
    root = tmp_path / 'my data'
    monkeypatch.setenv('PACL_DATA_ROOT', str(root))
    miniatures.coco(root)
    follow(check('coco_stuff171').remedy, root)
    assert check('coco_stuff171').usable


@pytest.mark.parametrize('benchmark', OFFICIAL)
def test_missing(root, benchmark):
    verdict = check(benchmark)
    assert verdict.state == 'missing'
    assert str(root) in verdict.finding
    assert 'unpack ' in verdict.remedy and str(root) in verdict.remedy
    assert (command(benchmark, root) in verdict.remedy) == (benchmark in CONVERTERS)


@pytest.mark.parametrize('benchmark', OFFICIAL)
def test_incomplete_masks(root, benchmark):
    masks = miniatures.converted(root, benchmark)
    masks[1].write_bytes(b'')  # as interrupted downloads leave them
    verdict = check(benchmark)
    assert verdict.state == 'incomplete'
    assert verdict.finding == f'2 of 3 masks; the first that lacks is {masks[1]}'


@pytest.mark.parametrize('benchmark', OFFICIAL)
def test_labels_out_of_range(root, benchmark):
    masks = miniatures.converted(root, benchmark)
    labels = np.array(Image.open(masks[2]))
    labels[0, 0] = 1000 if labels.dtype == np.uint16 else 200
    save(labels, masks[2])
    verdict = check(benchmark)
    assert verdict.state == 'wrong'
    assert f'{masks[2]} holds the label {labels[0, 0]}' in verdict.finding
    overwrite = f'{command(benchmark, root)} --overwrite'
    assert verdict.remedy.endswith(overwrite) == (benchmark in CONVERTERS)


@pytest.mark.parametrize(
    'benchmark, ending',
    [
        ('coco_stuff171', '_instanceTrainIds.png'),
        ('coco_object', '_labelTrainIds.png'),
        ('cityscapes', '_gtFine_labelIds.png'),
        ('pc459', '.png'),
    ],
)
def test_masks_of_another_conversion(root, benchmark, ending):
    for mask in miniatures.converted(root, benchmark):
        stem = mask.name.replace('_gtFine', '').partition('_label')[0]
        stem = stem.partition('_instance')[0].removesuffix('.tif')
        mask.rename(mask.with_name(f'{stem}{ending}'))
    verdict = check(benchmark)
    assert verdict.state == ('missing' if benchmark == 'pc459' else 'unconverted')
    assert verdict.finding.startswith('0 of 3 masks; the first that lacks is ')
    assert verdict.remedy.endswith(command(benchmark, root))


def many(root: Path, benchmark: str, count: int, *labels: int) -> None:
    """A set of that many images, whose masks hold these labels."""
    masks = miniatures.converted(root, benchmark)
    save(blocks(*labels), masks[0])
    images = root / 'coco_stuff164k' / 'images' / 'val2017'
    suffix = masks[0].name.removeprefix(NAMES[0])
    for mask in masks[1:]:
        mask.unlink()
        (images / mask.name.replace(suffix, '.jpg')).unlink()
    for index in range(1, count):
        os.link(images / f'{NAMES[0]}.jpg', images / f'{index}.jpg')
        os.link(masks[0], masks[0].with_name(f'{index}{suffix}'))


@pytest.mark.parametrize(
    'benchmark, labels, faults',
    [
        ('coco_stuff171', (0, 80, 170, 255), []),
        ('coco_object', (0, 12, 80), []),
        # COCO-Object's labels by the name of COCO-Stuff's.
        ('coco_stuff171', (0, 12, 80), ['upper half of the 171', 'ignored label 255']),
        ('coco_stuff171', (0, 12, 80, 255), ['upper half of the 171']),
        ('coco_stuff171', (0, 90, 170), ['the ignored label 255']),
        ('coco_object', (0, 1, 20), ['upper half of the 81']),
    ],
)
def test_masks_of_another_conversion_by_the_right_name(root, benchmark, labels, faults):
    many(root, benchmark, 50, *labels)
    verdict = check_benchmark(benchmark, expected=50)
    assert verdict.state == ('wrong' if faults else 'ok')
    assert verdict.finding.startswith('None of the 50 masks read') == bool(faults)
    assert all(fault in verdict.finding for fault in faults[:1])
    assert ('(and 1 more)' in verdict.finding) == (len(faults) == 2)
    # Of fewer that proves nothing.
    assert check_benchmark(benchmark, expected=50, sample=49).usable


def test_coco_object_masks_of_instances(root):
    note = miniatures.converted(root, 'coco_object')[0].parent / '.coco_object_source'
    note.write_text('pixel maps\n')
    assert check('coco_object').usable
    note.write_text('instances\n')
    verdict = check('coco_object')
    assert verdict.state == 'wrong'
    assert verdict.finding == f'the masks were not drawn from pixel maps, says {note}'
    follow(verdict.remedy, root)
    assert check('coco_object').usable


def test_no_split_yet(root):
    miniatures.photo(root / 'VOCdevkit' / 'VOC2010' / 'JPEGImages' / 'photo.jpg')
    verdict = check('context60')
    assert verdict.state == 'missing'
    assert 'SegmentationContext/val.txt' in verdict.finding
    assert 'put trainval_merged.json into ' in verdict.remedy
    assert verdict.remedy.endswith(f', then {command("context60", root)}')


def test_zeros_reduced_before_loading(root):
    """ADE20K's official masks have no 255; reduced ones hold it for what was 0."""
    masks = miniatures.converted(root, 'ade20k')
    for index, mask in enumerate(masks):
        relabel(mask, {0: 255, 1 + index: index, 150: 149})
    verdict = check('ade20k')
    assert verdict.state == 'wrong'
    assert f'{masks[0]} holds the ignored label 255' in verdict.finding
    assert verdict.finding.endswith('label 0 was made that in conversion (and 2 more)')


@pytest.mark.parametrize('benchmark', ['context59', 'context60'])
def test_context_made_for_59_classes(root, benchmark):
    """Both are loaded from masks of 60 classes."""
    for mask in miniatures.converted(root, benchmark):
        relabel(mask, {0: 255, 47: 46, 1: 0, 59: 58})
    verdict = check(benchmark)
    assert verdict.state == 'wrong'
    assert 'holds the ignored label 255' in verdict.finding


@pytest.mark.parametrize('benchmark', ['voc20', 'voc21'])
def test_voc_without_background(root, benchmark):
    """VOC's official masks do hold 255, on borders, but nearly all have background."""
    masks = miniatures.converted(root, benchmark)
    relabel(masks[1], {0: 255})
    assert check(benchmark).usable
    for index, mask in enumerate(masks):
        save(blocks(255, 1 + index, 19, 255), mask)
    verdict = check(benchmark)
    assert verdict.state == 'wrong'
    assert 'has no background' in verdict.finding


@pytest.mark.parametrize(
    'fault, message',
    [
        (lambda path: save(np.zeros((24, 32, 3), np.uint8), path), '3 channels'),
        (lambda path: save(blocks(0, 1)[:-1], path), '32 x 23'),
        (lambda path: save(blocks(0, 300, dtype=np.uint16), path), 'the label 300'),
        (lambda path: path.write_bytes(path.read_bytes()[:70]), 'cannot be decoded'),
    ],
    ids=['RGB', 'size', '16-bit', 'cut off'],
)
def test_unfit_masks(root, fault, message):
    masks = miniatures.converted(root, 'voc21')
    fault(masks[0])
    verdict = check('voc21')
    assert verdict.state == 'wrong'
    assert str(masks[0]) in verdict.finding and message in verdict.finding
    assert 'check_data' not in verdict.finding  # which is what the user just ran


def test_half_downloaded_image(root):
    """OpenCV, which evaluation reads images with, would not mind."""
    miniatures.converted(root, 'voc20')
    image = root / 'VOCdevkit' / 'VOC2012' / 'JPEGImages' / f'{NAMES[1]}.jpg'
    image.write_bytes(image.read_bytes()[:-200])
    verdict = check('voc20')
    assert verdict.state == 'incomplete'
    assert f'The image {image} is damaged' in verdict.finding


def test_turned_photograph(root):
    """Evaluation turns images as their EXIF data says, and so does the check."""
    miniatures.converted(root, 'voc20')
    path = root / 'VOCdevkit' / 'VOC2012' / 'JPEGImages' / f'{NAMES[1]}.jpg'
    with Image.open(path) as image:
        exif = image.getexif()
        exif[0x0112] = 6  # orientation: a quarter turn
        image.save(path, exif=exif)
    verdict = check('voc20')
    assert verdict.state == 'wrong'
    assert f'its image {path} 24 x 32' in verdict.finding


def test_unreadable_mask(root):
    mask = miniatures.converted(root, 'voc20')[1]
    mask.chmod(0)
    if os.access(mask, os.R_OK):
        pytest.skip('nothing is unreadable to the superuser')
    verdict = check('voc20')
    assert verdict.state == 'wrong'
    assert 'Permission denied' in verdict.finding and str(mask) in verdict.finding


def test_images_lacking_and_too_many(root):
    miniatures.converted(root, 'ade20k')
    verdict = check_benchmark('ade20k', expected=2)
    assert verdict.state == 'wrong'
    assert verdict.finding == '3 images, but the official split has 2'
    assert verdict.remedy.startswith(f'remove from {root}/ade/ADEChallengeData2016/im')
    verdict = check_benchmark('ade20k')
    assert (verdict.state, verdict.finding) == ('incomplete', '3 of 2000 images')
    miniatures.converted(root, 'voc20')
    image = root / 'VOCdevkit' / 'VOC2012' / 'JPEGImages' / f'{NAMES[0]}.jpg'
    image.unlink()
    verdict = check('voc20')
    assert verdict.finding == f'2 of 3 images; the first that lacks is {image}'


def test_a_sample_or_all(root, capsys):
    masks = miniatures.converted(root, 'coco_stuff171')
    masks[1].write_bytes(b'not a picture')
    assert check('coco_stuff171', sample=2).usable  # the first and the last
    assert not check('coco_stuff171', sample=None).usable
    assert '3/3' in capsys.readouterr().err


def test_real_photographs(root, real_data):
    folder = real_data / 'voc_layout' / 'VOC2012'
    if not folder.is_dir():
        pytest.skip(f'no VOC layout at {folder}')
    (root / 'VOCdevkit').mkdir()
    (root / 'VOCdevkit' / 'VOC2012').symlink_to(folder.resolve())
    for benchmark in ('voc20', 'voc21'):
        verdict = check_benchmark(benchmark, expected=19, sample=None)
        assert verdict.usable, verdict


# The tools, as `python tools/...` runs them but in this process.


@pytest.fixture
def tool(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(TOOLS))
    logger = MMLogger.get_current_instance()
    level = logger.level

    def run(name: str, *arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, 'argv', [name, *map(str, arguments)])
        status: int | str | None = 0
        try:
            runpy.run_path(str(TOOLS / name), run_name='__main__')
        except SystemExit as end:
            status = end.code
        printed = capsys.readouterr().out
        if isinstance(status, str):  # a sentence, printed on exit
            return 1, status
        return status or 0, printed

    yield run
    logger.setLevel(level)  # the tools hush it


def test_tool_on_a_whole_set(root, tool):
    """As many images as VOC has, all of them the same."""
    miniatures.converted(root, 'voc20')
    folder = root / 'VOCdevkit' / 'VOC2012'
    names = [f'{index:06}' for index in range(1449)]
    for name in names:
        for part, suffix in (('JPEGImages', '.jpg'), ('SegmentationClass', '.png')):
            source = folder / part / f'{NAMES[0]}{suffix}'
            os.link(source, folder / part / f'{name}{suffix}')
    split = folder / 'ImageSets' / 'Segmentation' / 'val.txt'
    split.write_text('\n'.join(names))
    status, printed = tool('check_data.py', 'voc20', 'voc21')
    assert status == 0
    assert printed.splitlines() == [
        'voc20          ok           1449 images and masks, 100 of them read',
        'voc21          ok           1449 images and masks, 100 of them read',
    ]
    status, printed = tool('check_data.py', 'voc20', 'cityscapes')
    assert status == 1
    assert [line.split()[:2] for line in printed.splitlines()] == [
        ['voc20', 'ok'],
        ['cityscapes', 'missing'],
        ['remedy:', 'unpack'],
    ]


def test_tool_checks_all_in_a_given_folder(root, tool, tmp_path):
    status, printed = tool('check_data.py', '--data-root', tmp_path / 'elsewhere')
    assert status == 1
    lines = printed.splitlines()
    assert [line.split()[0] for line in lines[::2]] == list(OFFICIAL)
    assert all('elsewhere' in line for line in lines)


def test_unknown_benchmark(root, tool):
    with pytest.raises(ValueError, match="no benchmark 'vok20'.*Did you mean 'voc20'"):
        check_benchmark('vok20')
    for name in ('check_data.py', 'prepare_data.py'):
        status, sentence = tool(name, 'ade20k', 'vok20')
        assert status == 1
        assert "There is no benchmark 'vok20'" in sentence
        assert "Did you mean 'voc20'?" in sentence


def test_preparing(root, tool):
    miniatures.coco(root)
    status, printed = tool('prepare_data.py', 'coco_stuff171', 'coco_object')
    assert status == 1  # there are only three of the 5000 images
    assert 'coco_object: 3 files written, 0 were there already' in printed
    assert 'coco_object    incomplete   3 of 5000 images' in printed
    assert check('coco_stuff171').usable and check('coco_object').usable
    _, printed = tool('prepare_data.py', 'coco_object', '--nproc', 1)
    assert 'coco_object: 0 files written, 3 were there already' in printed
    _, printed = tool('prepare_data.py', 'ade20k')
    assert 'ade20k is loaded as downloaded: nothing to convert' in printed


def test_one_source_for_one_benchmark(root, tool):
    status, sentence = tool('prepare_data.py', 'voc20', 'pc459', '--source', 'here')
    assert status == 1 and 'prepare them one by one' in sentence
    status, sentence = tool('prepare_data.py', 'pc459', '--source', root / 'here')
    assert status == 1 and f'There is no folder {root}/here' in sentence


def test_a_subset(root):
    miniatures.ade20k(root)
    masks = sorted((root / 'ade' / 'ADEChallengeData2016').rglob('*.png'))
    for mask in masks[1:]:
        mask.unlink()
    assert not check('ade20k').usable
    assert not check('ade20k', subset=2).usable
    verdict = check_benchmark('ade20k', subset=1)
    assert verdict.usable
    assert verdict.finding == 'the first 1 of 3 images and masks, 1 of them read'
    for number in (0, -1, len(NAMES) + 1):
        with pytest.raises(ValueError, match=f'has 1 to {len(NAMES)} images, not'):
            check('ade20k', subset=number)
