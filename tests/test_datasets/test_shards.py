import io
import json
from collections import Counter
from copy import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from shard_files import PER_SHARD, all_keys, epoch_of, jpeg, write_shards, write_tar
from torch.utils.data import DataLoader

from pacl_mmseg.datasets import shards as shards_module
from pacl_mmseg.datasets.counts import sample_counts
from pacl_mmseg.datasets.shards import ImageTextShards, ShardProgress
from pacl_mmseg.datasets.tar_stream import read_shard
from pacl_mmseg.registry import DATASETS


@pytest.fixture(autouse=True)
def zero_counts():
    sample_counts.reset()


@pytest.fixture
def messages(monkeypatch) -> list[str]:
    texts = []
    monkeypatch.setattr(
        shards_module, 'print_log', lambda text, **_: texts.append(text)
    )
    return texts


def keys_of(samples) -> list[str]:
    return [sample['key'] for sample in samples]


def take(iterable, number: int) -> list:
    iterator = iter(iterable)
    return [next(iterator) for _ in range(number)]


def rank(monkeypatch, index: int, world_size: int) -> None:
    monkeypatch.setattr(shards_module, 'get_dist_info', lambda: (index, world_size))


def loader(dataset, workers: int) -> DataLoader:
    return DataLoader(dataset, batch_size=None, num_workers=workers, collate_fn=copy)


def test_samples_reach_the_pipeline(tmp_path):
    write_shards(tmp_path, 1)
    dataset = DATASETS.build(
        dict(
            type='ImageTextShards',
            shards='00000.tar',
            data_root=str(tmp_path),
            pipeline=[dict(type='LoadPILImage'), dict(type='PickCaption')],
            shuffle_buffer=0,
            repeat=False,
        )
    )
    samples = list(dataset)
    assert keys_of(samples) == all_keys(1)
    assert [s['caption'] for s in samples] == [f'caption {k}' for k in all_keys(1)]
    decoded = np.asarray(Image.open(io.BytesIO(jpeg(3))))
    assert (samples[3]['img'][..., ::-1] == decoded).all()
    assert samples[0]['img_path'] == f'{tmp_path}/00000.tar/000000000.jpg'


def test_captions_and_nouns_of_the_json_member(tmp_path):
    members = {'a.png': b'x', 'a.txt': b'one'}
    members['a.json'] = json.dumps(dict(captions=['one', 'two'], nouns=['n'])).encode()
    members |= {'b.jpg': b'x', 'b.txt': b'three', 'b.json': b'{damaged'}
    members |= {'c.jpg': b'x', 'c.json': b'{"captions": ["only here"]}'}
    write_tar(tmp_path / 'a.tar', members)
    dataset = ImageTextShards(str(tmp_path / 'a.tar'), shuffle_buffer=0, repeat=False)
    a, b, c = dataset
    assert (a['captions'], a['nouns']) == (['one', 'two'], ['n'])
    assert b['caption'] == b'three' and 'captions' not in b
    assert c['captions'] == ['only here']


def test_what_is_no_text_is_left_out_of_the_lists(tmp_path):
    notes = {
        'a': b'{"captions": [3, "one", null, ["x"]], "nouns": [3]}',
        'b': b'{"captions": [null], "nouns": ["n", 3]}',
        'c': b'{"nouns": ' + b'[' * 100_000 + b']' * 100_000 + b'}',
    }
    members = {}
    for key, content in notes.items():
        members |= {f'{key}.jpg': b'x', f'{key}.txt': b'txt', f'{key}.json': content}
    write_tar(tmp_path / 'a.tar', members)
    pipeline = [
        dict(type='PickCaption'),
        dict(type='NounPrompt', prob=1, nouns='given', templates=['a {}.']),
    ]
    dataset = ImageTextShards(
        str(tmp_path / 'a.tar'), pipeline, shuffle_buffer=0, repeat=False
    )
    assert [s['caption'] for s in dataset] == ['one', 'a n.', 'txt']


def test_variables_of_webdataset(tmp_path, monkeypatch):
    write_shards(tmp_path, 1)
    monkeypatch.setenv('FOLDER', str(tmp_path))
    monkeypatch.delenv('WDS_FOLDER', raising=False)
    pattern = 'pipe:cat ${FOLDER}/00000.tar'
    with pytest.raises(ValueError, match=r'of source all: pipe:cat \$\{FOLD.*\$NAME'):
        ImageTextShards(pattern)
    in_shell = ImageTextShards('pipe:cat $FOLDER/00000.tar', repeat=False)
    assert sorted(keys_of(in_shell)) == all_keys(1)
    monkeypatch.setenv('WDS_FOLDER', str(tmp_path))
    assert ImageTextShards(pattern).shards['all'] == [f'pipe:cat {tmp_path}/00000.tar']
    assert ImageTextShards('a.tar::b.tar').shards['all'] == ['a.tar', 'b.tar']


