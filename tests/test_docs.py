"""Every command and every piece of Python in README.md and the other pages is tried.

Shell blocks run in bash in a checkout with made data, in which a recorder stands for
the programs that install, download or start Python. What they would have started is
then called in this process: parsed by the tool's own parser and, of ``tools``, run: to
its end in the small world, elsewhere up to the first thing that must be downloaded.
Python runs as it stands; a config is read and tested with. A block that is not for
this has ``<!-- not run: REASON -->`` before it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import miniatures
import pytest
import torch.distributed.run
from mmengine.config import Config
from PIL import Image
from tensorboard.program import TensorBoard

import pacl_cli

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *(ROOT / name for name in ('README.md', 'CONTRIBUTING.md')),
    *sorted((ROOT / 'docs').rglob('*.md')),
]
BLOCK = re.compile(
    r'(?:<!-- not run: (?P<reason>[^>]+) -->\n)?'
    r'^```(?P<language>\w*)\n(?P<text>.*?)^```$',
    re.MULTILINE | re.DOTALL,
)
INLINE = re.compile(
    r'`((?:[A-Z_]+=\S+\s)*(?:python|pip|make|pacl|tools/\w+\.sh)\s[^`]+)`'
)
RECORDED = ('python', 'pip', 'make', 'pacl', 'srun', 'tensorboard')
RECORDER = r"""#!/bin/sh
{ printf '%s\037' "${0##*/}" "$@"; printf '\036'; } >> "$CALLS"
"""
# What a run may end with: the sentence on what cannot be here.
OBSTACLES = re.compile(
    r'does not exist: put|unpack val2017|not unpacked|shards (of \w+ )?exists|'
    r'could not be fetched|Mixed precision is for GPUs'
)
NAMES = {'CONFIG': 'configs/pacl_vitb16_cc12m.py'}  # CHECKPOINT is a file's
FEW = ['num_workers=0', 'persistent_workers=False']
TEST = [
    *(f'test_dataloader.{option}' for option in FEW),
    'test_dataloader.dataset.num_scenes=4',
]
ANALYSIS = [
    *(f'test_dataloader.{option}' for option in FEW),
    'test_dataloader.dataset.num_scenes=12',
]
TRAIN = [
    *(f'{loader}_dataloader.{option}' for loader in ('train', 'val') for option in FEW),
    *('train_cfg.max_iters=2', 'train_cfg.val_interval=2'),
    *('train_dataloader.batch_size=8', 'val_dataloader.dataset.num_scenes=4'),
]


class Block(NamedTuple):
    place: str
    section: str
    language: str
    text: str
    reason: str | None = None


def blocks(page: Path) -> Iterator[Block]:
    """Blocks of a page, and what it says between them in the form of commands."""
    content = page.read_text()

    def where(match: re.Match) -> tuple[str, str]:
        before = content[: match.start()]
        heading = re.findall(r'^#+ (.+)$', before, re.MULTILINE)[-1]
        return f'{page.relative_to(ROOT)}:{before.count(chr(10)) + 1}', heading

    prose = content
    for match in BLOCK.finditer(content):
        yield Block(*where(match), match['language'], match['text'], match['reason'])
        blank = '\n' * match[0].count('\n')
        blank += ' ' * (len(match[0]) - len(blank))
        prose = prose[: match.start()] + blank + prose[match.end() :]
    for match in INLINE.finditer(prose):
        yield Block(*where(match), 'bash', ' '.join(match[1].split()))


BLOCKS = [block for page in PAGES for block in blocks(page)]


def of(language: str) -> pytest.MarkDecorator:
    found = [b for b in BLOCKS if b.language == language and not b.reason]
    return pytest.mark.parametrize('block', found, ids=[b.place for b in found])


@pytest.fixture(scope='module')
def checkout(tmp_path_factory) -> Iterator[Path]:
    """A checkout, what a reader would have downloaded, and a trained checkpoint."""
    root = tmp_path_factory.mktemp('checkout')
    for name in ('configs', 'docs'):
        shutil.copytree(ROOT / name, root / name)
    for name in ('tools', 'demo', 'benchmarks', 'setup.py', 'constraints.txt'):
        (root / name).symlink_to(ROOT / name)
    programs = root / 'programs'
    programs.mkdir()
    for name in RECORDED:
        (programs / name).write_text(RECORDER)
        (programs / name).chmod(0o755)
    (programs / 'sbatch').write_text('#!/bin/sh\nexec bash\n')  # the script it is given
    (programs / 'sbatch').chmod(0o755)
    make_downloads(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
        patch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(root / 'hub'))
        patch.setenv('LOCAL_RANK', '0')
        for folder in ('tools', 'benchmarks'):
            patch.syspath_prepend(str(ROOT / folder))
        run('tools/train.py', ['configs/small_world/pacl.py'])
        trained = root / 'work_dirs' / 'pacl' / 'iter_2.pth'
        shutil.copy(trained, root / 'CHECKPOINT')
        Image.new('RGB', (64, 48)).save(root / 'photo.jpg')
        for folder in ('work_dirs/pacl', 'work_dirs/quickstart/pacl'):
            os.makedirs(folder, exist_ok=True)
            shutil.copy(trained, Path(folder, 'iter_150.pth'))
        yield root


def make_downloads(root: Path) -> None:
    """The benchmarks' archives as in docs/datasets.md, of three images each."""
    source = root / 'downloads'
    for made in ('voc', 'ade20k', 'coco', 'context', 'context459', 'ade847'):
        getattr(miniatures, made)(source)
    miniatures.cityscapes(source)
    archives = {
        'VOCtrainval_11-May-2012.tar': ('.', 'VOCdevkit/VOC2012'),
        'VOCtrainval_03-May-2010.tar': ('.', 'VOCdevkit/VOC2010/JPEGImages'),
        'trainval.tar.gz': ('VOCdevkit/VOC2010', 'trainval'),
        'val2017.zip': ('coco_stuff164k/images', 'val2017'),
        'stuffthingmaps_trainval2017.zip': ('coco_stuff164k/annotations', 'val2017'),
        'ADEChallengeData2016.zip': ('ade', 'ADEChallengeData2016'),
        'ADE20K_2021_17_01.zip': ('.', 'ADE20K_2021_17_01'),
        'leftImg8bit_trainvaltest.zip': ('cityscapes', 'leftImg8bit'),
        'gtFine_trainvaltest.zip': ('cityscapes', 'gtFine'),
    }
    for name, (folder, content) in archives.items():
        stem, form = re.fullmatch(r'(.+?)\.(tar|tar\.gz|zip)', name).groups()
        form = 'gztar' if form == 'tar.gz' else form
        shutil.make_archive(str(root / stem), form, source / folder, content)
    merged = source / 'VOCdevkit' / 'VOC2010' / 'trainval_merged.json'
    shutil.copy(merged, root)


