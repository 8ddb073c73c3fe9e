import bz2
import gzip
import lzma
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest
from shard_files import all_keys, write_shards
from torch.utils.data import DataLoader

from pacl_mmseg.datasets import tar_stream
from pacl_mmseg.datasets.shards import ImageTextShards
from pacl_mmseg.datasets.tar_stream import (
    BrokenShardError,
    HangingShardError,
    read_shard,
)

LIMITS = dict(jpg=2**20, txt=2**20, json=2**20)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(tar_stream, '_PAUSE', 0.01)


@pytest.fixture
def tar(tmp_path) -> Path:
    """A shard of 20 samples."""
    write_shards(tmp_path, 1, 20)
    return tmp_path / '00000.tar'


def read(url, timeout: float = 60, retries: int = 0) -> tuple[list[str], str]:
    """Return the keys a shard gives, and why it is broken, if it is."""
    keys = []
    try:
        for sample in read_shard(str(url), timeout, retries, LIMITS, 20):
            assert sample.keys() == {'__key__', '__url__', 'jpg', 'txt', 'json'}
            keys.append(sample['__key__'])
    except BrokenShardError as error:
        return keys, str(error)
    return keys, ''


def runs(pid: int) -> bool:
    try:
        return (
            Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
        )
    except FileNotFoundError:
        return False


def zombies() -> set[int]:
    """Children of this process that have ended and were not waited for."""
    found = set()
    for task in Path('/proc/self/task').iterdir():
        children = map(int, (task / 'children').read_text().split())
        found |= {pid for pid in children if not runs(pid)}
    return found


def test_files_commands_and_file_urls(tar):
    for url in (tar, f'pipe:cat {tar}', f'pipe:cat {tar} | gzip', f'file://{tar}'):
        assert read(url) == (all_keys(1, 20), '')


def test_a_cut_sample_is_never_yielded_nor_a_whole_one_lost(tar, tmp_path):
    data = tar.read_bytes()
    cut = tmp_path / 'cut.tar'
    complete = 0
    for length in range(0, len(data.rstrip(b'\0')), 512):
        cut.write_bytes(data[:length])
        keys, reason = read(cut)  # which checks that all have all members
        assert keys == all_keys(1, 20)[: len(keys)]
        assert reason
        complete = max(complete, len(keys))
        assert len(keys) >= complete - 1
    assert complete >= 19


PACKERS = {'gz': gzip.compress, 'bz2': bz2.compress, 'xz': lzma.compress}


@pytest.mark.parametrize('kind', PACKERS)
def test_of_a_damaged_compressed_shard_nothing_is_yielded(tar, tmp_path, kind):
    data = PACKERS[kind](tar.read_bytes())
    path = tmp_path / f'packed.tar.{kind}'
    path.write_bytes(data)
    assert read(path) == (all_keys(1, 20), '')
    # gzip's own header has fields without a meaning for what is in it.
    for place in range(12, len(data), len(data) // 40):
        path.write_bytes(data[:place])
        keys, reason = read(path)
        assert keys == [] and reason
        path.write_bytes(data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :])
        keys, reason = read(path)
        assert keys == [] and reason


@pytest.mark.parametrize('kind', PACKERS)
def test_a_compressed_shard_may_not_expand_without_end(tar, tmp_path, kind):
    path = tmp_path / f'packed.tar.{kind}'
    packed = PACKERS[kind](bytes(2**20))
    path.write_bytes(PACKERS[kind](tar.read_bytes()) + packed * 100)
    assert read(path) == ([], 'it expands to more than 20 times its size')


@pytest.mark.parametrize(
    'kind', [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.REGTYPE]
)
def test_only_what_is_wanted_of_a_large_file_is_read(tar, tmp_path, kind):
    """A header of many bytes ends a shard; a large file in it is passed over."""
    info = tarfile.TarInfo('0large.jpg')
    info.size, info.type = 2**22, kind
    path = tmp_path / 'large.tar'
    path.write_bytes(info.tobuf() + b'7' * info.size + tar.read_bytes())
    tracemalloc.start()
    samples = read_shard(str(path), 60, 0, LIMITS, 20)
    if kind == tarfile.REGTYPE:
        assert [sample['jpg'] is None for sample in samples] == [True] + 20 * [False]
    else:
        with pytest.raises(BrokenShardError, match='a header of more than 1048576'):
            list(samples)
    assert tracemalloc.get_traced_memory()[1] < 2**21 + 2**20
    tracemalloc.stop()


