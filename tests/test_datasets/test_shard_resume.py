"""Every sample of every epoch exactly once, however often a run is interrupted."""

from __future__ import annotations

import io
import os
import random
from collections import Counter
from collections.abc import Callable
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from shard_files import all_keys, epoch_of, write_shards, write_tar
from torch.utils.data import DataLoader

from pacl_mmseg.datasets.counts import sample_counts
from pacl_mmseg.datasets.shard_progress import Delivered, hash_names
from pacl_mmseg.datasets.shards import ImageTextShards, ShardProgress

SIZES = (3, 17, 8, 11, 5)


@pytest.fixture(autouse=True)
def zero_counts():
    sample_counts.reset()


def new_dataset(pattern, **kwargs) -> ImageTextShards:
    return ImageTextShards(pattern, **{'shuffle_buffer': 6, **kwargs})


def loaded(state: dict) -> dict:
    """Return a state as a checkpoint of tensors and plain values gives it back."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def names_of(samples) -> list[tuple[int, str]]:
    return [(epoch_of(s), s['img_path']) for s in samples]


def assert_once(names: list[tuple[int, str]], expected: list[str], epochs: int) -> None:
    """Every sample once in each of the first epochs, and none twice in any."""
    counts = Counter(names)
    assert set(counts.values()) == {1}
    for epoch in range(epochs):
        delivered = sorted(Path(name).stem for e, name in counts if e == epoch)
        assert delivered == sorted(expected)


class Ranks:
    """Ranks of one worker each, in this process, that deliver in a random order."""

    def __init__(self, new: Callable, number: int, state: dict | None, seed: int = 0):
        self.rng = random.Random(seed)
        self.datasets = [new() for _ in range(number)]
        for index, dataset in enumerate(self.datasets):
            dataset.rank, dataset.world_size = index, number
            if state is not None:
                dataset.load_state_dict(state)
        self.progress = [ShardProgress(dataset.state) for dataset in self.datasets]
        self.streams = dict(enumerate(map(iter, self.datasets)))

    def take(self, number: int | None = None) -> list[tuple[int, str]]:
        samples = []
        while self.streams and len(samples) != number:
            index = self.rng.choice(list(self.streams))
            sample = next(self.streams[index], None)
            if sample is None:
                del self.streams[index]
                continue
            samples.append(sample)
            self.progress[index].update([sample['shard_position']])
        return names_of(samples)

    def state(self) -> dict:
        states = [progress.state_dict() for progress in self.progress]
        self.rng.shuffle(states)
        return loaded(ShardProgress.merge(states))


def epochs_of(state: dict) -> list[int]:
    return [source['epoch'] for source in state['sources'].values()]


@pytest.mark.parametrize('buffer', [0, 6, 1000])
@pytest.mark.parametrize('ranks', [(1,), (2, 3), (8, 1, 4)])
def test_interrupted_again_and_again(tmp_path, ranks, buffer):
    pattern = write_shards(tmp_path, 5, SIZES)
    state, delivered = None, []
    for attempt in range(12):
        number = ranks[attempt % len(ranks)]
        run = Ranks(
            lambda: new_dataset(pattern, shuffle_buffer=buffer), number, state, attempt
        )
        delivered += run.take(run.rng.randrange(1, 40))
        state = run.state()
    (epoch,) = epochs_of(state)
    assert epoch >= 1
    assert_once(delivered, all_keys(5, SIZES), epoch)


def test_one_epoch_is_completed_after_an_interruption(tmp_path):
    pattern = write_shards(tmp_path, 5, SIZES)
    for number in range(1, 45, 4):
        begun = Ranks(lambda: new_dataset(pattern, repeat=False), 2, None, number)
        names = begun.take(number)
        rest = Ranks(lambda: new_dataset(pattern, repeat=False), 3, begun.state())
        names += rest.take()
        assert_once(names, all_keys(5, SIZES), 1)
        assert len(names) == sum(SIZES)


@pytest.mark.parametrize('weights', ['size', dict(a=1, b=4)])
def test_mixture_is_resumed(tmp_path, weights):
    shards = dict(a=write_shards(tmp_path / 'a', 5, SIZES))
    shards['b'] = write_shards(tmp_path / 'b', 3, (2, 9, 4))

    def new():
        return new_dataset(shards, weights=weights)

    state, delivered = None, []
    for attempt, number in enumerate((2, 3, 1, 4, 2, 2)):
        run = Ranks(new, number, state, attempt)
        delivered += run.take(45)
        state = run.state()
    for (name, sizes), epochs in zip(
        dict(a=SIZES, b=(2, 9, 4)).items(), epochs_of(state), strict=True
    ):
        own = [(e, path) for e, path in delivered if f'/{name}/' in path]
        assert epochs >= 1
        assert_once(own, all_keys(len(sizes), sizes), epochs)
        assert max(e for e, _ in own) <= epochs + (2 if weights == 'size' else 9)
    if weights != 'size':
        assert epochs_of(state)[1] > epochs_of(state)[0]


def test_the_same_sequence_whenever_nothing_is_interrupted(tmp_path):
    pattern = write_shards(tmp_path, 5, SIZES)
    first, second = (
        names_of(islice(DataLoader(new_dataset(pattern), None, num_workers=2), 100))
        for _ in range(2)
    )
    assert first == second


def test_delivered_samples_are_not_decoded_again(tmp_path):
    pattern = write_shards(tmp_path, 2, 9)
    begun = Ranks(lambda: new_dataset(pattern, shuffle_buffer=0), 1, None)
    before = begun.take(5)
    decoded = []

    def note(results: dict) -> dict:
        decoded.append(results['img_path'])
        return results

    rest = new_dataset(pattern, pipeline=[note], shuffle_buffer=0, repeat=False)
    rest.load_state_dict(begun.state())
    assert len(list(rest)) == len(decoded) == 13
    assert not {path for _, path in before} & set(decoded)


def test_state_is_small_and_pruned():
    source = Delivered(3000, names_hash='abc')
    for epoch in range(10):
        for shard in range(3000):
            source.add(epoch, shard, 1 | 1 << 99)
            source.close(epoch, shard)
    assert source.state_dict() == dict(
        num_shards=3000, names_hash='abc', epoch=10, done={}, open={}
    )
    source.add(11, 7, 1 << 9999)
    source.close(12, 2999)
    state = source.state_dict()
    assert len(repr(state)) < 3500
    assert Delivered(**loaded(state)).state_dict() == state
    assert Delivered(**state).samples(11, 7) == 1 << 9999
    assert Delivered(**state).is_done(12, 2999)


def test_epochs_of_a_rank_are_pruned_when_all_are_merged(tmp_path):
    pattern = write_shards(tmp_path, 6)
    run = Ranks(lambda: new_dataset(pattern), 3, None)
    run.take(6 * 5 * 8)
    for progress in run.progress:  # knows of its own share alone
        assert epochs_of(progress.state_dict()) == [0]
    state = run.state()
    assert epochs_of(state)[0] >= 6
    assert len(state['sources']['all']['done']) <= 3


def test_state_of_other_data_is_refused(tmp_path):
    pattern = write_shards(tmp_path, 3)
    state = Ranks(lambda: new_dataset(pattern), 1, None).state()
    fewer = str(tmp_path / '{00000..00001}.tar')
    for data, words in (
        (dict(pattern=pattern, seed=1), r'seed = 0.*seed = 1'),
        (dict(pattern=fewer), r"num_shards = {'all': 3}.*num_shards = {'all': 2}"),
        (dict(pattern=dict(cc=pattern)), r"{'all': 3}.*{'cc': 3}"),
    ):
        with pytest.raises(ValueError, match=words):
            new_dataset(**data).load_state_dict(state)
    others = [str(tmp_path / f'{name}.tar') for name in ('00000', '00001', '00003')]
    for data in (others, list(reversed(new_dataset(pattern).shards['all']))):
        with pytest.raises(ValueError, match=r'names_hash.*same names in the same'):
            new_dataset(data).load_state_dict(state)
    moved = [
        f'pipe:curl -s https://store/{i:05d}.tar?version=1 | cat' for i in range(3)
    ]
    new_dataset(moved).load_state_dict(state)
    for old in ({}, dict(seed=0, num_shards=3, workers={0: [0, 1]})):
        with pytest.raises(ValueError, match='start anew from the weights'):
            new_dataset(pattern).load_state_dict(old)


def test_names_without_their_folders():
    same = ['x/00.tar', '/y z/00.tar', "pipe:cat 'x/00.tar' | cat", 's3://b/00.tar']
    assert len({hash_names([name, 'b/1.tar']) for name in same}) == 1
    other = ['x/01.tar', 'x/00', 'x/01', 'pipe:get 02.tar -']
    assert len({hash_names([name, 'b/1.tar']) for name in (*same, *other)}) == 5
    assert hash_names(['a.tar', 'b.tar']) != hash_names(['b.tar', 'a.tar'])


def test_progress_without_shards():
    empty = ShardProgress()
    empty.update([])
    assert empty.state_dict() == empty.samples == {}
    assert ShardProgress.merge([{}, {}]) == {}


def test_states_of_different_runs_are_not_merged(tmp_path):
    pattern = write_shards(tmp_path, 3)
    states = [new_dataset(pattern, seed=seed).state for seed in (0, 1)]
    with pytest.raises(ValueError, match='states cannot be merged.*seed = 1'):
        ShardProgress.merge(states)


def reject_some(results: dict) -> dict | None:
    return None if results['key'].endswith('3') else results


def train_and_die(index, ranks, workers, batches, pattern, folder, state) -> None:
    """One rank of a run that ends without warning, with batches in flight."""
    torch.set_num_threads(1)
    address = f'file://{folder}/rendezvous'
    dist.init_process_group('gloo', address, rank=index, world_size=ranks)
    dataset = new_dataset(pattern, pipeline=[reject_some])
    if state is not None:
        dataset.load_state_dict(state)
    loader = DataLoader(
        dataset, 3, num_workers=workers, prefetch_factor=3, collate_fn=list
    )
    progress = ShardProgress(dataset.state)
    names = []
    for batch in islice(loader, batches):
        progress.update(sample['shard_position'] for sample in batch)
        names += names_of(batch)
    found = dict(
        names=names,
        state=progress.state_dict(),
        own=sample_counts.totals(),
        all=sample_counts.totals(reduce=True),
        broken=dataset.broken_shards(),
    )
    torch.save(found, folder / f'{index}.pth')
    dist.barrier()
    os._exit(0)


def test_many_processes_deliver_every_sample_once(tmp_path):
    pattern = write_shards(tmp_path / 'shards', 8, (*SIZES, 6, 9, 4))
    # One is missing, one is cut, and one has samples that are not complete.
    (tmp_path / 'shards' / '00003.tar').unlink()
    cut = tmp_path / 'shards' / '00006.tar'
    data = cut.read_bytes()
    cut.write_bytes(data[: data.index(b'000006005.jpg')])
    members = {'7.jpg': b'x', '7.txt': b'fine', '8.jpg': b'x', '9.txt': b'no image'}
    write_tar(tmp_path / 'shards' / '00007.tar', members)
    expected = all_keys(8, (3, 17, 8, 0, 5, 6, 4, 0)) + ['7']
    expected = [key for key in expected if not key.endswith('3')]
    state, names, broken = None, [], set()
    context = get_context('fork')
    for number, (ranks, workers, batches) in enumerate(
        [(2, 2, 5), (1, 3, 12), (3, 1, 6), (2, 4, 5)]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        processes = [
            context.Process(
                target=train_and_die,
                args=(index, ranks, workers, batches, pattern, folder, state),
            )
            for index in range(ranks)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            assert process.exitcode == 0
        found = [
            torch.load(folder / f'{index}.pth', weights_only=True)
            for index in range(ranks)
        ]
        for of_rank in found:
            names += of_rank['names']
            assert of_rank['broken'] == found[0]['broken']
            for reason, count in of_rank['all'].items():
                assert count >= of_rank['own'][reason]
            assert of_rank['all'] == found[0]['all']
        broken.update(found[0]['broken'])
        state = ShardProgress.merge([of_rank['state'] for of_rank in found])
    (epoch,) = epochs_of(state)
    assert epoch >= 2
    assert_once(names, expected, epoch)
    assert {Path(name).name for name in broken} == {'00003.tar', '00006.tar'}
