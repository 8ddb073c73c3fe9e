"""What a run shows of itself: TensorBoard's files, and a collapse in the curves."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine_runs import ROOT, curve, run
from mmengine.config import Config


def test_curves_and_pictures_in_tensorboard(config, tmp_path):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    experiment = Config.fromfile(ROOT / 'configs' / 'pacl_vitb16_cc12m_voc20val.py')
    config.visualizer.vis_backends = experiment.vis_backends
    config.train_cfg.update(max_iters=4, val_interval=2)
    config.default_hooks.visualization.update(draw=True, interval=2)
    config.val_dataloader.dataset.cache_dir = str(tmp_path / 'scenes')
    config.val_dataloader.batch_size = 1
    run(config)
    events = EventAccumulator(str(*Path(config.work_dir).glob('*/vis_data'))).Reload()
    scalars = events.Tags()['scalars']
    wanted = ['loss', 'acc_i2t', 'acc_t2i', 'weight_entropy', 'effective_patches']
    for name in [name if name == 'loss' else f'decode.{name}' for name in wanted]:
        assert [event.step for event in events.Scalars(name)] == [1, 2, 3, 4]
    for name in ('samples_per_s', 'data_time', 'lr'):
        assert name in scalars
    assert [event.step for event in events.Scalars('mIoU')] == [2, 4]
    # Every other of the four images, the same ones in each validation.
    pictures = {tag: events.Images(tag) for tag in events.Tags()['images']}
    assert {Path(tag).name for tag in pictures} == {
        'val_000000.png',
        'val_000002.png',
    }
    for shown in pictures.values():
        assert [event.step for event in shown] == [2, 4]


def test_the_experiment_validates_as_it_trains():
    config = Config.fromfile(ROOT / 'configs' / 'pacl_vitb16_cc12m_voc20val.py')
    assert config.default_hooks.visualization.draw
    assert config.val_dataloader.dataset.type == 'PascalVOC20Dataset'
    assert 'ImageTextShards' in str(config.train_dataloader)


@pytest.mark.parametrize(('weight_scale', 'patches'), [(1e5, 1), (1e-5, 16)])
def test_a_collapse_of_the_weights_is_visible(config, weight_scale, patches):
    compatibility = dict(mode='softmax', weight_scale=weight_scale)
    config.model.decode_head.compatibility = compatibility
    config.train_cfg.max_iters = 2
    run(config)
    for value in curve(config.work_dir, 'decode.effective_patches'):
        assert value == pytest.approx(patches, rel=1e-2)
