"""Image-text pairs streamed from webdataset tar shards, resumable."""

from __future__ import annotations

import json
import logging
import os
import random
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from mmengine.dataset import Compose
from mmengine.dist import all_reduce, get_dist_info
from mmengine.logging import print_log
from torch.utils.data import IterableDataset, get_worker_info
from webdataset.gopen import gopen_schemes, rewrite_url
from webdataset.shardlists import expand_urls

from pacl_mmseg.datasets.counts import printable, sample_counts
from pacl_mmseg.datasets.draws import seeded
from pacl_mmseg.datasets.image_text import build_pipeline
from pacl_mmseg.datasets.shard_order import deal, mix, shard_sequence
from pacl_mmseg.datasets.shard_progress import (
    Delivered,
    Item,
    ShardProgress,
    check_same,
    format_state,
    hash_names,
    parse_state,
    write_position,
)
from pacl_mmseg.datasets.tar_stream import (
    BrokenShardError,
    HangingShardError,
    is_remote,
    read_shard,
)
from pacl_mmseg.datasets.transforms.loading import IMAGE_SUFFIXES
from pacl_mmseg.registry import DATASETS

__all__ = ['ImageTextShards', 'ShardProgress']

# Shards in a row without a usable sample that end a run. Chance does not reach it (if
# half of them are missing: once in 10**9), and a store that refuses is noticed in
# minutes. One whose every attempt ended at the timeout counts as ten: it takes (1 +
# retries) * timeout, so three take 18 minutes with the defaults.
_MAX_USELESS = 30
_HANGING = 10
# Samples in a row that the pipeline rejects.
_MAX_REJECTED = 1000


