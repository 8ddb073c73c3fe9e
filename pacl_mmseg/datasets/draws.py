"""Endless, exactly repeatable random access to a map-style dataset."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_dist_info
from torch.utils.data import Dataset, Sampler, get_worker_info

from pacl_mmseg.registry import DATA_SAMPLERS, DATASETS


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed the global CPU generators for a block, and restore them after it.

    Covers :mod:`random`, NumPy and PyTorch's CPU generator, which between them
    are what image and text transforms draw from. Accelerator generators are
    left alone. A data worker's are not restored, as nothing else draws from them
    there and restoring takes most of the time.

    Args:
        *key: Non-negative integers that together name the random state.

    Yields:
        None
    """
    states = None
    if get_worker_info() is None:
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    words = np.random.SeedSequence(key).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(words[1:3])
    torch.default_generator.manual_seed(int(words[3]))
    try:
        yield
    finally:
        if states is not None:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_rng_state(states[2])


def permutation(length: int, seed: int, epoch: int) -> np.ndarray:
    """Shuffle ``range(length)`` as a pure function of the seed and the epoch.

    Args:
        length: Number of items.
        seed: The run's seed.
        epoch: The epoch.

    Returns:
        The permuted indices.
    """
    rng = np.random.default_rng(np.random.SeedSequence((seed, epoch)))
    return rng.permutation(length)


@DATASETS.register_module()
class ShuffledDraws(Dataset):
    """A dataset indexed by the number of the draw: 0, 1, 2, … without end.

    Draw ``n`` belongs to epoch ``n // len``. Its item, and every random choice
    its transforms make with the global CPU generators, depend on ``seed`` and
    ``n`` alone: not on the number of workers or processes, nor on where a run
    was interrupted. Use it with :class:`DrawSampler`.

    Args:
        dataset: A map-style dataset or its config.
        seed: Seed of the order and of the transforms. Defaults to 0.
        shuffle: Whether each epoch has its own random order; otherwise
            every epoch goes through the dataset as it is. Defaults to True.

    Raises:
        ValueError: If the dataset is empty or the seed negative.
    """

    def __init__(
        self, dataset: dict | Dataset, seed: int = 0, shuffle: bool = True
    ) -> None:
        if seed < 0:
            raise ValueError(f'seed must not be negative, got {seed}')
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        if len(self.dataset) == 0:
            raise ValueError(f'{type(self.dataset).__name__} is empty')
        self.seed = seed
        self.shuffle = shuffle
        self._epoch: int | None = None
        self._order: np.ndarray | None = None

    @property
    def metainfo(self) -> dict:
        """dict: The meta information of the wrapped dataset."""
        return getattr(self.dataset, 'metainfo', {})

    def full_init(self) -> None:
        """Load the wrapped dataset's annotations if that is still to be done."""
        if hasattr(self.dataset, 'full_init'):
            self.dataset.full_init()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: int) -> Any:
        """Return the item of a draw.

        Args:
            draw: The number of the draw, from 0; it may exceed the
                length.

        Returns:
            What the wrapped dataset returns for the item drawn.

        Raises:
            IndexError: If the number is negative.
        """
        if draw < 0:
            raise IndexError(f'draws are numbered from 0, got {draw}')
        epoch, position = divmod(int(draw), len(self))
        index = position
        if self.shuffle:
            # One epoch is kept: draws come in order, so the next one wanted is
            # nearly always of the same epoch.
            if epoch != self._epoch:
                self._order = permutation(len(self), self.seed, epoch)
                self._epoch = epoch
            index = int(self._order[position])
        with seeded(self.seed, int(draw)):
            return self.dataset[index]


@DATA_SAMPLERS.register_module()
class DrawSampler(Sampler):
    """Numbers the draws of a :class:`ShuffledDraws` dataset, without end.

    Rank ``r`` of ``W`` gets the draws ``start + r``, ``start + r + W``, …
    Shuffling is the dataset's part. To resume, set :attr:`start` to the number
    of draws made by all ranks together, before the sampler is iterated.

    Args:
        dataset: The dataset.
        start: The first draw. Defaults to 0.
        seed: Not used; MMEngine passes it to every sampler.
        shuffle: Not used; the dataset shuffles.
        round_up: Not used; there is no last batch.
    """

    def __init__(
        self,
        dataset: Sized,
        start: int = 0,
        seed: int | None = None,
        shuffle: bool | None = None,
        round_up: bool | None = None,
    ) -> None:
        self.dataset = dataset
        self.start = start
        self.rank, self.world_size = get_dist_info()

    def __iter__(self) -> Iterator[int]:
        draw = self.start + self.rank
        while True:
            yield draw
            draw += self.world_size

    def __len__(self) -> int:
        """Return the number of draws of this rank that make one epoch."""
        return math.ceil(len(self.dataset) / self.world_size)

    def skip(self, num_samples: int) -> None:
        """Start after ``num_samples`` draws of each rank.

        MMEngine's iteration-based loop calls this when it resumes.

        Args:
            num_samples: Draws every rank has made since draw 0.

        Raises:
            ValueError: If the number is negative.
        """
        if num_samples < 0:
            raise ValueError(f'num_samples must not be negative, got {num_samples}')
        self.start = num_samples * self.world_size
