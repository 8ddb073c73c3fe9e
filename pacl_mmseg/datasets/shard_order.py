"""Which shard is read when and by whom, and how samples are mixed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice
from typing import Any

from pacl_mmseg.datasets.draws import permutation
from pacl_mmseg.datasets.shard_progress import Delivered, Item


def shard_sequence(
    sources: Sequence[Delivered],
    weights: Sequence[float],
    seed: int,
    num_epochs: int | None = None,
) -> Iterator[Item]:
    """Put all shards of all epochs in one order, and yield those that are left.

    Each source goes through its shards epoch by epoch, in a random order of each
    epoch's own. The next shard is one of the source that is furthest behind its
    weight: Sainte-Laguë's rule, by which the sources alternate as evenly as they can,
    and which, with the numbers of shards as weights, ends all their epochs together.

    Args:
        sources: What was delivered of every source.
        weights: Relative numbers of shards, positive.
        seed: Seed of the orders.
        num_epochs: Epochs of every source; endless by default.

    Yields:
        A shard to read.
    """
    ends = [num_epochs and num_epochs * source.num_shards for source in sources]
    taken = [source.epoch * source.num_shards for source in sources]
    orders: dict[int, list[int]] = {}
    while True:
        left = [i for i, end in enumerate(ends) if end is None or taken[i] < end]
        if not left:
            return
        index = min(left, key=lambda i: (taken[i] + 0.5) / weights[i])
        source = sources[index]
        epoch, place = divmod(taken[index], source.num_shards)
        taken[index] += 1
        if place == 0:
            orders[index] = permutation(source.num_shards, seed, epoch).tolist()
        shard = orders[index][place]
        if not source.is_done(epoch, shard):
            yield index, epoch, shard


def deal(
    sequence: Iterator[Item], worker: int, num_workers: int, seed: int
) -> Iterator[Item]:
    """Yield a worker's part of a sequence: one item of each round of ``num_workers``.

    Which one differs from round to round, as otherwise a worker could get shards of
    one source alone, or large ones alone and fall behind.

    Args:
        sequence: What all workers of all ranks share.
        worker: The worker's index among all.
        num_workers: How many there are.
        seed: Seed of the dealing.

    Yields:
        What this worker reads.
    """
    for number in count():
        cards = list(islice(sequence, num_workers))
        place = int(permutation(num_workers, seed, number)[worker])
        if place < len(cards):
            yield cards[place]
        if len(cards) < num_workers:
            return


def mix(
    samples: Iterable[tuple[Item, int, Any]], size: int, rng: random.Random
) -> Iterator[tuple[Item, int, Any]]:
    """Shuffle a stream of shards' samples in a buffer.

    Of a source, the samples of an epoch come before those of the next, so that a small
    corpus does not meet itself in one batch; two epochs at most are held.

    Args:
        samples: For each sample its shard, a number
            and the sample; after the last of a shard a number and None.
        size: Samples held back; 0 keeps the order.
        rng (random.Random): Draws them.

    Yields:
        The same, and the end of a shard still after its last
        sample.
    """
    pools: dict[int, dict[int, list]] = {}  # by source and epoch
    held = 0
    waiting: Counter[Item] = Counter()
    ended: dict[Item, int] = {}

    def take(source: int) -> Iterator[tuple[Item, int, Any]]:
        nonlocal held
        held -= 1
        epoch = min(pools[source])
        pool = pools[source][epoch]
        # Swapping is what makes taking from a large buffer cheap.
        index = rng.randrange(len(pool))
        pool[index], pool[-1] = pool[-1], pool[index]
        item, number, sample = pool.pop()
        if not pool:
            del pools[source][epoch]
        yield item, number, sample
        waiting[item] -= 1
        yield from end(item)

    def end(item: Item) -> Iterator[tuple[Item, int, None]]:
        if item in ended and not waiting[item]:
            del waiting[item]
            yield item, ended.pop(item), None

    def any_source() -> int:
        sizes = [sum(map(len, epochs.values())) for epochs in pools.values()]
        return rng.choices(list(pools), sizes)[0]

    for item, number, sample in samples:
        if sample is None:
            ended[item] = number
            yield from end(item)
            continue
        source, epoch, _ = item
        epochs = pools.setdefault(source, {})
        epochs.setdefault(epoch, []).append((item, number, sample))
        waiting[item] += 1
        held += 1
        while len(epochs) > 2:
            yield from take(source)
        if held > size:
            yield from take(any_source())
    while held:
        yield from take(any_source())
