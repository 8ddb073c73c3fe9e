import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from pacl_mmseg.datasets import shards as shards_module
from pacl_mmseg.datasets.counts import sample_counts
from pacl_mmseg.datasets.shards import ImageTextShards, ShardProgress
from pacl_mmseg.registry import DATASETS

PER_SHARD = 5


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


def jpeg(value: int = 0) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(value).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, 'JPEG')
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, 'w') as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def write_shards(folder: Path, number: int, per_shard: int = PER_SHARD) -> str:
    """Write shards whose keys are shard * 1000 + index; return their pattern."""
    for shard in range(number):
        members = {}
        for index in range(per_shard):
            key = f'{shard * 1000 + index:09d}'
            members[f'{key}.jpg'] = jpeg(index)
            members[f'{key}.txt'] = f'caption {key}'.encode()
            members[f'{key}.json'] = json.dumps(dict(key=key)).encode()
        write_tar(folder / f'{shard:05d}.tar', members)
    return str(folder / f'{{00000..{number - 1:05d}}}.tar')


def all_keys(number: int, per_shard: int = PER_SHARD) -> list[str]:
    return [f'{s * 1000 + i:09d}' for s in range(number) for i in range(per_shard)]


def keys_of(samples) -> list[str]:
    return [sample['key'] for sample in samples]


def take(iterable, number: int) -> list:
    iterator = iter(iterable)
    return [next(iterator) for _ in range(number)]


def rank(monkeypatch, index: int, world_size: int) -> None:
    monkeypatch.setattr(shards_module, 'get_dist_info', lambda: (index, world_size))


def loader(dataset, workers: int) -> DataLoader:
    return DataLoader(dataset, batch_size=None, num_workers=workers)


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
            metainfo=dict(name='test'),
        )
    )
    samples = list(dataset)
    assert keys_of(samples) == all_keys(1)
    assert [s['caption'] for s in samples] == [f'caption {k}' for k in all_keys(1)]
    decoded = np.asarray(Image.open(io.BytesIO(jpeg(3))))
    assert (samples[3]['img'][..., ::-1] == decoded).all()
    assert samples[0]['img_path'] == f'{tmp_path}/00000.tar/000000000.jpg'
    assert dataset.metainfo == dict(name='test')


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


def test_patterns_are_expanded(tmp_path):
    write_shards(tmp_path, 12)
    patterns = ['{00000..00009}.tar', '{00010,00011}.tar']
    dataset = ImageTextShards(patterns, data_root=str(tmp_path), repeat=False)
    assert len(dataset.shards) == 12
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
    keys = keys_of(ImageTextShards(pattern, shuffle_buffer=0, repeat=False))
    for start in range(0, 15, 5):
        assert keys[start : start + 5] == sorted(keys[start : start + 5])
    assert sorted(keys) == all_keys(3)


def test_transforms_are_a_function_of_seed_epoch_and_key(tmp_path):
    pattern = write_shards(tmp_path, 4)

    def add_noise(results: dict) -> dict:
        return {**results, 'noise': np.random.rand() + torch.rand(1).item()}

    def noise(workers: int, seed: int = 0, number: int = 20) -> dict:
        dataset = ImageTextShards(pattern, [add_noise], seed=seed, shuffle_buffer=9)
        samples = take(loader(dataset, workers), number)
        return {(s['key'], s['shard_position'][2]): s['noise'] for s in samples}

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
    if how not in LOSING_THREE:
        return
    # The third sample is the first to be lost.
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


LOSING_THREE = ['cut in an image', 'cut in a header', 'cut between', 'damaged header']


@pytest.mark.parametrize('how', ['missing', 'empty', 'not tar', *LOSING_THREE])
def test_broken_shard_is_passed_over_and_named_once(tmp_path, messages, how):
    pattern = write_shards(tmp_path, 4)
    break_shard(tmp_path / '00002.tar', how)
    pipeline = [dict(type='LoadPILImage'), dict(type='PickCaption')]
    dataset = ImageTextShards(pattern, pipeline, shuffle_buffer=0)
    intact = [key for key in all_keys(4) if not key.startswith('000002')]
    complete = 2 if how in LOSING_THREE else 0
    expected = [*intact, *(f'{2000 + i:09d}' for i in range(complete))]
    samples = take(dataset, 2 * len(expected) + 1)  # two epochs
    for epoch in range(2):
        got = keys_of(s for s in samples if s['shard_position'][2] == epoch)
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