def test_data_that_end_have_no_length(tmp_path):
    pattern = write_shards(tmp_path, 1)
    assert len(DataLoader(ImageTextShards(pattern), 4)) > 10**12
    with pytest.raises(TypeError, match='set repeat=True'):
        len(DataLoader(ImageTextShards(pattern, repeat=False), 4))


def test_patterns_are_expanded(tmp_path):
    write_shards(tmp_path, 12)
    patterns = ['{00000..00009}.tar', '{00010,00011}.tar']
    dataset = ImageTextShards(patterns, data_root=str(tmp_path), repeat=False)
    assert len(dataset.shards['all']) == 12
    assert sorted(keys_of(dataset)) == all_keys(12)
    with pytest.raises(ValueError, match='no shard'):
        ImageTextShards([])


@pytest.mark.parametrize('shuffle_buffer', [0, 8, 1000])
def test_two_ranks_with_two_workers_share_every_epoch(
    tmp_path, monkeypatch, shuffle_buffer
):
    pattern = write_shards(tmp_path, 7)
    for _ in range(2):
        delivered = Counter()
        for index in range(2):
            rank(monkeypatch, index, 2)
            dataset = ImageTextShards(
                pattern, shuffle_buffer=shuffle_buffer, repeat=False
            )
            delivered.update(keys_of(loader(dataset, 2)))
        assert delivered == Counter(all_keys(7))


def test_order_depends_on_seed_and_epoch_only(tmp_path):
    pattern = write_shards(tmp_path, 4)

    def epochs(seed: int) -> list[list[str]]:
        dataset = ImageTextShards(pattern, seed=seed, shuffle_buffer=10)
        keys = keys_of(take(loader(dataset, 2), 60))
        return [keys[:20], keys[20:40], keys[40:]]

    first = epochs(1)
    assert first == epochs(1)
    assert first != epochs(2)
    assert first[0] != first[1] != first[2]


def test_without_buffer_shards_are_read_in_order(tmp_path):
    pattern = write_shards(tmp_path, 3)
    keys = keys_of(
        ImageTextShards(pattern, shuffle_buffer=0, repeat=False, open_shards=1)
    )
    for start in range(0, 15, 5):
        assert keys[start : start + 5] == sorted(keys[start : start + 5])
    assert sorted(keys) == all_keys(3)


def opened_shards(monkeypatch) -> tuple[list[str], list[set[str]]]:
    """Note the shards in the order in which they are opened, and which are at once."""
    order, at_once, current = [], [], set()

    def watched(url, *args):
        order.append(url)
        current.add(url)
        at_once.append(set(current))
        yield from read_shard(url, *args)
        current.remove(url)

    monkeypatch.setattr(shards_module, 'read_shard', watched)
    return order, at_once


def test_open_shards_are_read_in_turn(tmp_path, monkeypatch):
    pattern = write_shards(tmp_path, 7, 4)
    order, at_once = opened_shards(monkeypatch)
    dataset = ImageTextShards(pattern, shuffle_buffer=0, repeat=False, open_shards=3)
    paths = [Path(s['img_path']) for s in dataset]
    assert max(map(len, at_once)) == 3
    for group in range(2):  # shards of one length end together
        urls = order[3 * group : 3 * group + 3]
        part = paths[12 * group : 12 * group + 12]
        assert [str(path.parent) for path in part] == urls * 4
    assert sorted(path.stem for path in paths) == all_keys(7, 4)


def test_no_shard_of_an_epoch_is_opened_amid_the_one_before(tmp_path, monkeypatch):
    shards = dict(a=write_shards(tmp_path / 'a', 2), b=write_shards(tmp_path / 'b', 9))
    _, at_once = opened_shards(monkeypatch)
    weights = dict(a=1, b=1)
    dataset = ImageTextShards(shards, shuffle_buffer=0, weights=weights)
    samples = take(dataset, 200)
    for urls in at_once:  # a shard twice would be of two epochs
        assert sum('/a/' in url for url in urls) <= 2
    for source in ('a', 'b'):
        own = [epoch_of(s) for s in samples if f'/{source}/' in s['img_path']]
        assert own == sorted(own)
        assert 80 <= len(own) <= 120


