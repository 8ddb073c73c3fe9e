"""tools/benchmark.py, on a few scenes of the small world."""

from __future__ import annotations

import contextlib
import copy
import json
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from processes import Process, script

from pacl_mmseg.apis import load_config
from pacl_mmseg.benchmark.grid import Cell, Launcher, Training, run_cells
from pacl_mmseg.benchmark.results import read_result

ROOT = Path(__file__).resolve().parents[2]
SCENES = ['test_dataloader.dataset.num_scenes=12', 'test_dataloader.batch_size=4']


@pytest.fixture
def benchmark(monkeypatch, tmp_path):
    """The tool's ``main``, called in this process; no weights are on this machine."""
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path))
    monkeypatch.setenv('PACL_DATA_ROOT', 'data')  # --data-root sets it
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    import benchmark

    return benchmark.main


class Forked(contextlib.AbstractContextManager):
    """As ``subprocess.Popen`` of one of ``tools``, but for its imports."""

    def __init__(self, command, stdout, stderr):
        program, _, path, *words = command
        assert program == sys.executable
        self.process, self.log = Process(script, Path(path).name, words), stdout

    def wait(self) -> int:
        done = self.process.wait()
        self.log.write((done.stdout + done.stderr).encode())
        return done.returncode

    def __exit__(self, *error: object) -> None:
        self.process.process.kill()


@pytest.fixture
def forked(monkeypatch):
    """Cells are processes that need not import everything anew."""
    substitute = SimpleNamespace(Popen=Forked)
    monkeypatch.setattr('pacl_mmseg.benchmark.grid.subprocess', substitute)


def arguments(work_dir: Path, *methods: str) -> list[str]:
    return [
        *('--methods', *methods),
        *('--benchmarks', 'small_world'),
        *('--work-dir', str(work_dir)),
        *('--cfg-options', *SCENES),
    ]


def results_of(work_dir: Path, method: str) -> list[Path]:
    return sorted((work_dir / 'small_world' / method).glob('*/result.json'))


def dry_run(benchmark, *options: str) -> None:
    """Its exit status says whether something is missing."""
    with contextlib.suppress(SystemExit):
        benchmark([*options, '--dry-run'])


def test_killed_started_again_and_a_failure(benchmark, tmp_path, capsys):
    started = Process(script, 'benchmark.py', arguments(tmp_path, 'clip', 'maskclip'))
    while not results_of(tmp_path, 'clip') and started.process.is_alive():
        time.sleep(0.05)
    started.process.terminate()
    assert started.wait().returncode != 0
    assert not results_of(tmp_path, 'maskclip')
    (first,) = results_of(tmp_path, 'clip')
    kept = first.stat().st_mtime_ns

    junk = tmp_path / 'junk.pth'
    junk.write_bytes(b'no checkpoint')
    given = ['--checkpoint', f'pacl={junk}', '--gpus', '2']  # shared by processes
    with pytest.raises(SystemExit, match='1 of 3 failed'):
        benchmark([*arguments(tmp_path, 'clip', 'pacl', 'maskclip'), *given])
    out = capsys.readouterr().out
    assert '3 to evaluate, 1 finished before' in out
    assert re.search(r'\[2/3\] small_world/pacl: failed: .*junk.pth', out)
    assert re.search(
        r'\[3/3\] small_world/maskclip: mIoU \d+\.\d+ on all images in', out
    )
    assert first.stat().st_mtime_ns == kept

    results = json.loads((tmp_path / 'results.json').read_text())
    assert [row['method'] for row in results] == ['clip', 'pacl', 'maskclip']
    clip, pacl, maskclip = results
    assert 'no checkpoint' in pacl['failure'] and pacl['record'] is None
    assert maskclip['mIoU'] > clip['mIoU'] > 0
    assert maskclip['present_classes_mIoU'] > maskclip['mIoU']
    (second,) = results_of(tmp_path, 'maskclip')
    record = read_result(second)
    assert record == maskclip['record']
    assert record['images'] == 12 and record['images_per_s'] > 0
    assert record['processes'] == 2
    assert record['peak_memory_mb'] > 100
    assert record['protocol']['names'] == 'small_world'
    assert len(record['encoders']['backbone']['sha256']) == 64
    assert set(record['versions']) >= {'torch', 'mmseg', 'pacl_mmseg'}
    assert 'pacl' in (tmp_path / 'results.md').read_text()
    assert (tmp_path / 'chart.png').stat().st_size > 1000

    # Other settings are another measurement; speed and places are not.
    options = arguments(tmp_path, 'clip')
    dry_run(benchmark, *options, 'test_dataloader.batch_size=2')
    dry_run(benchmark, *options, 'model.decode_head.templates=photo')
    first.write_text(first.read_text()[:100])  # as a full disk leaves it
    with pytest.warns(UserWarning, match='Not taken up: .*is damaged'):
        dry_run(benchmark, *options)
    assert capsys.readouterr().out.splitlines() == [
        'small_world/clip: finished',
        'small_world/clip: would run',
        'small_world/clip: would run',
    ]