@pytest.mark.parametrize(
    'command', ['cat {path}.no 2> /dev/null', 'cat {path}; exit 3', 'false']
)
def test_failing_pipe_is_counted(tmp_path, messages, command):
    write_shards(tmp_path, 2)
    broken = 'pipe:' + command.format(path=tmp_path / '00001.tar')
    dataset = ImageTextShards([str(tmp_path / '00000.tar'), broken], repeat=False)
    keys = keys_of(dataset)
    # How much of a command's output counts when it fails is a matter of timing.
    assert set(all_keys(1)) <= set(keys) <= set(all_keys(2))
    assert len(set(keys)) == len(keys)
    assert sample_counts.totals()['broken_shard'] == 1
    assert len(messages) == 1 and broken in messages[0]


def test_incomplete_samples_are_counted(tmp_path):
    members = {'0.jpg': b'x', '0.txt': b'fine', '1.jpg': b'x', '2.txt': b'no image'}
    members |= {'3.jpg': b'', '3.txt': b'empty image', '4.jpg': b'x', '4.txt': b''}
    write_tar(tmp_path / 'a.tar', members)
    dataset = ImageTextShards(str(tmp_path / 'a.tar'), shuffle_buffer=0, repeat=False)
    assert keys_of(dataset) == ['0', '4']  # that a text is blank is seen when cleaned
    assert sample_counts.totals()['incomplete_sample'] == 3


def test_epoch_without_any_sample_is_an_error(tmp_path, messages):
    pattern = write_shards(tmp_path, 3)
    break_shard(tmp_path / '00000.tar', 'missing')
    break_shard(tmp_path / '00001.tar', 'empty')
    (tmp_path / '00002.tar').unlink()
    write_tar(tmp_path / '00002.tar', {'1.jpg': b'x'})
    with pytest.raises(RuntimeError) as error:
        next(iter(ImageTextShards(pattern)))
    for text in (
        '3 shards',
        'No such file',
        'empty file',
        'without an image or a text',
    ):
        assert text in str(error.value)


def test_epoch_of_rejected_samples_is_an_error(tmp_path):
    pattern = write_shards(tmp_path, 1)
    dataset = ImageTextShards(pattern, [lambda results: None])
    with pytest.raises(RuntimeError, match=r'rejected by the pipeline \(5\)'):
        next(iter(dataset))


def test_fewer_shards_than_ranks(tmp_path, monkeypatch):
    rank(monkeypatch, 0, 4)
    dataset = ImageTextShards(write_shards(tmp_path, 3))
    with pytest.raises(ValueError, match=r'3 shards.*4 ranks'):
        next(iter(dataset))


def test_fewer_shards_than_workers(tmp_path, monkeypatch):
    pattern = write_shards(tmp_path, 3)
    log = tmp_path / 'log'  # a file, for the workers' messages to get here

    def note(text: str, **_) -> None:
        with log.open('a') as file:
            file.write(text + '\n')

    monkeypatch.setattr(shards_module, 'print_log', note)
    per_rank = []
    for index in range(2):
        rank(monkeypatch, index, 2)
        per_rank.append(keys_of(loader(ImageTextShards(pattern, repeat=False), 4)))
    assert all(per_rank)  # both ranks have something
    assert sorted(per_rank[0] + per_rank[1]) == all_keys(3)
    assert (
        log.read_text() == '3 shards for 8 data workers: 5 of them have nothing to do\n'
    )


def run(dataset, workers: int, number: int) -> tuple[list[str], dict]:
    """Deliver some samples; return their keys and the state afterwards."""
    progress = ShardProgress(dataset.state)
    samples = take(loader(dataset, workers), number)
    progress.update(sample['shard_position'] for sample in samples)
    return keys_of(samples), progress.state_dict()


def run_ranks(monkeypatch, new, ranks: int, state: dict, number: int | None):
    """Deliver samples on several ranks in turn, each in this process.

    Args:
        new: makes a dataset.
        ranks: how many there are.
        state: to start from; empty for the beginning.
        number: of samples that all deliver together; None for all there are.

    Returns:
        The samples, and a function that gives the merged state.
    """
    streams, progress = [], []
    for index in range(ranks):
        rank(monkeypatch, index, ranks)
        dataset = new()
        if state:
            dataset.load_state_dict(state)
        progress.append(ShardProgress(dataset.state))
        streams.append((progress[-1], iter(dataset)))
    samples = []
    while streams and len(samples) != number:
        follower, stream = streams.pop(0)
        sample = next(stream, None)
        if sample is not None:
            samples.append(sample)
            follower.update([sample['shard_position']])
            streams.append((follower, stream))
    return samples, lambda: ShardProgress.merge([p.state_dict() for p in progress])


