import importlib.util
import json
import os
import re
import resource
import sys
import tarfile
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pacl_mmseg.datasets.image_text import CaptionListDataset, CocoCaptionsDataset
from pacl_mmseg.datasets.packing import pack_shards
from pacl_mmseg.datasets.shards import ImageTextShards

ROOT = Path(__file__).parents[2]
SHARED_DATA = Path(os.environ.get('PACL_SHARED_DATA', ROOT.parent / 'shared' / 'data'))


@pytest.fixture
def coco(tmp_path) -> CocoCaptionsDataset:
    """Six images with two captions each, of which three have no file."""
    names = [f'{i}.jpeg' for i in range(3)] + ['missing.jpg', 'empty.jpg', 'a\0.jpg']
    images = tmp_path / 'images'
    images.mkdir()
    for index, name in enumerate(names[:3]):
        Image.fromarray(np.full((4, 5, 3), 9 * index, np.uint8)).save(images / name)
    (images / 'empty.jpg').write_bytes(b'')
    content = dict(
        images=[dict(id=i, file_name=name) for i, name in enumerate(names)],
        annotations=[
            dict(image_id=i, caption=f'{word} {i} ü') for i in range(6) for word in 'ab'
        ],
    )
    path = tmp_path / 'captions.json'
    path.write_text(json.dumps(content))
    return CocoCaptionsDataset(str(path), data_prefix=dict(img_path=str(images)))


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar}


def test_one_pair_per_caption(coco, tmp_path):
    out = tmp_path / 'out'
    before = coco.counts.totals()['missing_file']
    pattern, pairs = pack_shards(coco, out, shard_size=4)
    assert (pattern, pairs) == (str(out / '{00000..00001}.tar'), 6)
    assert coco.counts.totals()['missing_file'] == before + 3
    assert sorted(path.name for path in out.iterdir()) == ['00000.tar', '00001.tar']
    first = members(out / '00000.tar')
    keys = ['000000', '000001', '000002', '000003']
    assert set(first) == {f'{k}.{s}' for k in keys for s in ('jpg', 'txt', 'json')}
    original = coco.get_data_info(0)['img_path']
    assert first['000001.jpg'] == Path(original).read_bytes()
    assert first['000001.txt'].decode() == 'b 0 ü'
    assert json.loads(first['000001.json']) == dict(
        caption='b 0 ü', all_captions=['a 0 ü', 'b 0 ü'], original_path=original
    )


def test_packed_shards_are_read_back(coco, tmp_path):
    pattern, _ = pack_shards(coco, tmp_path / 'out', shard_size=2)
    pipeline = [dict(type='LoadPILImage'), dict(type='PickCaption')]
    samples = list(ImageTextShards(pattern, pipeline, repeat=False))
    got = sorted((s['caption'], int(s['img'][0, 0, 0])) for s in samples)
    assert got == sorted((f'{w} {i} ü', 9 * i) for i in range(3) for w in 'ab')


def test_one_per_image(coco, tmp_path):
    pattern, pairs = pack_shards(coco, tmp_path / 'out', one_per_image=True)
    assert (pattern, pairs) == (str(tmp_path / 'out' / '00000.tar'), 3)
    samples = ImageTextShards(pattern, shuffle_buffer=0, repeat=False)
    assert [s['captions'] for s in samples] == [
        [f'a {i} ü', f'b {i} ü'] for i in range(3)
    ]


def test_interruption_leaves_complete_shards_only(coco, tmp_path, monkeypatch):
    out = tmp_path / 'out'
    seen = []
    info = CocoCaptionsDataset.get_data_info

    def interrupted(self, index):
        seen.append(index)
        if index == 2:
            assert len(list(out.iterdir())) == 2  # one complete, one temporary
            raise KeyboardInterrupt
        return info(self, index)

    monkeypatch.setattr(CocoCaptionsDataset, 'get_data_info', interrupted)
    with pytest.raises(KeyboardInterrupt):
        pack_shards(coco, out, shard_size=3)
    assert [path.name for path in out.iterdir()] == ['00000.tar']
    assert len(members(out / '00000.tar')) == 9


