"""What the tools say of errors, and that help comes at once; all in this process."""

from __future__ import annotations

import logging
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import MessageHub, MMLogger

from pacl_mmseg.apis.checking import check_config
from pacl_mmseg.datasets.small_world import CLASSES, SmallWorldSegmentation
from pacl_mmseg.registry import DATASETS, HOOKS

ROOT = Path(__file__).resolve().parents[2]
PACL, CLIP = 'configs/small_world/pacl.py', 'configs/small_world/clip.py'
TOOLS = [p for p in (ROOT / 'tools').rglob('*.py') if p.stem != 'cli']


@pytest.fixture
def cli(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    monkeypatch.setattr(sys, 'argv', ['tool'])
    import cli

    return cli


@pytest.fixture
def run(cli, tmp_path):
    """Run a tool; returns the one sentence that it ends with."""

    def run(tool: str, *arguments: str) -> str:
        main = runpy.run_path(str(ROOT / 'tools' / f'{tool}.py'))['main']
        work_dir = ['--work-dir', str(tmp_path)]
        with pytest.raises(SystemExit) as caught:
            cli.run(lambda: main([*arguments, *work_dir]))
        empty, sentence, hint = caught.value.code.split('\n')
        assert (empty, hint) == ('', '(--traceback shows where it came from)')
        return sentence.removeprefix('Error: ')

    return run


def test_help_imports_nothing_heavy():
    code = f"""
import contextlib, io, runpy, sys
for tool in {[str(tool) for tool in TOOLS]}:
    sys.argv, sys.path[0] = [tool, '--help'], {str(ROOT / 'tools')!r}
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            runpy.run_path(tool, run_name='__main__')
        except SystemExit as end:
            assert end.code == 0
    assert 'usage' in out.getvalue(), tool
    heavy = {{'torch', 'mmcv', 'pacl_mmseg', 'matplotlib'}} & {{*sys.modules}}
    assert not heavy, (tool, heavy)
"""
    subprocess.run([sys.executable, '-c', code], check=True)


@pytest.fixture
def log_file(tmp_path):
    """That of the current logger."""
    path = tmp_path / 'run.log'
    logger = MMLogger.get_instance(str(path), log_file=str(path))
    yield path
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.close()


def trip(error: Exception):
    raise error


ERRORS = [
    (ValueError('no such thing'), 'no such thing'),
    (OSError('no such\n file'), 'no such file'),
    (KeyError(), r'KeyError in \S*test_cli.py:\d+: '),
    (KeyError('x'), r'KeyError in \S*test_cli.py:\d+: x'),
    (TypeError('not two'), r'TypeError in \S*test_cli.py:\d+: not two'),
    (AssertionError(), r'AssertionError in \S*test_cli.py:\d+: '),
    (
        RuntimeError('Caught OSError in DataLoader worker process 0.\nOriginal '
                     'Traceback (most recent call last):\n  x\nOSError: bad: tar'),
        'bad: tar',
    ),
]  # fmt: skip


@pytest.mark.parametrize('error, sentence', ERRORS)
def test_errors_while_parts_are_built_are_one_sentence(cli, log_file, error, sentence):
    MessageHub.get_instance(str(log_file)).update_scalar('train/lr', 1.0)
    with pytest.raises(SystemExit, match=f'^\nError: {sentence}\n'):
        cli.run(lambda: trip(error))
    assert f'in trip\n    raise error\n{type(error).__name__}' in log_file.read_text()


@pytest.mark.parametrize('error, sentence', ERRORS)
@pytest.mark.parametrize('mode', ['train', 'test'])
def test_mistakes_after_the_first_batch_keep_their_traceback(
    cli, log_file, capsys, error, sentence, mode
):
    MessageHub.get_instance(f'{log_file}{mode}').update_scalar(f'{mode}/time', 1.0)
    expected = isinstance(error, cli.EXPECTED_ERRORS)
    with pytest.raises(SystemExit if expected else type(error)):
        cli.run(lambda: trip(error))
    assert 'in trip' in log_file.read_text()
    assert 'in trip' not in capsys.readouterr().out  # the interpreter's to show


@HOOKS.register_module(force=True)
class Mistake(Hook):
    """A mistake in the program, behind the given number of batches."""

    def __init__(self, after: int) -> None:
        self.after = after

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if runner.iter == self.after:
            raise TypeError('a mistake')


@pytest.mark.parametrize('after', [0, 1])
def test_a_mistake_in_a_run(cli, tmp_path, after):
    config = tmp_path / 'config.py'
    config.write_text(
        f"""
_base_ = ['{ROOT}/{PACL}']
custom_hooks = [dict(type='Mistake', after={after})]
experiment_name = 'mistake{after}'
visualizer = dict(name='mistake{after}')
train_cfg = dict(val_interval=100)
loader = dict(batch_size=4, num_workers=0, persistent_workers=False)
train_dataloader = dict(dataset=dict(dataset=dict(num_scenes=8)), **loader)
val_dataloader = dict(dataset=dict(num_scenes=2), **loader)
"""
    )
    main = runpy.run_path(str(ROOT / 'tools' / 'train.py'))['main']
    arguments = [str(config), '--work-dir', str(tmp_path / 'run')]
    with pytest.raises(TypeError if after else SystemExit, match='a mistake'):
        cli.run(lambda: main(arguments))
    (log,) = (tmp_path / 'run').glob('*/*.log')
    assert "raise TypeError('a mistake')" in log.read_text()


def test_traceback_on_request(cli, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['tool', '--traceback'])
    with pytest.raises(ValueError, match='x'):
        cli.run(lambda: trip(ValueError('x')))


MISSPELT = """
train_dataloder.batch_size=6 train_dataloader
default_hooks.checkpont.interval=5 checkpoint
default_hooks.checkpoint.intervall=5 interval
model.backbone.outptu=block output
model.bacbkone.output=block backbone
train_cfg.max_iter=4 max_iters
train_dataloader.bath_size=4 batch_size
train_dataloader.dataset.dataset.num_scene=4 num_scenes
optim_wrapper.optimzer.lr=1 optimizer
optim_wrapper.optimizer.weigt_decay=1 weight_decay
param_scheduler.0.eta_mim=1 eta_min
randomness.sed=1 seed
log_processor.windowsize=1 window_size
visualizer.nam=1 name
val_evaluator.0.iou_metric=mIoU iou_metrics
"""


@pytest.mark.parametrize('row', MISSPELT.strip().splitlines())
def test_misspelt_settings(run, row):
    option, nearest = row.split()
    sentence = run('train', PACL, '--cfg-options', option)
    assert option.split('.')[0] in sentence
    assert sentence.endswith(f'Did you mean {nearest!r}?')


@pytest.mark.parametrize('option', ['max_iters=3', 'train_pipeline.0.prob=0'])
def test_variables_of_a_config_are_refused(run, option):
    sentence = run('train', PACL, '--cfg-options', option)
    assert f'{option.partition("=")[0].split(".")[0]} is a variable of' in sentence
    assert 'train_cfg.max_iters' in sentence
    sentence = run('test', PACL, '--cfg-options', 'test_pipeline.0.type=X')
    assert 'a test takes test_dataloader.dataset.pipeline' in sentence


def test_what_mmengine_takes_out_of_a_part_is_no_mistake():
    init = dict(type='Normal', std=0.01, override=dict(name='conv_seg'))
    check_config(
        Config(
            dict(
                custom_hooks=[dict(type='EMAHook', priority=60)],
                model=dict(type='FCNHead', in_channels=2, channels=2, init_cfg=init),
            )
        )
    )


def test_what_nothing_is_known_of_is_left_to_mmengine():
    config = Config(
        dict(
            default_hooks=dict(ema=dict(type='EMAHook', some_new_option=1)),
            model=dict(type='OfMyOwn', anything=1),
            norm_cfg=dict(type='IoUMetric', anything=1),  # only the config's own name
        )
    )
    check_config(config)


@pytest.mark.parametrize(
    'launcher, variable, program',
    [
        ('slurm', 'SLURM_STEP_NODELIST', 'srun'),
        ('pytorch', 'RANK', 'torchrun'),
        ('mpi', 'OMPI_COMM_WORLD_LOCAL_RANK', 'mpirun'),
    ],
)
def test_a_launcher_that_is_not_there(run, monkeypatch, launcher, variable, program):
    monkeypatch.delenv(variable, raising=False)
    sentence = run('test', CLIP, '--launcher', launcher)
    assert f'is for what {program}' in sentence
    assert f'{variable} is not set' in sentence


def test_input_that_is_not_there(run, tmp_path):
    options = ['--cfg-options', 'model.encoder.pretrained=None']
    assert 'cc12m' in run('train', 'configs/pacl_vitb16_cc12m.py', *options)
    sentence = run('test', 'configs/pacl_voc21.py')
    assert 'set test_dataloader.dataset.data_root to where they are' in sentence
    sentence = run('test', PACL, str(tmp_path / 'no.pth'))
    assert 'There is no checkpoint' in sentence


@pytest.mark.parametrize('option', ['--tta', '--out=x', '--show-dir=x'])
def test_options_of_segmentations(run, option):
    sentence = run('test', 'configs/classification/pacl_small_world.py', option)
    assert sentence.startswith(f'{option.partition("=")[0]} is for segmentations')


def test_recall_of_more_images_than_there_are(run):
    config = 'configs/retrieval/pacl_small_world.py'
    sentence = run('test', config, '--subset', '9')
    assert sentence.startswith('R@10 needs 10 images, and these are 9: take more')


def test_no_vocabulary(run):
    options = ['--cfg-options', 'model.decode_head.dataset_name=None']
    assert run('test', CLIP, *options) == 'Give either vocabulary or dataset_name.'


def test_a_vocabulary_of_another_benchmark(run):
    options = ['--cfg-options', 'model.decode_head.dataset_name=voc20']
    sentence = run('test', CLIP, *options)
    assert 'vocabulary has 20 classes, but SmallWorldSegmentation has 36' in sentence


@DATASETS.register_module(force=True)
class ManyClasses(SmallWorldSegmentation):
    METAINFO = dict(classes=[*CLASSES, *map(str, range(255 - len(CLASSES)))])


def test_more_classes_than_an_image_of_labels_holds(run, tmp_path):
    options = ['--cfg-options', 'test_dataloader.dataset.type=ManyClasses']
    sentence = run('test', CLIP, '--out', str(tmp_path / 'masks'), *options)
    assert '--out writes 8-bit images' in sentence


@pytest.mark.skipif(torch.cuda.is_available(), reason='is right where there is a GPU')
def test_mixed_precision_without_a_gpu(run):
    # Before weights, or shards, are looked for.
    sentence = run('train', PACL, '--cfg-options', 'optim_wrapper.type=AmpOptimWrapper')
    assert 'optim_wrapper.type=OptimWrapper' in sentence


def test_a_config_that_is_none(run, tmp_path):
    path = tmp_path / 'broken.py'
    path.write_text('model = dict(\n')
    assert str(path) in run('train', str(path))
    path.write_text('model = nothing\n')
    assert "name 'nothing' is not defined" in run('train', str(path))
    assert str(tmp_path / 'no.py') in run('train', str(tmp_path / 'no.py'))