@pytest.mark.parametrize('weights', [(1, 1, 1), (1, 4, 5)])
def test_every_batch_mixes_the_sources(tmp_path, weights):
    names = ('a', 'b', 'c')
    shards = {name: write_shards(tmp_path / name, 10, 40) for name in names}
    shares = dict(zip(names, weights, strict=True))
    dataset = ImageTextShards(
        shards, weights=shares, shuffle_buffer=100, open_shards=10
    )
    batches = DataLoader(dataset, 60, num_workers=1, collate_fn=list)
    for _, batch in zip(range(10), batches, strict=False):
        counts = Counter(Path(s['img_path']).parent.parent.name for s in batch)
        shards_of_batch = {Path(s['img_path']).parent for s in batch}
        assert len(shards_of_batch) >= 8
        for name, share in shares.items():
            # Four of open shards, and what the buffer makes of that: 4 deviations.
            expected = 60 * share / sum(weights)
            assert counts[name] > 0
            assert abs(counts[name] - expected) < 16


def test_transforms_are_a_function_of_seed_epoch_and_key(tmp_path):
    pattern = write_shards(tmp_path, 4)

    def add_noise(results: dict) -> dict:
        return {**results, 'noise': np.random.rand() + torch.rand(1).item()}

    def noise(workers: int, seed: int = 0, number: int = 20) -> dict:
        dataset = ImageTextShards(pattern, [add_noise], seed=seed, shuffle_buffer=9)
        samples = take(loader(dataset, workers), number)
        return {(s['key'], epoch_of(s)): s['noise'] for s in samples}

    reference = noise(0)
    assert len(set(reference.values())) == 20
    assert noise(2) == reference
    assert not set(noise(0, seed=1).values()) & set(reference.values())
    assert len(set(noise(0, number=40).values())) == 40  # other in the next epoch


def break_shard(path: Path, how: str) -> None:
    if how == 'missing':
        path.unlink()
    elif how == 'empty':
        path.write_bytes(b'')
    elif how == 'not tar':
        path.write_bytes(b'<html>404</html>' * 100)
    if how not in LOSING_FOUR:
        return
    # The error is in the third sample, and could have cut the second.
    data = path.read_bytes()
    header = data.index(f'{int(path.stem) * 1000 + 2:09d}.jpg'.encode())
    if how == 'cut in an image':
        path.write_bytes(data[: header + 700])
    elif how == 'cut in a header':
        path.write_bytes(data[: header + 188])
    elif how == 'cut between':
        path.write_bytes(data[:header])
    elif how == 'damaged header':
        path.write_bytes(data[:header] + b'?' * 512 + data[header + 512 :])


LOSING_FOUR = ['cut in an image', 'cut in a header', 'cut between', 'damaged header']


@pytest.mark.parametrize('how', ['missing', 'empty', 'not tar', *LOSING_FOUR])
def test_broken_shard_is_passed_over_and_named_once(tmp_path, messages, how):
    pattern = write_shards(tmp_path, 4)
    break_shard(tmp_path / '00002.tar', how)
    pipeline = [dict(type='LoadPILImage'), dict(type='PickCaption')]
    dataset = ImageTextShards(pattern, pipeline, shuffle_buffer=0)
    intact = [key for key in all_keys(4) if not key.startswith('000002')]
    complete = 1 if how in LOSING_FOUR else 0
    expected = [*intact, *(f'{2000 + i:09d}' for i in range(complete))]
    samples = take(dataset, 2 * len(expected) + 1)  # two epochs
    for epoch in range(2):
        got = keys_of(s for s in samples if epoch_of(s) == epoch)
        assert sorted(got) == sorted(expected)
    totals = sample_counts.totals()
    assert totals['broken_shard'] >= 2 and totals['corrupt_image'] == 0
    named = [text for text in messages if '00002.tar' in text]
    assert len(named) == len(messages) == 1


def test_sample_at_the_cut_is_not_delivered_with_half_a_text(tmp_path):
    text = b'a long caption ' * 100
    write_tar(tmp_path / 'a.tar', {'0.jpg': b'x', '0.txt': b'whole'})
    members = {'0.jpg': b'x', '0.txt': b'whole', '1.jpg': b'x', '1.txt': text}
    write_tar(tmp_path / 'a.tar', members)
    data = (tmp_path / 'a.tar').read_bytes()
    cut = data.index(text) + 600
    (tmp_path / 'a.tar').write_bytes(data[:cut])
    dataset = ImageTextShards(str(tmp_path / 'a.tar'), repeat=False)
    assert [sample['caption'] for sample in dataset] == [b'whole']


