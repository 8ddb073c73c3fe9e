"""Shards in an object store, read by its own client."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice, repeat

import object_store
import programs
import pytest
from shard_files import write_tar

from pacl_mmseg.datasets import shards as shards_module
from pacl_mmseg.datasets import tar_stream
from pacl_mmseg.datasets.counts import sample_counts
from pacl_mmseg.datasets.shards import ImageTextShards, ShardProgress

PER_SHARD = 6


@pytest.fixture
def store() -> Iterator[object_store.Store]:
    programs.need('aws', modules=['moto', 'flask_cors'])
    with object_store.serve() as store:
        yield store


def keys(shard: int) -> list[str]:
    return [f'{shard}{index}' for index in range(PER_SHARD)]


def test_no_sample_is_lost_or_doubled_by_a_store_that_fails(
    store, tmp_path, monkeypatch
):
    """Over an interruption; what two shards never give is counted and named."""
    for name, value in object_store.CLIENT.items():
        monkeypatch.setenv(name, value)
    # The client asks again where it got an error, but not here; it still does where an
    # answer was cut, five times, and hands on what came in parts of 256 KiB.
    monkeypatch.setenv('AWS_MAX_ATTEMPTS', '1')
    monkeypatch.setattr(tar_stream, '_PAUSE', 0.01)
    messages: list[str] = []
    monkeypatch.setattr(
        shards_module, 'print_log', lambda text, **_: messages.append(text)
    )
    sample_counts.reset()
    faults = ([], ['slow'], ['error'], ['cut'], repeat('cut'), repeat('error'))
    for shard, fault in enumerate(faults):
        members = {}
        for key in keys(shard):
            members |= {f'{key}.jpg': os.urandom(2**17), f'{key}.txt': key.encode()}
        write_tar(tmp_path / 'shard.tar', members)
        path = f'/bucket/cc/{shard}.tar'
        store.put(path, (tmp_path / 'shard.tar').read_bytes())
        store.faults[path] = iter(fault)
    client = f'aws --endpoint-url {store.url} s3 cp'

    def new() -> ImageTextShards:
        return ImageTextShards(
            f'pipe:{client} s3://bucket/cc/{{0..5}}.tar -',
            repeat=False,
            retries=1,
            open_shards=1,
            shuffle_buffer=0,
        )

    begun = new()
    progress = ShardProgress(begun.state)
    samples = list(islice(begun, 2 * PER_SHARD + 2))
    progress.update([sample['shard_position'] for sample in samples])
    rest = new()
    rest.load_state_dict(ShardProgress.merge([progress.state_dict()]))
    samples += rest

    assert all(s['caption'] == s['key'].encode() for s in samples)
    whole = [key for shard in range(4) for key in keys(shard)]
    cut = [s['key'] for s in samples if s['key'] not in whole]
    assert 0 < len(cut) < PER_SHARD and cut == keys(4)[: len(cut)]
    assert sorted(s['key'] for s in samples) == sorted(whole + cut)
    assert sample_counts.totals()['broken_shard'] == 2
    for shard, reason in ((4, 'Max Retries Exceeded'), (5, '500')):
        (message,) = (
            text for text in messages if f's3://bucket/cc/{shard}.tar' in text
        )
        assert 'the command ended with exit status 1' in message and reason in message
    assert all(store.answers[f'/bucket/cc/{shard}.tar'] > 1 for shard in range(2, 6))