@DATASETS.register_module()
class ImageTextShards(IterableDataset):
    """Image-text pairs from tar shards as ``img2dataset`` writes them.

    A sample is ``key.jpg`` (or another image), ``key.txt`` and optionally
    ``key.json``, whose lists ``captions`` and ``nouns`` are used if there.

    All shards of all epochs form one endless sequence, a function of the seed (see
    :func:`~pacl_mmseg.datasets.shard_order.shard_sequence`). It is dealt out to all
    workers of all ranks, so that none is idle and none ends before another, however few
    shards there are; where one epoch passes into the next, samples of both mix. Each
    worker, and so each batch, mixes several shards: it reads those it has open in turn,
    sample by sample, and mixes what it read in a buffer. A shard that ends is replaced
    by the next that is dealt to the worker, which waits while a shard of an earlier
    epoch of the same source is open: a small corpus is not read many epochs ahead. The
    random choices transforms make with the global CPU generators depend on the seed and
    on the sample's place (source, epoch, shard, number) alone.

    Shards that are missing, empty, truncated or no tar files, and samples without an
    image or a text, or with a file that is too large, are counted and passed over; each
    such shard is named in the log once. A command or URL that fails is opened again,
    and goes on where it failed. Compressed shards (gzip, bzip2, xz) are unpacked whole
    into temporary files, one for each open shard, before anything of them is used, as
    their checksums come last: better unpack them for good.

    A pipeline gets ``img_bytes``, ``caption`` (bytes) or ``captions``, ``key``,
    ``img_path`` (shard/key.suffix), and ``shard_position``, from which
    :class:`ShardProgress` makes the state to resume from. With it every sample is
    delivered once per epoch, over all ranks, workers and interruptions; a shard that
    was open is read again, and its delivered samples are passed over undecoded.

    As MMEngine's samplers do, a dataset takes its rank when it is constructed.

    Args:
        shards: Paths or URLs, with
            ``{000..123}`` expanded as by webdataset, where also ``::`` separates
            several and ``${NAME}`` is the environment's ``WDS_NAME``; ``pipe:command``
            reads what a command prints, in which the shell expands ``$NAME``. A dict
            mixes several sources, which its keys name.
        pipeline: The transforms. A sample for which
            they return ``None`` is passed over. Defaults to none.
        data_root: Folder that relative paths are relative to.
        seed: Seed of all random choices. Defaults to 0.
        shuffle_buffer: Samples held, encoded, by each worker to mix them;
            0 keeps the order in which they are read. Defaults to 1000.
        repeat: Whether to go on with the next epoch, without end; otherwise
            every source is read once. Defaults to True.
        weights: How sources are mixed. ``'size'``, the
            default, passes through all of them once per epoch. Numbers by name are
            their relative shares of the shards read, so of the samples if the shards of
            all are filled alike (open_clip's upsampling factors act on shards, too);
            each source then has epochs of its own. They hold for a run as a whole: a
            share that is raised when resuming is made up for first.
        timeout: Seconds for which a command or URL may give no data before it
            is killed. Defaults to 120: far more than the pauses with which clients of
            object stores ask again.
        retries: How often a command or URL is opened again, after 1, 2, 4, …
            seconds, before its shard counts as broken. Defaults to 2.
        open_shards: Shards that each worker reads at a time; 1 reads them one
            after another. Each is an open file, or a running command: with eight
            workers and the default, 64 connections to a store for each rank. Defaults
            to 8.
        max_image_bytes: Samples with an image file of more are passed over.
            Defaults to 32 MiB.
        max_text_bytes: Samples with a text or JSON of more are passed over.
            Defaults to 1 MiB.
        max_expansion: A compressed shard that expands to more times its size,
            beside 16 MiB, is broken. Defaults to 20.

    Raises:
        ValueError: At construction, if a source has no shards, webdataset reads no such
            URLs, a variable ``${NAME}`` is not set, the weights do not name the sources
            or are not positive, or a number is negative.
        RuntimeError: At iteration, if a worker finds no usable sample in 30 shards in a
            row (3 if they give no data until the timeout), or in all there are, or its
            pipeline rejects 1000 samples in a row.
    """

    metainfo: Mapping = {}  # MMEngine warns of data without any

    def __init__(
        self,
        shards: str | Sequence[str] | Mapping[str, str | Sequence[str]],
        pipeline: Sequence[dict | Callable] = (),
        data_root: str = '',
        seed: int = 0,
        shuffle_buffer: int = 1000,
        repeat: bool = True,
        weights: str | Mapping[str, float] = 'size',
        timeout: float = 120.0,
        retries: int = 2,
        open_shards: int = 8,
        max_image_bytes: int = 2**25,
        max_text_bytes: int = 2**20,
        max_expansion: float = 20.0,
    ) -> None:
        super().__init__()
        for name, value in dict(seed=seed, retries=retries).items():
            if value < 0:
                raise ValueError(f'{name} must not be negative, got {value}')
        positive = dict(
            timeout=timeout,
            open_shards=open_shards,
            max_image_bytes=max_image_bytes,
            max_text_bytes=max_text_bytes,
            max_expansion=max_expansion,
        )
        for name, value in positive.items():
            if value <= 0:
                raise ValueError(f'{name} must be positive, got {value}')
        sources = shards if isinstance(shards, Mapping) else dict(all=shards)
        self.shards = {
            name: _expand(patterns, data_root, f'`shards` of source {name}')
            for name, patterns in sources.items()
        }
        if not self.shards:
            raise ValueError('`shards` names no source')
        self.weights = _as_weights(weights, self.shards)
        self.pipeline = Compose(build_pipeline(pipeline))
        self.seed = seed
        self.shuffle_buffer = shuffle_buffer
        self.repeat = repeat
        self.timeout = timeout
        self.retries = retries
        self.open_shards = open_shards
        self.max_bytes = {
            **dict.fromkeys(IMAGE_SUFFIXES, max_image_bytes),
            **dict.fromkeys(('txt', 'json'), max_text_bytes),
        }
        self.max_expansion = max_expansion
        self.rank, self.world_size = get_dist_info()
        self.counts = sample_counts
        # Shared, so that one worker's report of a broken shard is the only one.
        self._broken = [
            torch.zeros(len(urls), dtype=torch.uint8).share_memory_()
            for urls in self.shards.values()
        ]
        fresh = {
            name: Delivered(len(urls), names_hash=hash_names(urls))
            for name, urls in self.shards.items()
        }
        self.state: dict = format_state(seed, fresh)

    def full_init(self) -> None:
        """Check, when MMEngine builds the data loader, that every source has a shard.

        Raises:
            FileNotFoundError: All shards of a source are files and none exists.
        """
        for name, urls in self.shards.items():
            if not any(is_remote(url) or os.path.isfile(url) for url in urls):
                of, key = (
                    (f' of {name}', f'.{name}') if len(self.shards) > 1 else ('',) * 2
                )
                raise FileNotFoundError(
                    f'None of the {len(urls)} shards{of} exists, from {urls[0]} on: '
                    f'set train_dataloader.dataset.shards{key} to where they are.'
                )

    def load_state_dict(self, state: dict) -> None:
        """Go on where a run was; call before a data loader is iterated.

        What is left is dealt out anew, to any number of ranks and workers.

        Args:
            state: Of :meth:`ShardProgress.merge`, or of
                :meth:`ShardProgress.state_dict` if there was one rank.

        Raises:
            ValueError: If the state belongs to another seed, or to shards of another
                number or other names; their folder may be another.
        """
        if 'sources' not in state:
            raise ValueError(
                'cannot resume: the state has no position in shards, or one of an '
                'earlier version of this package; start anew from the weights'
            )
        check_same(state, self.state, what='cannot resume: the state and the dataset')
        by_name = {name: state['sources'][name] for name in self.shards}
        self.state = {**state, 'sources': by_name}

    def broken_shards(self) -> list[str]:
        """List the shards found broken so far by all ranks, which must all call this.

        Returns:
            Paths or URLs, in the order of the sources.
        """
        flags = torch.cat(self._broken).int()
        all_reduce(flags, 'max')
        urls = [url for urls in self.shards.values() for url in urls]
        return [urls[index] for index in flags.nonzero().flatten().tolist()]

    def __len__(self) -> int:
        """The length MMEngine's schedulers and loggers ask of any data: endless.

        Raises:
            TypeError: With ``repeat=False``, how many samples come is not known.
        """
        if not self.repeat:
            raise TypeError(
                'ImageTextShards with repeat=False has no known length and cannot be '
                'trained on: set repeat=True'
            )
        return sys.maxsize

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        worker, num_workers = (0, 1) if info is None else (info.id, info.num_workers)
        worker += self.rank * num_workers
        num_workers *= self.world_size
        sequence = shard_sequence(
            list(parse_state(self.state).values()),
            [self.weights[name] for name in self.shards],
            self.seed,
            num_epochs=None if self.repeat else 1,
        )
        samples = self._read(deal(sequence, worker, num_workers, self.seed))
        rng = random.Random(repr((self.seed, worker)))
        closed: list[Item] = []  # shards that ended since the last sample
        rejected = 0  # samples in a row
        for item, number, sample in mix(samples, self.shuffle_buffer, rng):
            if sample is None:
                closed.append(item)
                continue
            sample['shard_position'] = write_position(item, number, closed)
            with seeded(self.seed, *item, number):
                sample = self.pipeline(sample)
            if sample is not None:
                yield sample
                closed.clear()
                rejected = 0
                continue
            rejected += 1
            if rejected == _MAX_REJECTED:
                raise RuntimeError(
                    f'no usable sample: the pipeline rejected {rejected} in a row, the '
                    f'last from {self._url(item)}. All that was found so '
                    f'far: {self.counts.summary()}'
                )

    def _read(self, items: Iterable[Item]) -> Iterator[tuple[Item, int, dict | None]]:
        """Yield (item, number in the shard, encoded sample) of what is left.

        After each shard comes (item, -1, None).
        """
        delivered = list(parse_state(self.state).values())
        left = (item for item in items if not delivered[item[0]].is_done(*item[1:]))
        coming = next(left, None)
        opened: deque[tuple[Item, Iterator[tuple[int, dict]]]] = deque()
        useful: set[Item] = set()
        useless: list[int] = []  # of shards in a row, what they count
        reasons: Counter[str] = Counter()
        while opened or coming:
            while (
                coming
                and len(opened) < self.open_shards
                and not any(i[0] == coming[0] and i[1] < coming[1] for i, _ in opened)
            ):
                samples = read_shard(
                    self._url(coming),
                    self.timeout,
                    self.retries,
                    self.max_bytes,
                    self.max_expansion,
                )
                opened.append((coming, enumerate(samples)))
                coming = next(left, None)
            item, samples = opened.popleft()
            source, *place = item
            error = None
            try:
                number, raw = next(samples)
            except StopIteration:
                pass
            except BrokenShardError as reason:
                error = reason
            else:
                opened.append((item, samples))
                new = not delivered[source].samples(*place) >> number & 1
                if new and None in raw.values():
                    name = f'{raw["__url__"]}/{raw["__key__"]}'
                    self.counts.add('oversized_file', name)
                    continue
                sample = self._to_results(raw) if new else None
                if new and sample is None:
                    self.counts.add('incomplete_sample')
                    continue
                if item not in useful:
                    # Its later samples do not count: a shard that was opened long ago
                    # says nothing about those that are opened now.
                    useful.add(item)
                    useless.clear()
                    reasons.clear()
                if new:
                    yield item, number, sample
                continue
            if error is not None:
                reasons[printable(str(error))] += 1
                self._note_broken(item, error)
            if item not in useful:
                useless.append(_HANGING if isinstance(error, HangingShardError) else 1)
            useful.discard(item)
            yield item, -1, None
            if sum(useless) >= _MAX_USELESS:
                break
        shards = sum(map(len, self.shards.values()))
        if sum(useless) >= _MAX_USELESS or len(useless) >= shards:
            found = '; '.join(f'{text} ({n})' for text, n in reasons.most_common(4))
            raise RuntimeError(
                f'no usable sample in {len(useless)} shards in a row, the last being '
                f'{self._url(item)}: {found or "they have none"}. All that was found '
                f'so far: {self.counts.summary()}'
            )

    def _url(self, item: Item) -> str:
        source, _, shard = item
        return list(self.shards.values())[source][shard]

    def _note_broken(self, item: Item, error: BrokenShardError) -> None:
        source, _, shard = item
        self.counts.add('broken_shard')
        if self._broken[source][shard]:
            return
        self._broken[source][shard] = 1
        print_log(
            f'broken shard {self._url(item)}: {printable(str(error))}; what cannot be '
            'read of it is passed over',
            logger='current',
            level=logging.WARNING,
        )

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
        with suppress(ValueError, RecursionError):  # a damaged one is no loss
            notes = json.loads(raw.get('json', b'{}'))
        notes = notes if isinstance(notes, dict) else {}
        for name in ('captions', 'nouns'):
            if isinstance(notes.get(name), list):
                texts = [text for text in notes[name] if isinstance(text, str)]
                if texts:
                    results[name] = texts
        if 'txt' in raw:
            results['caption'] = raw['txt']
        return results if 'caption' in results or 'captions' in results else None


