"""Image-text pairs streamed from webdataset tar shards, resumable."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import re
import sys
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch
import webdataset as wds
from mmengine.dataset import Compose
from mmengine.dist import get_dist_info
from mmengine.logging import print_log
from torch.utils.data import IterableDataset, get_worker_info
from webdataset.shardlists import expand_urls
from webdataset.tariterators import group_by_keys, tar_file_expander

from pacl_mmseg.datasets.counts import sample_counts
from pacl_mmseg.datasets.draws import permutation, seeded
from pacl_mmseg.datasets.image_text import build_pipeline
from pacl_mmseg.registry import DATASETS

IMAGE_SUFFIXES = ('jpg', 'jpeg', 'png', 'webp', 'bmp', 'gif', 'tif', 'tiff')

# What a run that starts at the beginning has delivered.
_NOTHING_DELIVERED: dict[str, Any] = {
    'first_epoch': 0,
    'done': [],
    'num_global_workers': 0,
    'workers': {},
}


def _epoch_shards(state: dict, epoch: int, worker: int, num_workers: int) -> list[int]:
    """The shards a global worker reads in an epoch, in order."""
    order = permutation(state['num_shards'], state['seed'], epoch).tolist()
    if epoch == state['first_epoch']:
        done = set(state['done'])
        order = [shard for shard in order if shard not in done]
    return order[worker::num_workers]


def _for_layout(state: dict, num_workers: int) -> dict:
    """Express a state for a number of global workers.

    With another number the shards that were delivered completely in the lowest
    epoch are set aside, and the rest of that epoch is dealt out anew.
    """
    old = state['num_global_workers']
    if old == num_workers:
        return state
    first = state['first_epoch']
    # Workers beyond the number of shards never have any, and hold nothing back.
    positions = {
        worker: state['workers'].get(worker, (first, 0))
        for worker in range(min(old, state['num_shards']))
    }
    lowest = min((epoch for epoch, _ in positions.values()), default=first)
    done = set(state['done']) if lowest == first else set()
    for worker, (epoch, low_water) in positions.items():
        shards = _epoch_shards(state, lowest, worker, old)
        done.update(shards if epoch > lowest else shards[:low_water])
    return {
        **state,
        'first_epoch': lowest,
        'done': sorted(done),
        'num_global_workers': num_workers,
        'workers': {},
    }


class ShardProgress:
    """Follows in the main process what the data workers have delivered.

    Args:
        state (dict, optional): ``ImageTextShards.state``, to continue from there
            with any number of workers. Defaults to the beginning.
    """

    def __init__(self, state: dict | None = None) -> None:
        self._state = {**_NOTHING_DELIVERED, **(state or {})}
        self._state['workers'] = dict(self._state['workers'])

    def update(self, positions: Iterable[Sequence[int]]) -> None:
        """Take note of samples that have been used.

        Args:
            positions (Iterable[Sequence[int]]): Their ``shard_position``.
        """
        for position in positions:
            worker, num_workers, epoch, low_water = (int(value) for value in position)
            if self._state['num_global_workers'] == 0:
                self._state['num_global_workers'] = num_workers
            elif self._state['num_global_workers'] != num_workers:
                self._state = _for_layout(self._state, num_workers)
            workers = self._state['workers']
            workers[worker] = max(workers.get(worker, [0, 0]), [epoch, low_water])

    def state_dict(self) -> dict:
        """Return the progress as plain numbers, lists and dicts.

        Returns:
            dict: ``num_global_workers``; ``workers``, which maps a global worker to
            ``[epoch, low_water]``; and what the epoch was that the run (re)started
            in, and which shards had been delivered in it before.
        """
        return {**self._state, 'workers': dict(sorted(self._state['workers'].items()))}

    @staticmethod
    def merge(states: Sequence[dict]) -> dict:
        """Join the states of all ranks.

        Args:
            states (Sequence[dict]): What :meth:`state_dict` gave on every rank.

        Returns:
            dict: One state for all.

        Raises:
            ValueError: If there is no state, or they are of different runs.
        """
        if not states:
            raise ValueError('there is no state to merge')
        # A rank that has taken no sample yet knows nothing that others do not.
        used = [state for state in states if state['num_global_workers']] or states[:1]
        common = [{k: v for k, v in s.items() if k != 'workers'} for s in used]
        if any(other != common[0] for other in common):
            raise ValueError(f'states of different runs cannot be merged: {common}')
        merged: dict[int, list[int]] = {}
        for state in used:
            for worker, position in state['workers'].items():
                merged[worker] = max(merged.get(worker, [0, 0]), list(position))
        return {**common[0], 'workers': dict(sorted(merged.items()))}


@DATASETS.register_module()
class ImageTextShards(IterableDataset):
    """Image-text pairs from tar shards as ``img2dataset`` writes them.

    A sample is ``key.jpg`` (or another image), ``key.txt`` and optionally
    ``key.json``, whose lists ``captions`` and ``nouns`` are used if there.

    Every epoch has its own order of the shards, from ``seed`` and the epoch. They
    are dealt out to all workers of all ranks, and each worker mixes its samples in
    a buffer. The random choices transforms make with the global CPU generators
    depend on the seed, the epoch, the shard and the key alone. Shards that are
    missing, empty, truncated or no tar files, and samples without an image or a
    text, are counted and passed over; each such shard is named in the log once.

    A pipeline gets ``img_bytes``, ``caption`` (bytes) or ``captions``, ``key``,
    ``img_path`` (shard/key.suffix), and ``shard_position``: the global worker, the
    number of global workers, the epoch, and the position in this worker's list for
    that epoch of the oldest shard which still has undelivered samples. From these
    :class:`ShardProgress` makes the state to resume from; shards that had been
    delivered in full are then not read again, ones that were open are read anew.

    As MMEngine's samplers do, a dataset takes its rank when it is constructed.

    Args:
        shards (str | list[str]): Paths or URLs, with ``{000..123}`` expanded as by
            webdataset; ``pipe:command`` reads what a command prints.
        pipeline (Sequence[dict | Callable]): The transforms. A sample for which
            they return ``None`` is passed over. Defaults to none.
        data_root (str): Folder that relative paths are relative to.
        seed (int): Seed of all random choices. Defaults to 0.
        shuffle_buffer (int): Samples held, encoded, by each worker to mix them;
            0 keeps the order of the shards. Defaults to 1000.
        repeat (bool): Whether to go on with the next epoch, without end.
            Defaults to True.
        metainfo (dict, optional): Meta information.

    Raises:
        ValueError: At construction, if there are no shards or the seed is negative;
            at iteration, if there are fewer shards than ranks.
        RuntimeError: At iteration, if a worker gets no sample in a whole epoch.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        pipeline: Sequence[dict | Callable] = (),
        data_root: str = '',
        seed: int = 0,
        shuffle_buffer: int = 1000,
        repeat: bool = True,
        metainfo: dict | None = None,
    ) -> None:
        super().__init__()
        if seed < 0:
            raise ValueError(f'seed must not be negative, got {seed}')
        patterns = [shards] if isinstance(shards, str) else shards
        urls = [url for pattern in patterns for url in expand_urls(pattern)]
        if not any(urls):
            raise ValueError(f'`shards` names no shard: {shards!r}')
        self.shards = [_join(data_root, url) for url in urls]
        self.pipeline = Compose(build_pipeline(pipeline))
        self.seed = seed
        self.shuffle_buffer = shuffle_buffer
        self.repeat = repeat
        self._metainfo = dict(metainfo or {})
        self.rank, self.world_size = get_dist_info()
        self.counts = sample_counts
        # Shared, so that one worker's report of a broken shard is the only one.
        self._reported = torch.zeros(len(urls), dtype=torch.bool).share_memory_()
        self.state: dict = {
            'seed': seed,
            'num_shards': len(urls),
            **_NOTHING_DELIVERED,
        }

    @property
    def metainfo(self) -> dict:
        """dict: The meta information."""
        return dict(self._metainfo)

    def full_init(self) -> None:
        """Check, when MMEngine builds the data loader, that there is any shard.

        Raises:
            FileNotFoundError: All shards are local files and none of them exists.
        """
        if not any(_is_remote(url) or os.path.isfile(url) for url in self.shards):
            raise FileNotFoundError(
                f'None of the {len(self.shards)} shards exists, from {self.shards[0]} '
                'on: set train_dataloader.dataset.shards to where they are.'
            )

    def load_state_dict(self, state: dict) -> None:
        """Start from where a run was; call before a data loader is iterated.

        With as many global workers (ranks times workers) as in that run, each
        starts at its own position. With another number, the run goes on in the
        lowest epoch of any worker, without the shards delivered in it completely.

        Args:
            state (dict): Of :meth:`ShardProgress.state_dict` or
                :meth:`ShardProgress.merge`.

        Raises:
            ValueError: If the state belongs to another seed or number of shards.
        """
        for name in ('seed', 'num_shards'):
            if state.get(name, self.state[name]) != self.state[name]:
                raise ValueError(
                    f'cannot resume: the state was saved with {name} = {state[name]}, '
                    f'and this dataset has {name} = {self.state[name]}'
                )
        workers = {int(g): list(p) for g, p in state['workers'].items()}
        self.state = {**self.state, **_NOTHING_DELIVERED, **state, 'workers': workers}

    def __len__(self) -> int:
        """The length MMEngine's schedulers and loggers ask of any data: endless.

        Raises:
            TypeError: With ``repeat=False``, how many samples come is not known.
        """
        if not self.repeat:
            raise TypeError('a stream of shards that ends has no known length')
        return sys.maxsize

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        worker, num_workers = (0, 1) if info is None else (info.id, info.num_workers)
        # Ranks alternate, so that each has a shard even where some workers do not.
        worker = worker * self.world_size + self.rank
        num_workers *= self.world_size
        if len(self.shards) < self.world_size:
            raise ValueError(
                f'{len(self.shards)} shards cannot be dealt out to {self.world_size} '
                'ranks: use at least one shard per rank'
            )
        if worker >= len(self.shards):
            if worker == len(self.shards):
                self._warn(
                    f'{len(self.shards)} shards for {num_workers} data workers: '
                    f'{num_workers - len(self.shards)} of them have nothing to do'
                )
            return
        state = _for_layout(self.state, num_workers)
        epoch, start = state['workers'].get(worker, (state['first_epoch'], 0))
        while True:
            shards = _epoch_shards(state, epoch, worker, num_workers)
            yield from self._read_epoch(epoch, shards, start, worker, num_workers)
            epoch, start = epoch + 1, 0
            if not self.repeat:
                return

    def _read_epoch(
        self, epoch: int, shards: list[int], start: int, worker: int, num_workers: int
    ) -> Iterator[Any]:
        problems: Counter[str] = Counter()
        delivered = False
        mixed = self._mix(
            self._read_shards(shards, start, problems), len(shards), (epoch, worker)
        )
        for low_water, shard, raw in mixed:
            sample = self._to_results(raw)
            if sample is None:
                self.counts.add('incomplete_sample')
                problems['samples without an image or a text'] += 1
                continue
            sample['shard_position'] = (worker, num_workers, epoch, low_water)
            with seeded(self.seed, epoch, shard, _number(sample['key'])):
                sample = self.pipeline(sample)
            if sample is None:
                problems['samples rejected by the pipeline'] += 1
                continue
            delivered = True
            yield sample
        if not delivered and start == 0 and shards:
            found = '; '.join(f'{text} ({n})' for text, n in problems.most_common(4))
            raise RuntimeError(
                f'no usable sample in any of the {len(shards)} shards of data worker '
                f'{worker} of {num_workers} in epoch {epoch}, such as '
                f'{self.shards[shards[0]]}: {found or "the shards are empty"}. '
                f'All that was found so far: {self.counts.summary()}'
            )

    def _read_shards(
        self, shards: list[int], start: int, problems: Counter[str]
    ) -> Iterator[tuple[int, int, dict]]:
        """Yield (position in the list, shard, encoded sample)."""
        for position in range(start, len(shards)):
            shard = shards[position]
            errors: list[Exception] = []
            for sample in _read_tar(self.shards[shard], errors):
                yield position, shard, sample
            if errors:
                self.counts.add('broken_shard')
                problems[f'{type(errors[0]).__name__}: {errors[0]}'] += 1
                if not self._reported[shard]:
                    self._reported[shard] = True
                    self._warn(f'broken shard {self.shards[shard]}: {errors[0]!r}')

    def _mix(
        self,
        samples: Iterator[tuple[int, int, dict]],
        num_shards: int,
        key: tuple[int, int],
    ) -> Iterator[tuple[int, int, dict]]:
        """Shuffle, replacing each position by the low-water mark once delivered."""
        rng = random.Random(repr((self.seed, *key)))
        buffer: list[tuple[int, int, dict]] = []
        waiting: Counter[int] = Counter()  # samples in the buffer per position

        def take() -> tuple[int, int, dict]:
            index = rng.randrange(len(buffer)) if self.shuffle_buffer else 0
            # Swapping is what makes taking from a large buffer cheap; an unshuffled
            # one has two entries at most, and there it must keep their order.
            if self.shuffle_buffer:
                buffer[index], buffer[-1] = buffer[-1], buffer[index]
                index = -1
            position, shard, sample = buffer.pop(index)
            waiting[position] -= 1
            if not waiting[position]:
                del waiting[position]
            return min(waiting, default=num_shards), shard, sample

        for item in samples:
            buffer.append(item)
            waiting[item[0]] += 1
            # One sample stays behind at least: only what follows the last sample of
            # a shard shows that it was the last.
            if len(buffer) > max(1, self.shuffle_buffer):
                yield take()
        while buffer:
            yield take()

    @staticmethod
    def _to_results(raw: dict) -> dict | None:
        suffix = next((s for s in IMAGE_SUFFIXES if raw.get(s)), None)
        if suffix is None:
            return None
        results = dict(
            img_bytes=raw[suffix],
            img_path=f'{raw["__url__"]}/{raw["__key__"]}.{suffix}',
            key=raw['__key__'],
        )
        notes: Any = None
        with suppress(ValueError):  # a damaged json member is no loss
            notes = json.loads(raw.get('json', b'{}'))
        notes = notes if isinstance(notes, dict) else {}
        for name in ('captions', 'nouns'):
            if isinstance(notes.get(name), list) and notes[name]:
                results[name] = notes[name]
        if 'txt' in raw:
            results['caption'] = raw['txt']
        return results if 'caption' in results or 'captions' in results else None

    @staticmethod
    def _warn(message: str) -> None:
        print_log(message, logger='current', level=logging.WARNING)