def test_pipe_urls(tmp_path):
    write_shards(tmp_path, 2)
    urls = [f'pipe:cat {tmp_path}/0000{i}.tar' for i in range(2)]
    dataset = ImageTextShards(urls, data_root='ignored', repeat=False)
    assert sorted(keys_of(dataset)) == all_keys(2)
    assert sample_counts.totals()['broken_shard'] == 0


@pytest.mark.parametrize('command', ['cat {path}.no', 'cat {path}; exit 3', 'false'])
def test_failing_pipe_is_counted(tmp_path, messages, command):
    write_shards(tmp_path, 2)
    broken = 'pipe:' + command.format(path=tmp_path / '00001.tar')
    dataset = ImageTextShards(
        [str(tmp_path / '00000.tar'), broken], repeat=False, retries=0
    )
    keys = keys_of(dataset)
    # The last sample of a command that fails may be cut.
    expected = all_keys(2)[:-1] if 'exit' in command else all_keys(1)
    assert sorted(keys) == expected
    assert sample_counts.totals()['broken_shard'] == 1
    assert len(messages) == 1 and broken in messages[0]
    assert f'exit status {3 if "exit" in command else 1}' in messages[0]
    assert dataset.broken_shards() == [broken]


def test_shard_that_vanishes_amid_a_run(tmp_path, messages):
    pattern = write_shards(tmp_path, 3)
    stream = iter(ImageTextShards(pattern, shuffle_buffer=0))
    assert sorted(keys_of(next(stream) for _ in range(15))) == all_keys(3)
    (tmp_path / '00001.tar').unlink()
    rest = [key for key in all_keys(3) if not key.startswith('000001')]
    for _ in range(2):
        assert sorted(keys_of(next(stream) for _ in range(10))) == rest
    assert sample_counts.totals()['broken_shard'] >= 1
    (message,) = messages
    assert '00001.tar: No such file or directory' in message


def test_incomplete_samples_are_counted(tmp_path):
    members = {'0.jpg': b'x', '0.txt': b'fine', '1.jpg': b'x', '2.txt': b'no image'}
    members |= {'3.jpg': b'', '3.txt': b'empty image', '4.jpg': b'x', '4.txt': b''}
    write_tar(tmp_path / 'a.tar', members)
    dataset = ImageTextShards(str(tmp_path / 'a.tar'), shuffle_buffer=0, repeat=False)
    assert keys_of(dataset) == ['0', '4']  # that a text is blank is seen when cleaned
    assert sample_counts.totals()['incomplete_sample'] == 3


def test_files_over_the_limits_are_passed_over(tmp_path):
    members = {}
    for key, image, text in [('0', 100, 10), ('1', 101, 10), ('2', 100, 11)]:
        members |= {f'{key}.jpg': b'x' * image, f'{key}.txt': b't' * text}
    members |= {'3.jpg': b'x', '3.txt': b't', '3.json': b' ' * 11, '3.mp4': b'x' * 999}
    members |= {'4.jpg': b'x', '4.txt': b't', '4.mp4': b'x' * 999}
    write_tar(tmp_path / 'a.tar', members)
    limits = dict(max_image_bytes=100, max_text_bytes=10)
    dataset = ImageTextShards(
        str(tmp_path / 'a.tar'), shuffle_buffer=0, repeat=False, **limits
    )
    assert keys_of(dataset) == ['0', '4']
    assert sample_counts.totals()['oversized_file'] == 3
    assert dataset.broken_shards() == []


@pytest.mark.parametrize('repeat', [True, False])
def test_no_sample_in_any_shard_is_an_error(tmp_path, messages, repeat):
    pattern = write_shards(tmp_path, 3)
    break_shard(tmp_path / '00000.tar', 'missing')
    break_shard(tmp_path / '00001.tar', 'empty')
    (tmp_path / '00002.tar').unlink()
    write_tar(tmp_path / '00002.tar', {'1.jpg': b'x'})
    with pytest.raises(RuntimeError) as error:
        next(iter(ImageTextShards(pattern, repeat=repeat)))
    for text in (
        f'{30 if repeat else 3} shards in a row',
        'No such file',
        'empty file',
        'incomplete sample',
        'broken shard',
    ):
        assert text in str(error.value)