def test_dry_run_says_what_is_missing(benchmark, tmp_path, capsys):
    dry_run(
        benchmark,
        *('--methods', 'clip', 'maskclip', '--benchmarks', 'small_world', 'voc20'),
        *('--work-dir', str(tmp_path / 'run'), '--data-root', str(tmp_path)),
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        'small_world/clip: would run',
        'small_world/maskclip: would run',
        'voc20/clip: something is missing',
        'voc20/maskclip: something is missing',
    ]
    assert lines[4].startswith(f'{tmp_path}/VOCdevkit/VOC2012 does not exist')
    assert lines[5].startswith("The 'openai' weights of ViT-B-16-quickgelu are not on")
    assert len(lines) == 6
    assert not (tmp_path / 'run').exists()


def test_half_a_download_is_found(benchmark, tmp_path, capsys):
    voc = tmp_path / 'VOCdevkit' / 'VOC2012'
    for folder in ('JPEGImages', 'SegmentationClass', 'ImageSets/Segmentation'):
        (voc / folder).mkdir(parents=True)
    (voc / 'ImageSets/Segmentation/val.txt').write_text('a\nb\n')
    (voc / 'JPEGImages' / 'a.jpg').write_bytes(b'x')
    (voc / 'SegmentationClass' / 'a.png').write_bytes(b'')
    options = ['--methods', 'clip', '--benchmarks', 'voc20']
    dry_run(benchmark, *options, '--data-root', str(tmp_path))
    out = capsys.readouterr().out
    assert f'3 of 4 images and masks in {voc} are not there or empty' in out
    assert 'a.png' in out


def test_nothing_starts_while_something_is_missing(benchmark, tmp_path):
    junk = ['--checkpoint', f'pacl={tmp_path / "no.pth"}']
    with pytest.raises(ValueError, match='There is no checkpoint .*no.pth'):
        benchmark([*arguments(tmp_path / 'run', 'pacl'), *junk])
    weights = ['model.encoder.pretrained=no.safetensors']
    with pytest.raises(ValueError, match='There is no weights file no.safetensors'):
        benchmark([*arguments(tmp_path / 'run', 'clip'), *weights])
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
    'changed, message',
    [
        (['--methods', 'naclop'], "no method 'naclop'.*Did you mean 'naclip'"),
        (['--benchmarks', 'ade20'], "no benchmark 'ade20'.*Did you mean 'ade20k'"),
        (['--protocol', 'dinoser'], "no protocol 'dinoser'.*Did you mean 'dinoiser'"),
        (['--checkpoint', 'clip=x.pth'], 'None of these methods has trained parts'),
        (['--methods', 'clip', 'pacl'], 'Give --checkpoint pacl=FILE'),
        (['--methods', 'pacl', '--checkpoint', 'x.pth'], 'Give --checkpoint pacl=FILE'),
        (['--benchmarks', 'small_world', '--subset', '0'], 'do not have indices=0'),
        (['--benchmarks', 'small_world', '--subset', '501'], '500 images do not have'),
        (['--benchmarks', 'small_world', '--protocol', 'naclip'], 'its own protocol'),
        (['--gpus', '2', '--launcher', 'none'], 'needs --launcher pytorch or slurm'),
        (['--gpus', '0'], '--gpus must be at least 1'),
        (['--benchmarks', 'voc20', 'dtd'], 'benchmarks of segmentation out'),
        (['--benchmarks', 'dtd', '--protocol', 'naclip'], 'leave --protocol'),
        (
            ['--benchmarks', 'dtd', '--methods', 'maskclip'],
            "no method 'maskclip'",
        ),
    ],
)
def test_mistyped_arguments(benchmark, changed, message):
    defaults = ['--methods', 'clip', '--benchmarks', 'voc20', '--dry-run']
    with pytest.raises(ValueError, match=message):
        benchmark([*defaults, *changed])