def _join(root: str, url: str) -> str:
    return url if _is_remote(url) else os.path.join(root, url)


def _is_remote(url: str) -> bool:
    return re.match(r'[a-z0-9+]+:', url, re.IGNORECASE) is not None


def _number(text: str) -> int:
    """A number for a text that is the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), 'big')


class _WatchedStream:
    """Passes a stream through, and tells whether a tar file's end was there.

    ``tarfile`` takes a file that stops within or before a header, or has a damaged
    header, for one that is complete.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.stream = wds.gopen(url)
        self.head = self.tail = b''

    def __str__(self) -> str:  # webdataset puts this into its messages
        return self.url

    def read(self, size: int) -> bytes:
        data = self.stream.read(size)
        self.head = self.head or data[:2]
        self.tail = (self.tail + data[-1024:])[-1024:]
        return data

    def check_end(self) -> None:
        """Read what is left; raise if that is not the end of a tar file."""
        left = False
        # Zeros end an archive and fill it up; a command that failed, or was cut off
        # between two files, says so only when its output has been read to the end.
        while chunk := self.read(1 << 20):
            left = left or any(chunk)
        self.stream.close()
        if self.head in (b'\x1f\x8b', b'BZ', b'\xfd7'):
            return  # compressed files have checksums
        if left:
            raise tarfile.ReadError('damaged within')
        if any(self.tail):
            raise tarfile.ReadError('unexpected end of data')


def _read_tar(url: str, errors: list[Exception]) -> Iterator[dict]:
    """Yield the samples of a tar file up to an error, which is put into the list."""
    stopped = False

    def stop(error: Exception) -> bool:
        nonlocal stopped
        stopped = True  # what follows an error in a tar stream is noise
        errors.append(error)
        return False

    def skip(error: Exception) -> bool:
        errors.append(error)
        return True

    watched = None
    try:
        watched = _WatchedStream(url)
        files = tar_file_expander([dict(url=url, stream=watched)], handler=stop)
        yield from group_by_keys(files, handler=skip)
        if not stopped:
            watched.check_end()
    except Exception as error:  # tarfile, the operating system, a network command
        errors.append(error)
    finally:
        if watched is not None:
            with suppress(Exception):
                watched.stream.close()