def test_dead_commands_are_an_error(messages):
    shards = ['pipe:sleep 600', 'pipe:echo no network >&2; exit 1']
    dataset = ImageTextShards(shards, timeout=0.3, retries=0)
    with pytest.raises(RuntimeError, match=r' shards in a row.*no data for 0.3 s'):
        next(iter(dataset))
    # Two that are silent count as ten each, so three come with at most four others.
    assert 5 <= sample_counts.totals()['broken_shard'] <= 7
    assert sorted(dataset.broken_shards()) == sorted(shards)
    assert len(messages) == 2
    assert any('exit status 1 (no network)' in text for text in messages)


def test_a_silent_store_ends_the_run_after_three_shards(tmp_path, messages):
    count = tmp_path / 'attempts'
    shards = [f'pipe:echo >> {count}; : {i}; sleep 600' for i in range(9)]
    dataset = ImageTextShards(shards, timeout=0.2, retries=1)
    message = r'no usable sample in 3 shards in a row.*no data for 0.2 s \(3\)'
    with pytest.raises(RuntimeError, match=message):
        next(iter(dataset))
    assert len(count.read_text()) == 6
    assert len(dataset.broken_shards()) == 3


def test_a_store_that_falls_silent_ends_the_run(tmp_path, messages):
    write_shards(tmp_path, 4, 40)
    opened = tmp_path / 'opened'
    # What was opened before the store fell silent ends as it should.
    silent = f'echo >> {opened}; test $(wc -l < {opened}) -gt 2 && sleep 600'
    shards = [f'pipe:{silent}; cat {tmp_path}/0000{i}.tar' for i in range(4)]
    dataset = ImageTextShards(
        shards, timeout=0.2, retries=0, open_shards=2, shuffle_buffer=0
    )
    samples = []
    with pytest.raises(
        RuntimeError, match=r'3 shards in a row.*no data for 0.2 s \(3\)'
    ):
        for sample in dataset:
            samples.append(sample)
    assert len(samples) == 80
    assert len(opened.read_text()) == 5


def test_shards_that_hang_among_others_are_passed_over(tmp_path, messages):
    write_shards(tmp_path, 8)
    shards = [f'pipe:cat {tmp_path}/0000{i}.tar' for i in range(8)]
    shards += ['pipe:true; sleep 600', 'pipe:sleep 600', 'pipe:sleep 601']
    # With this seed the three are not next to each other.
    dataset = ImageTextShards(
        shards, timeout=0.2, retries=0, open_shards=2, repeat=False, seed=6
    )
    assert sorted(keys_of(dataset)) == all_keys(8)
    assert len(dataset.broken_shards()) == 3


def test_rejected_samples_only_are_an_error(tmp_path):
    pattern = write_shards(tmp_path, 1)
    dataset = ImageTextShards(pattern, [lambda results: None])
    with pytest.raises(
        RuntimeError, match='pipeline rejected 1000 in a row.*00000.tar'
    ):
        next(iter(dataset))


def test_one_broken_shard_among_few_is_no_error(tmp_path, messages):
    pattern = write_shards(tmp_path, 2)
    break_shard(tmp_path / '00000.tar', 'missing')
    for dataset in (
        ImageTextShards(pattern, repeat=False),
        loader(ImageTextShards(pattern, repeat=False), 4),
    ):
        assert sorted(keys_of(dataset)) == all_keys(2)[5:]
    endless = take(loader(ImageTextShards(pattern), 4), 40)
    assert set(keys_of(endless)) == set(all_keys(2)[5:])


def test_no_worker_is_idle_with_fewer_shards_than_workers(tmp_path, monkeypatch):
    pattern = write_shards(tmp_path, 2)
    samples = []
    for index in range(3):
        rank(monkeypatch, index, 3)
        # The loader takes from its workers in turn.
        samples += take(loader(ImageTextShards(pattern), 2), 2 * PER_SHARD)
    # Six workers have read a shard each: the two of three epochs.
    keys = [(epoch_of(s), s['key']) for s in samples]
    assert sorted(keys) == [(e, key) for e in range(3) for key in all_keys(2)]


def mixture(tmp_path, **kwargs) -> ImageTextShards:
    shards = dict(
        cc=write_shards(tmp_path / 'cc', 4), yfcc=write_shards(tmp_path / 'yfcc', 2, 3)
    )
    return ImageTextShards(shards, **kwargs)