def test_a_damaged_header_is_noticed_wherever_it_is(tar, tmp_path):
    data = tar.read_bytes()
    damaged = tmp_path / 'damaged.tar'
    with tarfile.open(tar) as archive:
        headers = [member.offset for member in archive]
    for number, place in enumerate(headers):
        damaged.write_bytes(data[: place + 300] + b'?' + data[place + 301 :])
        keys, reason = read(damaged)
        # The sample before could go on behind the damage.
        assert keys == all_keys(1, 20)[: max(0, (number - 1) // 3)]
        assert reason in ('damaged within', 'bad checksum')


def test_a_file_that_promises_more_than_there_is_ends_the_shard(tar, tmp_path):
    info = tarfile.TarInfo('0large.jpg')
    info.size = 2**50
    path = tmp_path / 'large.tar'
    path.write_bytes(info.tobuf() + tar.read_bytes())
    with pytest.raises(BrokenShardError, match='unexpected end of data'):
        list(read_shard(str(path), 60, 0, LIMITS, 20))


def test_a_sparse_file_is_not_expanded(tar, tmp_path):
    with open(tmp_path / '0hole.jpg', 'wb') as file:
        file.truncate(2**33)
    names = ['-C', tmp_path, '0hole.jpg']
    subprocess.run(['tar', '--sparse', '-cf', tmp_path / 's.tar', *names], check=True)
    assert (tmp_path / 's.tar').stat().st_size < 2**15
    samples = list(read_shard(str(tmp_path / 's.tar'), 60, 0, LIMITS, 20))
    assert [sample['jpg'] for sample in samples] == [None]


def test_a_header_may_not_name_all_files(tmp_path):
    """As the tar format lets it: they would have no key, and be lacking unnoticed."""
    with tarfile.open(
        tmp_path / 'odd.tar', 'w', format=tarfile.PAX_FORMAT, pax_headers=dict(path='a')
    ) as archive:
        archive.addfile(tarfile.TarInfo('0.txt'))
    assert read(tmp_path / 'odd.tar') == ([], 'one name or size for all files')


def test_a_silent_command_is_killed_with_its_children(tar, tmp_path):
    pid = tmp_path / 'pid'
    command = f"head -c 30000 {tar}; sh -c 'echo $$ > {pid}; exec sleep 600' | cat"
    keys, reason = read(f'pipe:{command}', timeout=0.5)
    assert 0 < len(keys) < 20
    assert reason == 'no data for 0.5 s'
    while runs(int(pid.read_text())):  # until the kernel gets to it
        time.sleep(0.01)


def hang(pid: Path) -> DataLoader:
    """Return a loader whose worker waits for a pipeline of commands that hang."""
    command = f"echo $$ > {pid}.sh; sh -c 'echo $$ > {pid}; exec sleep 600' | cat"
    return DataLoader(ImageTextShards(f'pipe:{command}', timeout=600), num_workers=1)


def wait_for(path: Path) -> int:
    while not (path.exists() and path.read_text().endswith('\n')):
        time.sleep(0.01)
    return int(path.read_text())


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL])
def test_a_command_that_hangs_ends_with_its_worker(tmp_path, number):
    batches = iter(hang(tmp_path / 'pid'))
    pids = wait_for(tmp_path / 'pid'), wait_for(tmp_path / 'pid.sh')
    assert all(map(runs, pids))
    os.kill(batches._workers[0].pid, number)
    with suppress(RuntimeError):  # the loader's own, that it was killed
        batches._workers[0].join()
    while any(map(runs, pids)):
        time.sleep(0.01)


def start_and_wait(pid: Path) -> None:
    batches = iter(hang(pid))
    Path(f'{pid}.worker').write_text(f'{batches._workers[0].pid}\n')
    next(batches)


