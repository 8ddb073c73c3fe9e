"""The ``pacl`` command: its verbs are the scripts of ``tools/``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import pacl_cli
from pacl_mmseg.apis import load_config


@pytest.fixture
def pacl(monkeypatch, tmp_path):
    """The command, in an empty folder and with what it changes put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['pacl'])
    monkeypatch.setattr(sys, 'path', [*sys.path])
    monkeypatch.setitem(sys.modules, '__main__', sys.modules['__main__'])
    monkeypatch.setenv('PACL_COMMAND', '')
    return pacl_cli.main


def test_help_comes_at_once():
    # Of the packages that are installed, none is imported.
    code = """
import sys
before = {*sys.modules}
import pacl_cli
try:
    pacl_cli.main(['--help'])
except SystemExit as end:
    assert end.code == 0
print({m for m in {*sys.modules} - before if 'site-packages' in (
    getattr(sys.modules[m], '__file__', None) or '')})
"""
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == 'set()'
    for verb in pacl_cli.VERBS:
        assert f'\n    {verb}' in done.stdout


@pytest.mark.parametrize('verb', pacl_cli.VERBS)
def test_help_of_a_verb(pacl, verb, capsys):
    with pytest.raises(SystemExit) as end:
        pacl([verb, '--help'])
    assert end.value.code == 0
    script = pacl_cli.VERBS[verb][0]
    said = capsys.readouterr().out
    assert f'pacl {verb} ' in said and f'usage: {Path(script).name}' not in said


def test_what_is_no_verb(pacl, capsys):
    for words in ([], ['sgment']):
        with pytest.raises(SystemExit) as end:
            pacl(words)
        assert end.value.code == 2
    assert "invalid choice: 'sgment'" in capsys.readouterr().err


def test_without_openmmlab(pacl, monkeypatch):
    from importlib import metadata

    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, 'version', version)
    with pytest.raises(SystemExit, match=r"install 'pacl-mmseg\[onedl\]'"):
        pacl(['train', 'config.py'])


def test_a_config_of_the_package_from_any_folder(pacl, tmp_path, monkeypatch):
    # It is read; what is missing is said, and what went wrong is the status.
    monkeypatch.delenv('PACL_DATA_ROOT', raising=False)
    with pytest.raises(SystemExit, match='set test_dataloader.dataset.data_root'):
        pacl(['test', 'configs/pacl_voc21.py'])
    missing = r'no config configs/pacl_vo20\.py\. Did you mean configs/pacl_voc20\.py '
    with pytest.raises(SystemExit, match=missing):
        pacl(['test', 'configs/pacl_vo20.py'])
    with pytest.raises(SystemExit, match=r'no config ~~~\.py\.\n'):
        pacl(['test', '~~~.py'])
    # Likewise a checkpoint: that of another method is found, and refused.
    files = ['configs/small_world/naclip.py', 'configs/small_world/pacl.safetensors']
    with pytest.raises(SystemExit, match=r'pacl\.safetensors has 6 parameters that'):
        pacl(['export', *files, 'shared'])
    own = tmp_path / 'configs' / 'pacl_voc21.py'
    own.parent.mkdir()
    own.write_text('model = dict(type="Own")\n')  # wins over the installed one
    assert load_config('configs/pacl_voc21.py').model.type == 'Own'


def test_an_interrupted_training_says_how_to_go_on(pacl, monkeypatch):
    monkeypatch.setattr(pacl_cli, 'run', lambda script: sys.exit(script.name))
    with pytest.raises(SystemExit, match='train.py'):
        pacl(['train', 'a b.py', '--amp'])
    assert os.environ['PACL_COMMAND'] == "pacl train 'a b.py' --amp"


def test_a_launcher_runs_the_python_that_runs_pacl(tmp_path, monkeypatch):
    # Without an active environment; what it would have started is printed.
    script = tmp_path / 'dist_train.sh'
    script.write_text('#!/bin/sh\ncommand -v python\necho "$@"\n')
    code = f"""
import pacl_cli
from pathlib import Path
pacl_cli.launch('dist-train', Path({str(script)!r}), ['a b.py', '2'])
"""
    done = subprocess.run(
        [sys.executable, '-c', code],
        env={**os.environ, 'PATH': '/usr/bin:/bin'},
        capture_output=True,
        text=True,
        check=True,
    )
    python, words = done.stdout.splitlines()
    assert Path(python).parent == Path(sys.executable).parent
    assert words == 'a b.py 2'