def _expand(patterns: str | Sequence[str], root: str, what: str) -> list[str]:
    patterns = [patterns] if isinstance(patterns, str) else patterns
    urls = []
    for pattern in patterns:
        try:
            urls += expand_urls(pattern)
        except (AssertionError, KeyError):  # the latter with ``python -O``
            raise ValueError(
                f'{what}: {pattern} has a variable ${{NAME}} for which webdataset '
                'finds no WDS_NAME in the environment: set that, or write $NAME in a '
                'command of pipe:, which the shell expands'
            ) from None
    if not any(urls):
        raise ValueError(f'{what} names no shard: {patterns!r}')
    for url in filter(is_remote, urls):
        scheme = rewrite_url(url).partition(':')[0].lower()
        if scheme not in {*gopen_schemes, 'file'}:
            raise ValueError(
                f'{what}: nothing reads {scheme}: in {url}; what a client of such a '
                "store prints can be read, as 'pipe:aws s3 cp s3://BUCKET/KEY -'"
            )
    return [url if is_remote(url) else os.path.join(root, url) for url in urls]


def _as_weights(
    weights: str | Mapping[str, float], shards: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    if weights == 'size':
        return {name: len(urls) for name, urls in shards.items()}
    if not isinstance(weights, Mapping) or set(weights) != set(shards):
        raise ValueError(
            f"weights must be 'size' or a number for each of {sorted(shards)}, "
            f'got {weights!r}'
        )
    if not all(weight > 0 for weight in weights.values()):
        raise ValueError(f'weights must be positive, got {weights!r}')
    return dict(weights)
