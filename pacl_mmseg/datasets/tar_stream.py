"""Tar shards read from files, commands and URLs that may fail or fall silent."""

from __future__ import annotations

import bz2
import gzip
import lzma
import multiprocessing
import os
import re
import select
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from typing import IO

import webdataset as wds
from webdataset.gopen import rewrite_url
from webdataset.tariterators import base_plus_ext, group_by_keys

_PAUSE = 1.0  # seconds before the first retry; each further one waits twice as long
# Names and other notes before a file of a shard, which ``tarfile`` reads whole.
_MAX_HEADER = 1 << 20
_READ_AHEAD = 1 << 15  # more than ``tarfile`` does, 10 KiB
_OPENERS = {b'\x1f\x8b\x08': gzip.open, b'BZh': bz2.open, b'\xfd7z': lzma.open}
# What any compressed shard may expand to: headers of small files are mostly zeros.
_FREE_EXPANSION = 16 << 20


class BrokenShardError(Exception):
    """A shard could not be read, or not to its end; says why."""


class HangingShardError(BrokenShardError):
    """Every attempt to read a shard ended at the timeout."""


def is_remote(url: str) -> bool:
    """Tell whether a shard is anything but a path, such as ``pipe:`` or ``s3:``."""
    return re.match(r'[a-z0-9+]+:', url, re.IGNORECASE) is not None


def read_shard(
    url: str,
    timeout: float,
    retries: int,
    max_bytes: Mapping[str, int],
    max_expansion: float,
) -> Iterator[dict]:
    """Yield a shard's samples in their order, each once.

    What is behind a URL or a command is opened again when it fails, and what was
    yielded before is passed over. A sample that the failure may have cut is not
    yielded. A shard that is compressed (gzip, bzip2, xz) is first unpacked into a
    temporary file, as its checksums come last: if it is damaged, nothing is yielded.

    Args:
        url: A path, or a URL as webdataset takes them.
        timeout: Seconds without any data after which a command is killed.
        retries: How often to open it again; a path is opened once.
        max_bytes: The suffixes whose members are read, and how
            large these may be.
        max_expansion: How many times its own size, beside 16 MiB, a compressed
            shard may expand to.

    Yields:
        ``__key__``, ``__url__`` and the bytes of each member by suffix: None if
        it is too large, ``b''`` if it is not to be read.

    Raises:
        BrokenShardError: When no sample is left to yield, if there was an error.
        SystemExit: The process that this one is a data worker of is gone.
    """
    yielded = 0
    kind: type[BrokenShardError] = HangingShardError
    for attempt in range(1 + retries if is_remote(url) else 1):
        if attempt:
            time.sleep(_PAUSE * 2 ** (attempt - 1))
        try:
            samples = _read_once(url, timeout, max_bytes, max_expansion)
            for number, sample in enumerate(samples):
                if number == yielded:
                    yielded += 1
                    yield sample
            return
        except Exception as error:  # tarfile, the operating system, a command
            failure = error
            if not isinstance(error, TimeoutError):
                kind = BrokenShardError
            if isinstance(error, ValueError):  # a name that occurs twice
                break
    # webdataset appends to the arguments; the first of them, or the system's, is the
    # reason.
    reason = getattr(failure, 'strerror', None) or (failure.args or [failure])[0]
    reason = str(reason).removesuffix(f' @ {url}') or type(failure).__name__
    raise kind(reason) from failure


def _read_once(
    url: str, timeout: float, max_bytes: Mapping[str, int], max_expansion: float
) -> Iterator[dict]:
    errors: list[Exception] = []

    def note(error: Exception) -> bool:
        errors.append(error)
        return True

    with (
        closing(_Stream(url, timeout)) as stream,
        _unpack(stream, max_expansion) as source,
    ):
        files = _read_files(_Watched(source), url, max_bytes)
        yield from group_by_keys(files, handler=note)
    if errors:
        raise errors[0]


def _unpack(
    stream: _Stream, max_expansion: float
) -> AbstractContextManager[IO[bytes] | _Stream]:
    """A stream, or if it is compressed, a temporary file of what it expands to."""
    start = stream.peek()
    if start not in _OPENERS:
        return nullcontext(stream)
    unpacked = tempfile.TemporaryFile()  # noqa: SIM115
    try:
        with _OPENERS[start](stream) as source:
            while chunk := source.read(1 << 20):
                unpacked.write(chunk)
                if unpacked.tell() > _FREE_EXPANSION + max_expansion * stream.position:
                    raise tarfile.ReadError(
                        f'it expands to more than {max_expansion:g} times its size'
                    )
        while stream.read(1 << 20):  # a command says at its end whether it failed
            pass
        unpacked.seek(0)
    except BaseException:
        unpacked.close()
        raise
    return unpacked


def _read_files(
    source: _Watched, url: str, max_bytes: Mapping[str, int]
) -> Iterator[dict]:
    """Yield a tar file's members as webdataset does, none of which can be too large."""
    with tarfile.open(fileobj=source, mode='r|') as archive:
        for member in archive:
            archive.members = []  # or it remembers all
            if {'path', 'size'} & archive.pax_headers.keys():
                raise tarfile.ReadError('one name or size for all files')
            source.next_header = archive.offset
            if not member.isreg() or re.match(r'__[^/]*__($|/)', member.name):
                continue
            limit = max_bytes.get((base_plus_ext(member.name)[1] or '').lower())
            data: bytes | None = b''
            if limit is not None:
                too_large = member.size > limit
                data = None if too_large else archive.extractfile(member).read()
            yield dict(fname=member.name, data=data, __url__=url)
        # ``tarfile`` takes a file that stops at a header, or has a damaged one, for
        # complete. Raised before its end gets to it, webdataset drops the last sample,
        # which may lack members.
        source.check_end(archive.offset)