RAN: set[tuple[str, ...]] = set()
LOADED: dict[Path, ModuleType] = {}


def load(script: str) -> ModuleType:
    """A script as a module, loaded once."""
    path = (ROOT / script).resolve()
    if path not in LOADED:
        spec = importlib.util.spec_from_file_location(f'docs_{path.stem}', path)
        LOADED[path] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(LOADED[path])
    return LOADED[path]


def call(script: str, arguments: list[str]) -> None:
    """As ``python script arguments`` does, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', [script, *arguments])
        load(script).main()


class Parsed(BaseException):
    """Raised once arguments are parsed."""


def parse(script: str, arguments: list[str]) -> None:
    """Have a script parse its arguments, and stop it there."""
    parse_args = argparse.ArgumentParser.parse_args

    def parse_and_stop(self, args=None, namespace=None):
        parse_args(self, args, namespace)
        raise Parsed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Parsed):
        patch.setattr(argparse.ArgumentParser, 'parse_args', parse_and_stop)
        call(script, arguments)


def few(tool: str, arguments: list[str]) -> list[str]:
    """Arguments for one process, and in the small world for few iterations, scenes."""
    words = list(arguments)
    if '--launcher' in words:
        del words[(place := words.index('--launcher')) : place + 2]
    options = {
        'train.py': TRAIN,
        'test.py': TEST,
        'semantic_coherence.py': ANALYSIS,
        'activation_map.py': ANALYSIS,
    }.get(tool)
    if options and any('small_world' in word for word in words):
        if '--cfg-options' not in words:
            words.append('--cfg-options')
        place = words.index('--cfg-options') + 1
        words[place:place] = options
    extra = {
        'prepare_data.py': ['--nproc', '1'],
        'benchmark.py': ['--dry-run'],
        'semantic_coherence.py': ['--pairs', '20000', '--bootstrap', '2'],
    }
    return [*words, *extra.get(tool, [])]


def run(script: str, arguments: list[str]) -> None:
    """Run a tool, in the small world with few scenes, up to what is not here."""
    done = (script, *arguments)
    if done in RAN:
        return
    RAN.add(done)
    try:
        call(script, few(Path(script).name, arguments))
    except SystemExit as end:
        if isinstance(end.code, str):
            assert OBSTACLES.search(end.code), end.code
    except ImportError as error:  # of the extras
        pytest.skip(str(error))
    except (OSError, ValueError, RuntimeError) as error:
        if not OBSTACLES.search(str(error)):
            raise


def replay(words: list[str]) -> None:
    """Try one recorded command."""
    program, *rest = [NAMES.get(word, word) for word in words]
    for word in rest:
        assert not word.startswith('configs/') or Path(word).is_file(), word
    if program == 'srun':
        program, *rest = rest[rest.index('python') :]
        rest = rest[1:] if rest[0] == '-u' else rest
    if program == 'pacl':
        if rest == ['--help']:
            return
        script = f'tools/{pacl_cli.VERBS[rest[0]][0]}'
        if script.endswith('.sh'):  # launchers of what is tried without them
            return
        program, rest = 'python', [script, *rest[1:]]
    if program == 'make':
        subprocess.run(['make', '--dry-run', *rest], cwd=ROOT, check=True)
    elif program == 'pip':
        for word in rest:
            for extra in re.findall(r'\.\[(.+)\]', word):
                for name in extra.split(','):
                    assert f"\n        '{name}': [" in (ROOT / 'setup.py').read_text()
        if '-c' in rest:
            assert Path(rest[rest.index('-c') + 1]).is_file()
    elif program == 'tensorboard':
        TensorBoard().configure([program, *rest])
    else:
        if rest[:2] == ['-m', 'torch.distributed.run'] or rest[0] == '-c':
            # What -c runs, in tools/dist_train.sh, is the same.
            args = torch.distributed.run.get_args_parser().parse_args(rest[2:])
            rest = [args.training_script, *args.training_script_args]
        script = rest[0]
        if script == '-m':
            assert rest[1] in ('spacy', 'pip', 'pacl_mmseg.benchmark.protocol_docs')
            return
        parse(script, rest[1:])
        # Measurements and the quickstart take minutes; a page is served until Ctrl-C.
        long = ('quickstart', 'demo')
        if 'tools' in Path(script).parts and Path(script).stem not in long:
            run(script, rest[1:])


@of('bash')
def test_shell(block, checkout, capsys, monkeypatch):
    # What one block of a section unpacks is there in the next.
    data = checkout / 'data' / re.sub(r'\W', '_', block.section)
    monkeypatch.setenv('PACL_DATA_ROOT', str(data))
    if 'unzip ' in block.text and not shutil.which('unzip'):
        pytest.skip('needs unzip')
    calls = checkout / 'calls'
    calls.write_text('')
    path = f'{checkout / "programs"}:{os.environ["PATH"]}'
    subprocess.run(
        ['bash', '-euo', 'pipefail', '-c', block.text],
        env={**os.environ, 'PATH': path, 'CALLS': str(calls)},
        check=True,
    )
    commands = [c.split('\037')[:-1] for c in calls.read_text().split('\036')[:-1]]
    assert commands
    for command in commands:
        replay(command)
    if re.search(r'^(tar|unzip) ', block.text, re.MULTILINE):
        # Unpacked and converted to where it is looked for; only, too few images.
        verdicts = capsys.readouterr().out
        assert 'incomplete' in verdicts
        assert not re.search(r'missing|unconverted|wrong', verdicts), verdicts


@of('python')
def test_python(block, checkout, monkeypatch):
    monkeypatch.setenv('PACL_DATA_ROOT', 'data')
    if '_base_ = ' in block.text:
        world = 'small_world' if 'small_world' in block.text else 'benchmark'
        config = f'configs/own_{world}.py'
        (checkout / config).write_text(block.text)
        if world == 'small_world':
            run('tools/train.py', [config])
        run('tools/test.py', [config, 'CHECKPOINT'])
    else:
        exec(compile(block.text, block.place, 'exec'), {})


@pytest.mark.parametrize('name', ['small_world'])
def test_notebook(name, checkout, capsys):
    """Its cells print what is stored in it."""
    path = ROOT / 'docs' / 'notebooks' / f'{name}.ipynb'
    names = {}
    for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
        if cell['cell_type'] == 'code':
            exec(compile(''.join(cell['source']), str(path), 'exec'), names)
            streams = [o for o in cell['outputs'] if o['output_type'] == 'stream']
            stored = ''.join(line for stream in streams for line in stream['text'])
            assert capsys.readouterr().out == stored


def test_what_is_not_run_says_why():
    assert {block.language for block in BLOCKS} == {'bash', 'python', ''}
    for block in BLOCKS:  # without a language: what lies where
        assert block.language or '/' in block.text.split()[0], block.place
        assert block.reason is None or len(block.reason.split()) > 3, block.place


def test_options_of_the_table_change_what_is_there(checkout):
    """docs/training.md's table of ``--cfg-options``, on the config that it is about."""
    table = re.search(
        r'\| `--cfg-options` \|\n\|[-|]+\n((?:\|.*\n)+)',
        (ROOT / 'docs' / 'training.md').read_text(),
    )[1]
    train = load('tools/train.py')
    for row in table.splitlines():
        key, config, flags = None, 'configs/pacl_vitb16_cc12m.py', []
        spans = re.findall(r'`([^`]+)`', row.split('|')[2])
        for word in [word for span in spans for word in shlex.split(span)]:
            if word.startswith('--'):
                flags.append(word)
            elif word.startswith('configs/'):
                config = word
            else:
                key, value = word.split('=', 1) if '=' in word else (key, word)
                given = [config, *flags, '--cfg-options', f'{key}={value}']
                changed = train.cli.config_from(train.parse_args(given))
                assert at(changed, key) is not None, word
                parent = at(Config.fromfile(config), key.rpartition('.')[0])
                assert parent, word


LINK = re.compile(r'\[[^]]+\]\(([^)#\s]*)(?:#([^)\s]+))?\)')


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    """Files, and headings by GitHub's names for them."""
    for file, heading in LINK.findall(page.read_text()):
        if re.match(r'https?:', file):
            continue
        target = page.parent / file if file else page
        assert target.exists(), file
        if heading:
            titles = re.findall(r'^#+ (.+)$', target.read_text(), re.MULTILINE)
            names = [
                re.sub(r'[^\w\- ]', '', t.lower()).replace(' ', '-') for t in titles
            ]
            assert heading in names, (file, heading)


def at(config: Config, key: str) -> object:
    for part in key.split('.'):
        config = config[int(part)] if part.isdigit() else config.get(part)
    return config