def test_whole_images(benchmark, forked, tmp_path, capsys):
    options = ['--work-dir', str(tmp_path), '--cfg-options', *SCENES]
    given = ['--methods', 'clip', '--benchmarks', 'small_world_objects']
    benchmark([*given, *options])
    out = capsys.readouterr().out
    (path,) = tmp_path.glob('small_world_objects/clip/*/result.json')
    record = read_result(path)
    assert record['images'] == 12
    top1 = record['metrics']['accuracy/top1']
    assert top1 > 50  # of 36 classes
    assert f'accuracy/top1 {top1} on all images' in out
    assert f'| small_world_objects | top-1  | {top1:18.2f} |' in out
    assert (tmp_path / 'results.md').read_text() in out
    everything = ['--benchmarks', 'classification', '--data-root', str(tmp_path)]
    dry_run(benchmark, '--methods', 'clip', 'clip_mean', *everything)
    out = capsys.readouterr().out
    assert 'eurosat/clip_mean: something is missing' in out
    assert f'{tmp_path}/imagenet does not exist: put the files of imagenet into' in out


def test_launchers(monkeypatch):
    monkeypatch.setenv('SRUN_ARGS', '-p gpu --qos=high')
    monkeypatch.setenv('GPUS_PER_NODE', '4')
    torchrun = ' '.join(Launcher('pytorch', 2).command('test.py', 'c.py'))
    assert '-m torch.distributed.run --standalone --nproc_per_node=2 /' in torchrun
    assert torchrun.endswith('tools/test.py c.py --launcher pytorch')
    srun = Launcher('slurm', 8).command('test.py', 'c.py')
    assert srun[0] == 'srun'
    assert {'--gres=gpu:4', '--ntasks=8', '--ntasks-per-node=4', '-p'} <= set(srun)
    assert srun[-3:] == ['c.py', '--launcher', 'slurm']
    monkeypatch.setenv('GPUS_PER_NODE', '0')
    srun = Launcher('slurm', 8).command('test.py', 'c.py')
    assert '--ntasks=8' in srun and not any('gres' in word for word in srun)


def test_cells_on_slurm(benchmark, slurm_env, monkeypatch, tmp_path, capsys):
    for name, value in slurm_env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv('SRUN_ARGS', '--partition=all')
    options = ['--launcher', 'slurm', '--gpus', '2']
    benchmark([*arguments(tmp_path, 'clip'), *options])
    assert '[1/1] small_world/clip: mIoU' in capsys.readouterr().out
    record = read_result(*results_of(tmp_path, 'clip'))
    assert record['images'] == 12 and record['processes'] == 2


def test_two_cells_share_one_training(forked, tmp_path, capsys):
    """As in the quickstart and the ablations."""
    config = load_config(str(ROOT / 'configs' / 'small_world' / 'pacl.py'))
    config.train_cfg.max_iters = 2
    config.train_dataloader.update(batch_size=4, num_workers=0)
    config.train_dataloader.persistent_workers = False
    config.test_dataloader.dataset.num_scenes = 4
    other = copy.deepcopy(config)
    other.test_dataloader.dataset.indices = 3
    training = Training(config, tmp_path / 'pacl')
    cells = [
        Cell('all', config, tmp_path, training),
        Cell('three', other, tmp_path, training),
    ]
    assert run_cells(cells[:1], tmp_path, Launcher()) == {}
    written = training.checkpoint.stat().st_mtime_ns
    assert run_cells(cells, tmp_path, Launcher()) == {}
    everything, three = [cell.record() for cell in cells]
    assert everything['checkpoint'] == three['checkpoint']
    assert everything['checkpoint']['file'] == str(training.checkpoint)
    assert (everything['images'], three['images']) == (4, 3)
    assert (everything['protocol']['subset'], three['protocol']['subset']) == (None, 3)
    assert 'the first 3 images alone' in (cells[1].folder / 'log.txt').read_text()

    assert training.checkpoint.stat().st_mtime_ns == written
    capsys.readouterr()
    assert run_cells(cells, tmp_path, Launcher()) == {}  # nothing is repeated
    assert '2 to evaluate, 2 finished before' in capsys.readouterr().out
    path = cells[1].folder / 'result.json'
    value = three['metrics']['mIoU']
    path.write_text(path.read_text().replace(f'"mIoU": {value}', '"mIoU": 99.9'))
    with pytest.warns(UserWarning, match='changed after it was written: test again'):
        assert cells[1].record() is None
    config.optim_wrapper.optimizer.lr = 1.0
    other = Training(config, training.folder)
    assert 'the checkpoints of another config' in other.run(Launcher())