def test_a_worker_whose_command_hangs_ends_with_the_main_process(tmp_path):
    pid = tmp_path / 'pid'
    process = multiprocessing.get_context('fork').Process(
        target=start_and_wait, args=(pid,)
    )
    process.start()
    pids = [wait_for(Path(f'{pid}{end}')) for end in ('', '.sh', '.worker')]
    assert all(map(runs, pids))
    process.kill()
    process.join()
    while any(map(runs, pids)):
        time.sleep(0.01)


def test_a_command_that_does_not_end_is_killed(tar):
    keys, reason = read(f'pipe:cat {tar}; exec >&-; sleep 600', timeout=0.5)
    assert keys == all_keys(1, 19 + 1)[: len(keys)] and len(keys) >= 19
    assert reason == 'the command did not end within 0.5 s of its last data'


@pytest.mark.parametrize(
    'command, reason',
    [
        ('exit 7', 'the command ended with exit status 7'),
        ('cat {}; exit 7', 'the command ended with exit status 7'),
        (
            'cat {}; echo a >&2; echo "no credentials" >&2; exit 2',
            'the command ended with exit status 2 (no credentials)',
        ),
        ('true', 'empty file'),
        ('head -c 9000 {}', 'unexpected end of data'),
        ('echo nonsense', 'truncated header'),
    ],
)
def test_a_failing_command_is_named_with_what_it_said(tar, command, reason):
    keys, found = read(f'pipe:{command.format(tar)}')
    assert found == reason
    assert len(keys) < 20


def test_a_command_that_recovers_goes_on_where_it_failed(tar, tmp_path):
    calls = tmp_path / 'calls'
    # Fails after some data, then before any, falls silent the third time.
    command = f"""pipe:echo >> {calls}; case $(wc -l < {calls}) in
        1) head -c 9000 {tar}; exit 1;; 2) exit 1;;
        3) head -c 20000 {tar}; sleep 600;; *) cat {tar};; esac"""
    assert read(command, timeout=1, retries=3) == (all_keys(1, 20), '')
    assert len(calls.read_text()) == 4
    calls.unlink()
    keys, reason = read(command, timeout=1, retries=2)
    assert 0 < len(keys) < 20 and reason == 'no data for 1 s'
    assert len(calls.read_text()) == 3


@pytest.mark.parametrize(
    'retries, kind', [(1, HangingShardError), (2, BrokenShardError)]
)
def test_a_shard_hangs_if_every_attempt_does(tmp_path, retries, kind):
    calls = tmp_path / 'calls'
    command = f'echo >> {calls}; test $(wc -l < {calls}) -gt 2 || sleep 600; exit 1'
    with pytest.raises(BrokenShardError) as error:
        list(read_shard(f'pipe:{command}', 0.3, retries, LIMITS, 20))
    assert error.type is kind


def test_a_path_is_opened_once(tmp_path):
    assert read(tmp_path / 'no.tar', retries=2) == ([], 'No such file or directory')
    assert read(tmp_path, retries=2) == ([], 'Is a directory')


def test_a_name_that_occurs_twice_is_noted(tmp_path, tar):
    data = tar.read_bytes()
    first = data.index(b'000000001.jpg')
    twice = tmp_path / 'twice.tar'
    text = data.index(b'000000000.txt')
    twice.write_bytes(data[:first] + data[text : text + 1024] + data[first:])
    keys, reason = read(f'pipe:cat {twice}', retries=2)
    assert keys == all_keys(1, 20)
    assert 'duplicate file name' in reason


@pytest.mark.skipif(not shutil.which('curl'), reason='webdataset reads URLs with curl')
def test_a_server_that_does_not_answer():
    with socket.create_server(('127.0.0.1', 0)) as server:
        url = f'http://127.0.0.1:{server.getsockname()[1]}/0.tar'
        assert read(url, timeout=0.5, retries=1) == ([], 'no data for 0.5 s')
    keys, reason = read(url)
    assert (keys, reason[:-1]) == ([], 'the command ended with exit status ')


def test_no_process_is_left_over(tar):
    before = zombies()
    for command in (f'cat {tar}', 'exit 3', 'sleep 600', f'cat {tar}; sleep 600'):
        read(f'pipe:{command}', timeout=0.3, retries=1)
        abandoned = read_shard(f'pipe:cat {tar}; sleep 600', 60, 0, LIMITS, 20)
        next(abandoned)
        abandoned.close()
    assert zombies() <= before