def test_mixture_by_size(tmp_path):
    dataset = mixture(tmp_path, shuffle_buffer=0)
    assert sorted(keys_of(mixture(tmp_path, repeat=False))) == sorted(
        all_keys(4) + all_keys(2, 3)
    )
    progress = ShardProgress(dataset.state)
    samples = take(loader(dataset, 1), 26 * 3)
    progress.update(sample['shard_position'] for sample in samples)
    assert progress.samples == dict(cc=60, yfcc=18)
    for epoch in range(3):
        paths = [s['img_path'] for s in samples if epoch_of(s) == epoch]
        assert len(set(paths)) == 26


def test_mixture_by_weights(tmp_path):
    dataset = mixture(tmp_path, weights=dict(cc=1, yfcc=3), shuffle_buffer=0)
    samples = take(dataset, 4 * (1 * 5 + 3 * 3))
    progress = ShardProgress(dataset.state)
    progress.update(sample['shard_position'] for sample in samples)
    # Of every four shards one is of cc; in 16, its four; the two of yfcc six times.
    assert progress.samples == dict(cc=20, yfcc=36)
    counts = Counter(sample['img_path'] for sample in samples)
    assert {path: n for path, n in counts.items() if '/cc/' in path} == {
        path: 1 for path in counts if '/cc/' in path
    }
    assert {n for path, n in counts.items() if '/yfcc/' in path} == {6}


@pytest.mark.parametrize(
    'weights', ['even', dict(cc=1), dict(cc=1, yfcc=0), dict(cc=1, other=1)]
)
def test_bad_weights(tmp_path, weights):
    with pytest.raises(ValueError, match='weights must be'):
        mixture(tmp_path, weights=weights)


def test_bad_arguments(tmp_path):
    bads = [dict(seed=-1), dict(retries=-1), dict(timeout=0), dict(open_shards=0)]
    bads += [{f'max_{what}': 0} for what in ('image_bytes', 'text_bytes', 'expansion')]
    for bad in bads:
        with pytest.raises(ValueError, match=next(iter(bad))):
            ImageTextShards('a.tar', **bad)
    with pytest.raises(ValueError, match='no source'):
        ImageTextShards({})
    with pytest.raises(ValueError, match='source cc names no shard'):
        ImageTextShards(dict(cc=[]))
    with pytest.raises(ValueError, match=r"nothing reads s3: .*'pipe:aws s3 cp"):
        ImageTextShards('s3://bucket/{0..1}.tar')
    with pytest.raises(
        FileNotFoundError, match=r'2 shards of b exists.*x/0.tar.*shards\.b '
    ):
        ImageTextShards(
            dict(a=write_shards(tmp_path, 1), b=str(tmp_path / 'x/{0..1}.tar'))
        ).full_init()
    with pytest.raises(FileNotFoundError, match=r'2 shards exists.*dataset\.shards to'):
        ImageTextShards(str(tmp_path / 'x/{0..1}.tar')).full_init()


def test_counts_reach_the_main_process_from_workers(tmp_path):
    pattern = write_shards(tmp_path, 4)
    break_shard(tmp_path / '00001.tar', 'cut in an image')
    write_tar(tmp_path / '00003.tar', {'1.jpg': jpeg(), '1.txt': b'', '2.jpg': b'x'})
    pipeline = [dict(type='LoadPILImage'), dict(type='PickCaption')]
    dataset = ImageTextShards(pattern, pipeline, repeat=False)
    list(loader(dataset, 2))
    totals = sample_counts.totals()
    expected = dict(broken_shard=1, empty_caption=1, incomplete_sample=1)
    assert {reason: totals[reason] for reason in expected} == expected


def test_dataset_survives_spawned_workers(tmp_path, monkeypatch):
    # A spawned worker has no process group: the rank must travel with the dataset.
    pattern = write_shards(tmp_path, 4)
    rank(monkeypatch, 1, 2)
    pipeline = [dict(type='LoadPILImage'), dict(type='PickCaption')]
    dataset = ImageTextShards(pattern, pipeline, repeat=False)
    expected = keys_of(dataset)
    spawned = DataLoader(
        dataset,
        batch_size=None,
        num_workers=1,
        collate_fn=copy,
        multiprocessing_context='spawn',
    )
    assert keys_of(spawned) == expected
    assert len(expected) == 2 * PER_SHARD  # half of the four
