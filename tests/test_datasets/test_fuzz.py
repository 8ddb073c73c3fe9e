"""Some hundreds of the cases of ``fuzz.py``, which has what must hold for each."""

import sys
from collections import Counter
from pathlib import Path

import fuzz
import pytest


@pytest.mark.skipif(not Path('/proc/self/clear_refs').exists(), reason='needs Linux')
def test_whatever_is_damaged_the_run_goes_on(tmp_path):
    kinds = Counter(fuzz.run_cases(0, range(350), tmp_path))
    assert set(kinds.values()) == {50}


def test_the_script(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['fuzz.py', '--cases', '7', '--seed', '1'])
    fuzz.main()
    assert capsys.readouterr().out.endswith('7 cases of seed 1: all held\n')
