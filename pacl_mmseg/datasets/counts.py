"""What the data pipeline skipped or converted, counted over all its workers."""

from __future__ import annotations

import logging
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.logging import print_log
from torch.utils.data import get_worker_info

REASONS: tuple[str, ...] = (
    # skipped
    'missing_file',
    'corrupt_image',
    'oversized_file',
    'oversized_image',
    'narrow_image',
    'empty_caption',
    'malformed_row',
    'incomplete_sample',
    'broken_shard',
    'uncached_image',
    # used, after a conversion
    'converted_image',
    'truncated_caption',
    'undecodable_text',
    'unusable_noun',
)

_MAX_WORKERS = 256
_NAMED_PER_REASON = 3
_NAME_LENGTH = 300


class SampleCounts:
    """Counters shared between the main process and its data workers.

    The counts lie in a tensor in shared memory with one row per worker, so no
    two processes write the same cell. A transform or dataset must hold the
    instance as an attribute: under the ``spawn`` start method a worker imports
    its own copy of this module, and only what is pickled with the dataset
    still points at the shared memory.

    Counters are per training process (rank), and added up over all on request; two
    loaders of one process whose workers run at the same moment share rows, and may
    then lose a count.
    """

    def __init__(self) -> None:
        # Row 0 is the main process, row i + 1 the worker i.
        self.table = torch.zeros(
            _MAX_WORKERS + 1, len(REASONS), dtype=torch.int64
        ).share_memory_()

    def __deepcopy__(self, memo: dict[int, Any]) -> SampleCounts:
        # A copied pipeline goes on counting into the same table.
        return self

    def add(self, reason: str, name: str | None = None) -> None:
        """Count one event.

        Args:
            reason: One of :data:`REASONS`.
            name: The sample or file concerned. The first few
                of a reason are logged by name.

        Raises:
            ValueError: If the reason is not one of :data:`REASONS`.
        """
        column = REASONS.index(reason)
        info = get_worker_info()
        row = 0 if info is None else 1 + info.id % _MAX_WORKERS
        self.table[row, column] += 1
        if name is not None and self.table[row, column] <= _NAMED_PER_REASON:
            print_log(
                f'{reason.replace("_", " ")}: {printable(name)}',
                logger='current',
                level=logging.WARNING,
            )

    def decode(self, text: bytes, name: str | None = None) -> str:
        """Read UTF-8; bytes that are none are replaced and counted, once for a text."""
        try:
            return text.decode()
        except UnicodeDecodeError:
            self.add('undecodable_text', name)
            return text.decode(errors='replace')

    def totals(self, reduce: bool = False) -> dict[str, int]:
        """Add up the workers' counts.

        Args:
            reduce: Whether of all ranks, which must then all call this.

        Returns:
            The count of every reason, zeros included.
        """
        sums = self.table.sum(0)
        if reduce:
            all_reduce(sums)
        return dict(zip(REASONS, sums.tolist(), strict=True))

    def summary(self, reduce: bool = False) -> str:
        """Put the counts into words.

        Args:
            reduce: As of :meth:`totals`.

        Returns:
            ``'3 corrupt image, 1 empty caption'``, or
            ``'nothing skipped or converted'``.
        """
        parts = [
            f'{count} {reason.replace("_", " ")}'
            for reason, count in self.totals(reduce).items()
            if count
        ]
        return ', '.join(parts) or 'nothing skipped or converted'

    def reset(self) -> None:
        """Set every count to zero."""
        self.table.zero_()


def printable(text: str) -> str:
    """Make a name that a stranger chose fit for a line of a log.

    Args:
        text: Any, with surrogates, terminal escapes or megabytes in it.

    Returns:
        The first 300 characters, with ``?`` for those that cannot be printed.
    """
    cut = text[:_NAME_LENGTH] + '...' * (len(text) > _NAME_LENGTH)
    return ''.join(char if char.isprintable() else '?' for char in cut)


sample_counts = SampleCounts()
"""The process-wide counters the package's transforms and datasets use."""