def pack_on_a_small_disk(dataset, out, queue) -> None:
    # The second shard, with its image of noise, is larger than what can be written.
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
    try:
        pack_shards(dataset, out, shard_size=1)
    except OSError as error:
        queue.put(str(error))


def test_disk_that_fills_up(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (300, 300, 3), dtype=np.uint8)
    Image.fromarray(noise[:20, :20]).save(tmp_path / '0.png')
    Image.fromarray(noise).save(tmp_path / '1.png')
    table = tmp_path / 'list.csv'
    table.write_text('0.png,a\n1.png,b\n')
    dataset = CaptionListDataset(str(table), data_prefix=dict(img_path=str(tmp_path)))
    context = get_context('fork')
    queue = context.SimpleQueue()
    out = tmp_path / 'out'
    process = context.Process(target=pack_on_a_small_disk, args=(dataset, out, queue))
    process.start()
    process.join()
    message = queue.get()
    assert 'after 1 complete shards; make room' in message and str(out) in message
    assert [path.name for path in out.iterdir()] == ['00000.tar']


def test_refusals(coco, tmp_path):
    with pytest.raises(ValueError, match='positive'):
        pack_shards(coco, tmp_path / 'out', shard_size=0)
    pack_shards(coco, tmp_path / 'out')
    with pytest.raises(FileExistsError, match='out has shards'):
        pack_shards(coco, tmp_path / 'out')
    path = tmp_path / 'list.csv'
    path.write_text('no.jpg,a\n')
    with pytest.raises(ValueError, match=r'none of the 1 images.*no\.jpg'):
        pack_shards(CaptionListDataset(str(path)), tmp_path / 'none')
    assert not list((tmp_path / 'none').iterdir())


def run_tool(monkeypatch, *arguments) -> None:
    path = ROOT / 'tools' / 'dataset_tools' / 'pack_shards.py'
    spec = importlib.util.spec_from_file_location('pack_shards_tool', path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    monkeypatch.setattr(sys, 'argv', ['pack_shards.py', *map(str, arguments)])
    tool.main()


def test_tool_packs_a_table(coco, tmp_path, monkeypatch, capsys):
    table = tmp_path / 'list.tsv'
    table.write_text('text\tfile\na dog\t0.jpeg\na cat\t1.jpeg\nx\tmissing.jpg\n')
    out = tmp_path / 'out'
    options = ('--path-column', 'file', '--caption-column', '0', '--shard-size', 1)
    run_tool(monkeypatch, table, out, '--image-root', tmp_path / 'images', *options)
    printed = capsys.readouterr().out
    assert re.search(r'2 pairs packed; .*\d missing file', printed)
    assert f"shards='{out}/{{00000..00001}}.tar'" in printed
    assert members(out / '00001.tar')['000010.txt'] == b'a cat'


def test_tool_ends_in_a_sentence(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r'no\.json does not exist'):
        run_tool(monkeypatch, tmp_path / 'no.json', tmp_path / 'out')


@pytest.mark.skipif(
    not (SHARED_DATA / 'coco_captions').is_dir(),
    reason=f'real photographs not found in {SHARED_DATA}; set PACL_SHARED_DATA',
)
def test_real_photographs(tmp_path):
    dataset = CocoCaptionsDataset(
        'captions.json',
        data_root=str(SHARED_DATA / 'coco_captions'),
        data_prefix=dict(img_path='images'),
    )
    pattern, pairs = pack_shards(dataset, tmp_path, shard_size=100)
    assert (pattern, pairs) == (str(tmp_path / '{00000..00002}.tar'), 255)
    samples = list(ImageTextShards(pattern, repeat=False))
    assert len(samples) == len({sample['key'] for sample in samples}) == 255
    captions = {sample['caption'].decode() for sample in samples}
    assert captions == {
        text for i in range(51) for text in dataset.get_data_info(i)['captions']
    }