class _Watched:
    """A tar file's bytes, watched for endless headers and files, and a missing end."""

    def __init__(self, source: IO[bytes] | _Stream) -> None:
        self.source = source
        self.position = 0
        self.next_header = 0  # its place
        self.tail = b''

    def read(self, size: int) -> bytes:
        data = self.source.read(size)
        self.position += len(data)
        if self.position > self.next_header + _MAX_HEADER + size:
            raise tarfile.ReadError(f'a header of more than {_MAX_HEADER} bytes')
        if not data and self.position < self.next_header:
            # ``tarfile`` would go on to the end of a terabyte that a header promised.
            raise tarfile.ReadError('unexpected end of data')
        self.tail = (self.tail + data)[-_READ_AHEAD:]
        return data

    def check_end(self, stop: int) -> None:
        """Read what is left; raise if that is not the end of a tar file.

        Args:
            stop: Where ``tarfile`` found no header; it has read further.
        """
        left = any(self.tail[max(0, len(self.tail) - self.position + stop) :])
        # Zeros end an archive and fill it up; a command that failed, or was cut off
        # between two files, says so only when its output has been read to the end.
        while chunk := self.source.read(1 << 20):
            left = left or any(chunk)
            self.tail = chunk[-1024:]
        if any(self.tail[-1024:]):
            raise tarfile.ReadError('unexpected end of data')
        if left:
            raise tarfile.ReadError('damaged within')


class _Stream:
    """The bytes behind a path or URL, watched for silence and failed commands."""

    def __init__(self, url: str, timeout: float) -> None:
        self.timeout = timeout
        self.position = 0
        self.peeked = b''
        self.messages = self.guard = None
        command = rewrite_url(url)
        if command.startswith('pipe:'):
            # webdataset would open it, but with no way to its messages, nor to all of
            # the processes that a shell starts.
            self.messages = tempfile.TemporaryFile()  # noqa: SIM115
            self.source = self.process = subprocess.Popen(
                command.removeprefix('pipe:'),
                shell=True,
                stdout=subprocess.PIPE,
                stderr=self.messages,
                start_new_session=True,
            )
        else:
            self.source = wds.gopen(url)
            self.process = getattr(self.source, 'proc', None)
        if self.process is not None:
            group = '' if self.messages is None else '-'
            # A worker that is killed cannot clean up, but what it writes to is closed:
            # then this shell kills the command. Without a session of its own, a signal
            # to all would end the shell first.
            self.guard = subprocess.Popen(
                ['sh', '-c', f'read -r _; kill -s KILL -- {group}{self.process.pid}'],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            self.data = self.process.stdout.fileno()
            self.poll = select.poll()
            self.poll.register(self.data, select.POLLIN)
            self.parent = multiprocessing.parent_process()
            if self.parent is not None:
                self.poll.register(self.parent.sentinel, select.POLLIN)

    def peek(self) -> bytes:
        """The first three bytes, which stay there to be read."""
        self.peeked = self.read(3)
        self.position = 0
        return self.peeked

    def read(self, size: int) -> bytes:
        data, self.peeked = self.peeked[:size], self.peeked[size:]
        if data:
            pass
        elif self.process is None:
            data = self.source.read(size)
        else:
            while len(data) < size and (part := self._wait_for(size - len(data))):
                data += part
            if not data:
                self._check_exit()
        self.position += len(data)
        return data

    def _wait_for(self, size: int) -> bytes:
        ready = self.poll.poll(self.timeout * 1000)
        if self.parent is not None and self.parent.sentinel in dict(ready):
            raise SystemExit('the process of this data worker is gone')
        if not ready:
            raise TimeoutError(f'no data for {self.timeout:g} s')
        return os.read(self.data, size)

    def _check_exit(self) -> None:
        try:
            status = self.process.wait(self.timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(
                f'the command did not end within {self.timeout:g} s of its last data'
            ) from None
        if status:
            raise OSError(f'the command ended with exit status {status}{self._said()}')

    def _said(self) -> str:
        if self.messages is None:
            return ''
        self.messages.seek(max(0, self.messages.seek(0, os.SEEK_END) - 1000))
        lines = self.messages.read().decode(errors='replace').split('\n')
        said = [line.strip() for line in lines if line.strip()]
        return f' ({said[-1]})' if said else ''

    def close(self) -> None:
        """Close everything; a command that still runs is killed and collected."""
        if self.guard is not None:
            # First, as the number of a process that was collected may be given anew.
            self.guard.kill()
            self.guard.wait()
            self.guard.stdin.close()
            if self.process.poll() is None:
                with suppress(ProcessLookupError):
                    if self.messages is None:
                        self.process.kill()
                    else:
                        os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
            self.process.stdout.close()
        if self.messages is not None:
            self.messages.close()
        else:
            with suppress(Exception):  # webdataset's raises when a command failed
                self.source.close()
