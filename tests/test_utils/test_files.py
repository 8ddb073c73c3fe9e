"""Files are there whole or not at all."""

from __future__ import annotations

import pytest

from pacl_mmseg.utils import whole_file


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / 'mask.png'
    with whole_file(path) as part:
        part.write_bytes(b'half')
        assert not path.exists()
        assert part.suffix == '.png' and part.name.startswith('.')
        part.write_bytes(b'whole')
    assert path.read_bytes() == b'whole'
    with pytest.raises(ValueError, match='stopped'), whole_file(path) as part:
        part.write_bytes(b'half')
        raise ValueError('stopped')
    with pytest.raises(OSError), whole_file(path) as part:
        part.symlink_to('/dev/full')
        part.write_bytes(b'more than fits')
    assert path.read_bytes() == b'whole'
    assert list(tmp_path.iterdir()) == [path]
