"""Whose a work directory is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from engine_runs import run
from filelock import FileLock

from pacl_mmseg.engine import work_dir as module
from pacl_mmseg.engine.work_dir import LOCK, STOPPED, claimed, stop_for_good


@pytest.fixture
def work_dir(tmp_path, monkeypatch) -> Path:
    for name in ('SLURM_JOB_ID', 'SLURM_RESTART_COUNT', 'TORCHELASTIC_RUN_ID'):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def start(work_dir, monkeypatch):
    """Start a job's processes, for the given time; ends at once."""

    def start(job='a', restart=0, resume=False, load_from=None, by='TORCHELASTIC'):
        names = dict(TORCHELASTIC='TORCHELASTIC_RUN_ID', SLURM='SLURM_JOB_ID')
        with monkeypatch.context() as patch:
            patch.setenv(names[by], job)
            patch.setenv(f'{by}_RESTART_COUNT', str(restart))
            with claimed(str(work_dir), resume, load_from) as what:
                return what

    return start


def checkpoints(work_dir: Path, *steps: int) -> str:
    for step in steps:
        (work_dir / f'iter_{step}.pth').touch()
    return str(work_dir / f'iter_{max(steps)}.pth')


@pytest.mark.parametrize('by', ['TORCHELASTIC', 'SLURM'])
def test_a_job_goes_on_by_itself(work_dir, start, by):
    assert start(by=by, load_from='weights.pth') == (False, 'weights.pth')
    # There is nothing to go on from yet.
    again = start(by=by, restart=1, load_from='weights.pth')
    assert again == (False, 'weights.pth')
    newest = checkpoints(work_dir, 9, 10)
    assert start(by=by, restart=1, load_from='weights.pth') == (True, newest)
    assert start(by=by, restart=2, resume=True, load_from='old.pth') == (True, newest)
    with pytest.raises(RuntimeError, match='Not started again: .* not of this job'):
        start('b', by=by, restart=1)


def test_a_run_is_not_started_over(work_dir, start):
    start()
    newest = checkpoints(work_dir, 10, 9)
    for restart in (0, 1, 2):  # as torchrun would start it again
        with pytest.raises(RuntimeError, match='of an earlier run|not of this job'):
            start(restart=restart)
    assert start(resume=True) == (True, newest)
    assert start(restart=1) == (True, newest)
    for name in ('best_mIoU_iter_4.pth', 'epoch_3.pth'):
        Path(newest).with_name('iter_9.pth').unlink(missing_ok=True)
        Path(newest).unlink(missing_ok=True)
        (work_dir / name).touch()
        with pytest.raises(RuntimeError, match='--resume, give another --work-dir'):
            start()
        (work_dir / name).unlink()
    assert start() == (False, None)


def test_what_is_resumed(work_dir, start):
    assert start(resume=True) == (False, None)  # nothing is there
    (work_dir / 'last_checkpoint').write_text(str(work_dir / 'gone.pth'))
    assert start(resume=True) == (False, None)
    elsewhere = work_dir / 'elsewhere.pth'
    elsewhere.touch()
    (work_dir / 'last_checkpoint').write_text(str(elsewhere))
    assert start(resume=True) == (True, str(elsewhere))
    checkpoints(work_dir, 5)
    newest = str(work_dir / 'iter_5.pth')
    assert start(resume=True, load_from=newest) == (True, newest)
    # Later checkpoints, or those of another run, would be mixed up with what comes.
    for other in ('other.pth', str(work_dir / 'iter_3.pth')):
        with pytest.raises(RuntimeError, match=rf'/iter_5\.pth is .* than {other},'):
            start(resume=True, load_from=other)


def test_a_note_ends_what_is_started_again(work_dir, start):
    start()
    checkpoints(work_dir, 5)
    runner = SimpleNamespace(work_dir=str(work_dir), _resume=False, _load_from=None)
    with pytest.raises(RuntimeError, match=r'The loss is nan: .* is .*/iter_5\.pth\.'):
        stop_for_good(runner, 'The loss is nan')
    for restart in (1, 2):
        with pytest.raises(
            RuntimeError, match=r'Not started again: The loss is nan: .*--resume\.$'
        ):
            start(restart=restart, resume=True)
    assert start(resume=True)[0] and not (work_dir / STOPPED).exists()


def test_one_training_at_a_time(config, monkeypatch):
    monkeypatch.setattr(module, 'PATIENCE', 0.0)
    Path(config.work_dir).mkdir()
    at_work = pytest.raises(
        RuntimeError, match='Another training is at work in .*/run:'
    )
    with FileLock(Path(config.work_dir, LOCK)), at_work:
        run(config)
    config.train_cfg.max_iters = 2
    run(config)
    with pytest.raises(RuntimeError, match='go on with it by --resume'):
        run(config)