def shards_of(keys) -> set[str]:
    return {key[:6] for key in keys}


def complete_shards(keys) -> set[str]:
    counts = Counter(key[:6] for key in set(keys))
    return {shard for shard, number in counts.items() if number == PER_SHARD}


@pytest.mark.parametrize('number', [1, 14, 15, 29, 40])
def test_resume_with_the_same_workers(tmp_path, number):
    pattern = write_shards(tmp_path, 8)
    before, state = run(ImageTextShards(pattern, shuffle_buffer=0), 2, number)
    resumed = ImageTextShards(pattern, shuffle_buffer=0, repeat=False)
    resumed.load_state_dict(json.loads(json.dumps(state)))
    after = keys_of(loader(resumed, 2))
    assert set(before) | set(after) == set(all_keys(8))
    assert len(set(after)) == len(after)
    # Nothing is read again but, for each worker, the shard it was reading.
    again = shards_of(before) & shards_of(after)
    assert len(again) <= 2
    assert shards_of(before) - again == shards_of(all_keys(8)) - shards_of(after)
    if number == 40:
        assert after == []


def test_resume_with_a_buffer_loses_nothing(tmp_path):
    pattern = write_shards(tmp_path, 8)
    for number in range(0, 40, 3):
        dataset = ImageTextShards(pattern, shuffle_buffer=12)
        before, state = run(dataset, 0, number)
        resumed = ImageTextShards(pattern, shuffle_buffer=12, repeat=False)
        resumed.load_state_dict(state)
        after = keys_of(resumed)
        assert set(before) | set(after) == set(all_keys(8))
        assert shards_of(all_keys(8)) - shards_of(after) <= complete_shards(before)
        if number > 33:  # shards ahead of all that the buffer can hold
            assert len(after) < 40


def test_exact_continuation_at_a_shard_boundary(tmp_path):
    pattern = write_shards(tmp_path, 4)
    whole = keys_of(take(ImageTextShards(pattern, shuffle_buffer=0), 40))
    for number in (5, 10, 20, 25):
        keys, state = run(ImageTextShards(pattern, shuffle_buffer=0), 0, number)
        resumed = ImageTextShards(pattern, shuffle_buffer=0)
        resumed.load_state_dict(state)
        assert keys + keys_of(take(resumed, 40 - number)) == whole


@pytest.mark.parametrize('buffer', [0, 6])
@pytest.mark.parametrize('old, new', [(2, 3), (3, 1), (1, 2), (4, 6), (6, 4)])
def test_resume_with_other_numbers_of_workers(tmp_path, monkeypatch, buffer, old, new):
    pattern = write_shards(tmp_path, 7)
    everything = set(all_keys(7))

    def endless() -> ImageTextShards:
        return ImageTextShards(pattern, shuffle_buffer=buffer)

    def one_epoch() -> ImageTextShards:
        return ImageTextShards(pattern, shuffle_buffer=buffer, repeat=False)

    for number in (1, 9, 17, 23, 34, 35, 36, 50, 69, 80):
        before, state = run_ranks(monkeypatch, endless, old, {}, number)
        state = state()
        # A second interruption, with yet another number of workers after it.
        between, later = run_ranks(monkeypatch, endless, new, state, 8)
        later = later()
        json.dumps(later)
        for earlier, resume_from, workers in (
            (before, state, new),
            (before + between, later, 5),
        ):
            after, _ = run_ranks(monkeypatch, one_epoch, workers, resume_from, None)
            keys = keys_of(after)
            assert len(set(keys)) == len(keys)
            epochs = {s['shard_position'][2] for s in after}
            if not epochs:  # that epoch had been delivered to the end
                continue
            # A worker whose part of the epoch is empty begins with the next one.
            epoch = min(epochs)
            of_epoch = keys_of(s for s in earlier if s['shard_position'][2] == epoch)
            rest = keys_of(s for s in after if s['shard_position'][2] == epoch)
            assert set(of_epoch) | set(rest) == everything
            left_out = shards_of(everything) - shards_of(rest)
            assert left_out <= complete_shards(of_epoch)
            if buffer == 0:  # at most the last shard of each worker is not known over
                assert len(complete_shards(of_epoch) - left_out) <= 2 * max(old, new)


