import random
from collections import Counter
from itertools import chain, islice

import pytest

from pacl_mmseg.datasets.shard_order import deal, mix, shard_sequence
from pacl_mmseg.datasets.shard_progress import Delivered


def sequence(*sizes: int, weights=None, seed: int = 0, **kwargs):
    sources = [Delivered(size) for size in sizes]
    return shard_sequence(sources, weights or sizes, seed, **kwargs)


def test_one_source_is_a_permutation_per_epoch():
    items = list(islice(sequence(7), 28))
    epochs = [[shard for _, e, shard in items if e == epoch] for epoch in range(4)]
    assert [epoch for _, epoch, _ in items] == [e for e in range(4) for _ in range(7)]
    assert all(sorted(order) == list(range(7)) for order in epochs)
    assert len({tuple(order) for order in epochs}) > 1
    assert items == list(islice(sequence(7), 28))
    assert items != list(islice(sequence(7, seed=1), 28))
    assert list(sequence(7, num_epochs=1)) == items[:7]


@pytest.mark.parametrize('sizes', [(6, 3), (332, 1243, 7), (1, 1, 1)])
def test_by_size_all_sources_pass_once_per_epoch_evenly(sizes):
    total = sum(sizes)
    items = list(islice(sequence(*sizes), 3 * total))
    for epoch in range(3):
        part = items[epoch * total : (epoch + 1) * total]
        assert {e for _, e, _ in part} == {epoch}
        assert len(set(part)) == total
        taken = Counter()
        for place, (source, _, _) in enumerate(part, 1):
            taken[source] += 1
            for index, size in enumerate(sizes):
                assert abs(taken[index] - place * size / total) < 1.5


def test_weights_are_shares_and_each_source_has_epochs_of_its_own():
    items = list(islice(sequence(4, 10, weights=(3, 1)), 400))
    sources = [source for source, _, _ in items]
    for start in range(0, 400, 4):  # as even as can be: in every four, three and one
        assert Counter(sources[start : start + 4]) == {0: 3, 1: 1}
    for index, (size, drawn) in enumerate([(4, 300), (10, 100)]):
        own = [(epoch, shard) for source, epoch, shard in items if source == index]
        assert len(set(own)) == drawn
        assert [epoch for epoch, _ in own] == [n // size for n in range(drawn)]


def test_what_was_delivered_is_left_out():
    whole = list(islice(sequence(5, 3), 24))
    sources = [Delivered(5), Delivered(3)]
    for source, epoch, shard in whole[:9] + whole[12:14]:
        sources[source].close(epoch, shard)
    rest = shard_sequence(sources, (5, 3), 0)
    assert list(islice(rest, 13)) == whole[9:12] + whole[14:]


@pytest.mark.parametrize('num_workers', [1, 2, 5, 12])
def test_dealing_gives_every_item_to_one_worker(num_workers):
    dealt = [
        list(deal(sequence(11, num_epochs=2), w, num_workers, 0))
        for w in range(num_workers)
    ]
    assert sorted(chain(*dealt)) == sorted(sequence(11, num_epochs=2))
    lengths = {len(items) for items in dealt}
    assert max(lengths) - min(lengths) <= 1


def test_no_worker_is_tied_to_a_source():
    # Two sources alternate, so that a fixed stride of 4 would always meet the same.
    for worker in range(4):
        items = islice(deal(sequence(50, 50), worker, 4, 0), 100)
        of_source = Counter(source for source, _, _ in items)
        assert 30 < of_source[0] < 70


def stream(items, per_shard: int = 4):
    for item in items:
        for number in range(per_shard):
            yield item, number, (item, number)
        yield item, -1, None


@pytest.mark.parametrize('size', [0, 1, 6, 1000])
def test_mixing_keeps_epochs_in_order_and_ends_after_their_samples(size):
    items = list(islice(sequence(6, 3), 27))
    mixed = list(mix(stream(items), size, random.Random(0)))
    assert sorted(mixed, key=repr) == sorted(stream(items), key=repr)
    seen = Counter()
    for item, number, sample in mixed:
        if sample is None:
            assert (seen[item], number) == (4, -1)
        else:
            assert sample == (item, number)
            seen[item] += 1
    for source in (0, 1):
        epochs = [i[1] for i, _, s in mixed if s and i[0] == source]
        assert epochs == sorted(epochs)
    assert (mixed == list(stream(items))) == (size == 0)


def test_mixing_holds_back_no_more_than_the_buffer():
    read = []

    def watched():
        for entry in stream(islice(sequence(30), 30)):
            read.append(entry)
            yield entry

    mixed = mix(watched(), 10, random.Random(0))
    next(mixed)
    assert sum(sample is not None for _, _, sample in read) == 11
