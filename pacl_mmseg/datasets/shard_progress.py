"""What has been delivered of each shard, and the state to resume from."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Item = tuple[int, int, int]
"""One reading of a shard: the index of its source, the epoch, its own index."""


def write_position(item: Item, sample: int, closed: Sequence[Item]) -> str:
    """Write a sample's ``shard_position``.

    A text, as that is what costs a data loader least to pass on: it looks into tuples.

    Args:
        item: Its shard.
        sample: Its place in the shard.
        closed: The shards whose last sample came before it, of those
            that no earlier sample of the same data worker has told of.

    Returns:
        Such as ``'0 2 17:345'``, and ``':0 2 16'`` for each closed shard.
    """
    first, *others = (
        f'{source} {epoch} {shard}' for source, epoch, shard in (item, *closed)
    )
    return ':'.join((first, str(sample), *others))


def _read_item(text: str) -> Item:
    source, epoch, shard = map(int, text.split())
    return source, epoch, shard


def hash_names(urls: Iterable[str]) -> str:
    """Return a short hash of shards' names, without their folders, in their order.

    A name is the last word that has ``.tar`` in it, so that paths, URLs and commands
    of copies of the same shards have the same hash, or else what follows the last
    slash.
    """
    names = []
    for url in urls:
        found = re.findall(r'[^\s/\'"=]+\.tar\b', url)
        names.append(found[-1] if found else url.rpartition('/')[2])
    return hashlib.sha256('\n'.join(names).encode()).hexdigest()[:16]


class Delivered:
    """What has been delivered of one source's shards, epoch by epoch.

    A set of shards or of samples is the bits of an integer, which takes 1.25 kB for a
    shard of 10,000 samples; in a state it is written in hexadecimal.

    Args:
        num_shards: Shards of the source.
        epoch: The first epoch that is not complete. Defaults to 0.
        done: By epoch, the shards delivered in full.
        open: By epoch and shard, the samples delivered
            of the other shards.
        names_hash: :func:`hash_names` of the shards.
    """

    def __init__(
        self,
        num_shards: int,
        epoch: int = 0,
        done: Mapping[int, str] | None = None,
        open: Mapping[tuple[int, int], str] | None = None,
        names_hash: str = '',
    ) -> None:
        self.num_shards = num_shards
        self.names_hash = names_hash
        self.epoch = epoch
        self._done = {k: int(bits, 16) for k, bits in (done or {}).items()}
        self._open = {tuple(k): int(bits, 16) for k, bits in (open or {}).items()}

    def is_done(self, epoch: int, shard: int) -> bool:
        """Tell whether nothing of a shard is left in an epoch."""
        return epoch < self.epoch or bool(self._done.get(epoch, 0) >> shard & 1)

    def samples(self, epoch: int, shard: int) -> int:
        """Return which samples of an open shard were delivered, as bits."""
        return self._open.get((epoch, shard), 0)

    def add(self, epoch: int, shard: int, samples: int) -> None:
        """Note that samples of a shard were delivered, as bits."""
        if not self.is_done(epoch, shard):
            self._open[epoch, shard] = self.samples(epoch, shard) | samples

    def close(self, epoch: int, shard: int) -> None:
        """Note that nothing of a shard is left in an epoch."""
        if not self.is_done(epoch, shard):
            self._done[epoch] = self._done.get(epoch, 0) | 1 << shard
            self._prune()

    def merge(self, other: Delivered) -> None:
        """Add what another process delivered of the same source."""
        self.epoch = max(self.epoch, other.epoch)
        for own, others in ((self._done, other._done), (self._open, other._open)):
            for key, bits in others.items():
                own[key] = own.get(key, 0) | bits
        self._prune()

    def state_dict(self) -> dict:
        """Return the arguments that make an equal object: plain numbers and texts."""
        return dict(
            num_shards=self.num_shards,
            names_hash=self.names_hash,
            epoch=self.epoch,
            done={key: f'{bits:x}' for key, bits in sorted(self._done.items())},
            open={key: f'{bits:x}' for key, bits in sorted(self._open.items())},
        )

    def _prune(self) -> None:
        while self._done.get(self.epoch) == (1 << self.num_shards) - 1:
            self.epoch += 1
        self._done = {e: bits for e, bits in self._done.items() if e >= self.epoch}
        self._open = {k: bits for k, bits in self._open.items() if not self.is_done(*k)}


def parse_state(state: Mapping[str, Any]) -> dict[str, Delivered]:
    """Return what a state says was delivered of every source, by name."""
    return {name: Delivered(**source) for name, source in state['sources'].items()}


def format_state(seed: int, sources: Mapping[str, Delivered]) -> dict:
    """Return the state of :meth:`ShardProgress.state_dict`; see there."""
    return dict(
        seed=seed,
        sources={name: source.state_dict() for name, source in sources.items()},
    )


def check_same(first: dict, *others: dict, what: str) -> None:
    """Raise if states are not of the same seed, sources, and shards."""

    def identity(state: dict) -> dict:
        shards = {
            key: {name: source[key] for name, source in state['sources'].items()}
            for key in ('num_shards', 'names_hash')
        }
        return dict(seed=state['seed'], **shards)

    for other in others:
        for name, value in identity(first).items():
            if identity(other)[name] != value:
                raise ValueError(
                    f'{what}: one has {name} = {value}, the other {name} = '
                    f'{identity(other)[name]}; go on with the seed and the shards, of '
                    'the same names in the same order, that the run began with'
                )


class ShardProgress:
    """Follows in the main process which samples of the shards have been used.

    Args:
        state: ``ImageTextShards.state``, to go on from. Without one,
            the data have no shards and there is nothing to follow.
    """

    def __init__(self, state: dict | None = None) -> None:
        self._seed = state['seed'] if state else 0
        self._sources = parse_state(state) if state else {}
        self._counts = [0] * len(self._sources)

    @property
    def samples(self) -> dict[str, int]:
        """dict[str, int]: Samples of each source used since this object was made."""
        return dict(zip(self._sources, self._counts, strict=True))

    def update(self, positions: Iterable[str]) -> None:
        """Take note of samples that have been used.

        Args:
            positions: Their ``shard_position``, in the order in which
                the data loader gave them.
        """
        samples: dict[str, int] = {}  # by shard, as bits
        ended: list[str] = []
        for position in positions:
            shard, sample, *closed = position.split(':')
            samples[shard] = samples.get(shard, 0) | 1 << int(sample)
            ended += closed
        sources = list(self._sources.values())
        for shard, bits in samples.items():
            source, *place = _read_item(shard)
            sources[source].add(*place, bits)
            self._counts[source] += bits.bit_count()
        for shard in ended:
            source, *place = _read_item(shard)
            sources[source].close(*place)

    def state_dict(self) -> dict:
        """Return the progress as plain numbers, texts and dicts.

        Returns:
            ``seed``, and ``sources`` by name, each with ``num_shards``; a
            ``names_hash`` of the shards' names without folders; the first
            ``epoch`` that is not complete; ``done``, by epoch the shards delivered in
            full; ``open``, by (epoch, shard) the samples delivered of others. A set is
            the bits of a hexadecimal number: a bit for each shard read in this run,
            until the states of all ranks are merged, and one for each sample of the
            shards that are open. Empty without shards.
        """
        return format_state(self._seed, self._sources) if self._sources else {}

    @staticmethod
    def merge(states: Sequence[dict]) -> dict:
        """Join the states of all ranks.

        Args:
            states: What :meth:`state_dict` gave on every rank.

        Returns:
            One state for all, from which any number of ranks can go on.

        Raises:
            ValueError: If they are of different data.
        """
        if not any(states):
            return {}
        check_same(states[0], *states[1:], what='states cannot be merged')
        merged = parse_state(states[0])
        for state in states[1:]:
            for name, source in parse_state(state).items():
                merged[name].merge(source)
        return format_state(states[0]['seed'], merged)