def test_completed_shards_are_not_read_after_a_change_of_workers(tmp_path):
    pattern = write_shards(tmp_path, 6)
    dataset = ImageTextShards(pattern, shuffle_buffer=0)
    # Two workers alternate: 13 samples are 7 and 6, so each finished one shard.
    before, state = run(dataset, 2, 13)
    finished = {s for s, n in Counter(k[:6] for k in before).items() if n == 5}
    assert len(finished) == 2
    resumed = ImageTextShards(pattern, shuffle_buffer=0, repeat=False)
    resumed.load_state_dict(state)
    rest = {key[:6] for key in keys_of(loader(resumed, 3))}
    assert len(rest) == 4 and not rest & finished


def test_idle_workers_do_not_hold_a_run_back(tmp_path):
    pattern = write_shards(tmp_path, 2)
    # Three workers for two shards: 27 samples are two epochs and a part of a third.
    _, state = run(ImageTextShards(pattern, shuffle_buffer=0), 3, 27)
    resumed = ImageTextShards(pattern, shuffle_buffer=0)
    resumed.load_state_dict(state)
    assert next(iter(resumed))['shard_position'][2] == 2


def test_resume_after_a_change_of_ranks(tmp_path, monkeypatch):
    pattern = write_shards(tmp_path, 8)
    before, states = [], []
    for index in range(2):
        rank(monkeypatch, index, 2)
        keys, state = run(ImageTextShards(pattern, shuffle_buffer=0), 2, 11)
        before += keys
        states.append(state)
    merged = ShardProgress.merge(states)
    assert merged['num_global_workers'] == 4
    assert sorted(merged['workers']) == [0, 1, 2, 3]

    same = []
    for index in range(2):
        rank(monkeypatch, index, 2)
        dataset = ImageTextShards(pattern, shuffle_buffer=0, repeat=False)
        dataset.load_state_dict(merged)
        same += keys_of(loader(dataset, 2))
    rank(monkeypatch, 0, 1)
    dataset = ImageTextShards(pattern, shuffle_buffer=0, repeat=False)
    dataset.load_state_dict(merged)
    alone = keys_of(dataset)
    for rest in (same, alone):
        assert set(before) | set(rest) == set(all_keys(8))
        assert len(rest) == 4 * PER_SHARD  # four of the eight were done
        assert len(set(rest)) == len(rest)


def test_workers_that_have_not_delivered_yet_keep_their_place(tmp_path):
    pattern = write_shards(tmp_path, 4)
    _, state = run(ImageTextShards(pattern, shuffle_buffer=0), 2, 14)
    resumed = ImageTextShards(pattern, shuffle_buffer=0)
    resumed.load_state_dict(state)
    _, later = run(resumed, 2, 1)  # of worker 0 only
    assert later['workers'][1] == state['workers'][1] != [0, 0]


def test_state_of_other_data_is_refused(tmp_path):
    pattern = write_shards(tmp_path, 3)
    _, state = run(ImageTextShards(pattern), 0, 4)
    with pytest.raises(ValueError, match=r'seed = 0.*seed = 1'):
        ImageTextShards(pattern, seed=1).load_state_dict(state)
    fewer = str(tmp_path / '{00000..00001}.tar')
    with pytest.raises(ValueError, match=r'num_shards = 3.*num_shards = 2'):
        ImageTextShards(fewer).load_state_dict(state)


def test_progress_without_samples():
    empty = ShardProgress().state_dict()
    assert ShardProgress.merge([empty, empty]) == empty
    with pytest.raises(ValueError, match='no state'):
        ShardProgress.merge([])


def test_progress_takes_the_furthest_position_and_merges():
    one, two = ShardProgress(), ShardProgress()
    one.update([(0, 2, 0, 3), (0, 2, 1, 0), (0, 2, 0, 4)])
    two.update([(1, 2, 0, 2)])
    merged = ShardProgress.merge([one.state_dict(), two.state_dict()])
    assert merged['workers'] == {0: [1, 0], 1: [0, 2]}
    assert merged['num_global_workers'] == 2
    three = ShardProgress()
    three.update([(2, 3, 0, 0)])
    with pytest.raises(ValueError, match='different runs'):
        ShardProgress.merge([one.state_dict(), three.state_dict()])


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
        dataset, batch_size=None, num_workers=1, multiprocessing_context='spawn'
    )
    assert keys_of(spawned) == expected
    assert len(expected) == 2 * PER_SHARD
