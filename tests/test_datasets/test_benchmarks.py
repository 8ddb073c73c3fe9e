"""Every benchmark's config reads a miniature of its set in the official layout."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from miniatures import NAMES, SIZE, converted
from mmcv.transforms import Compose
from mmengine.evaluator import Evaluator
from mmengine.structures import PixelData
from PIL import Image

from pacl_mmseg.apis import load_config
from pacl_mmseg.benchmark import apply_augmentation, read_protocol
from pacl_mmseg.datasets.image_text import build_pipeline
from pacl_mmseg.datasets.large_vocabulary import ADE20K_847_IDS
from pacl_mmseg.registry import DATASETS

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'


@dataclass(frozen=True)
class Labels:
    """What the masks mean.

    ``first`` is the label of class 0 in the files; label 0 is ignored where it is 1.
    """

    num_classes: int
    first: int = 0
    ignored: int = 255


BENCHMARKS = dict(
    voc20=Labels(20, first=1),
    voc21=Labels(21),
    context59=Labels(59, first=1),
    context60=Labels(60),
    coco_object=Labels(81),
    coco_stuff171=Labels(171),
    ade20k=Labels(150, first=1),
    cityscapes=Labels(19),
    ade847=Labels(847, ignored=65535),
    pc459=Labels(459, ignored=65535),
)


@pytest.fixture(scope='module', params=BENCHMARKS)
def benchmark(request, tmp_path_factory):
    """Config, dataset, labels, and the true classes of its first image."""
    root, labels = tmp_path_factory.mktemp(request.param), BENCHMARKS[request.param]
    mask = np.array(Image.open(converted(root, request.param)[0])).astype(int)
    classes = mask - labels.first
    classes[(classes < 0) | (mask == labels.ignored)] = labels.ignored
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PACL_DATA_ROOT', str(root))
        config = load_config(str(CONFIGS / f'pacl_{request.param}.py'))
    dataset = DATASETS.build(config.test_dataloader.dataset)
    return config, dataset, labels, classes


def test_images_and_labels(benchmark):
    config, dataset, labels, classes = benchmark
    assert len(dataset) == len(NAMES)
    assert len(dataset.metainfo['classes']) == labels.num_classes
    assert len(dataset.metainfo['palette']) == labels.num_classes
    assert dataset.ignore_index == labels.ignored
    item = dataset[0]
    side = read_protocol(config)['short_side']
    assert min(item['inputs'].shape[1:]) == side
    sample = item['data_samples']
    assert sample.ori_shape == SIZE
    assert np.array_equal(sample.gt_sem_seg.data[0], classes)


def test_flipped_views(benchmark):
    config, dataset, _, classes = benchmark
    config = copy.deepcopy(config)
    apply_augmentation(config)
    pipeline = Compose(build_pipeline(config.test_dataloader.dataset.pipeline))
    item = pipeline(dataset.get_data_info(0))
    plain, flipped = item['inputs']
    assert min(plain.shape[1:]) == read_protocol(config)['short_side']
    assert plain.flip(2).equal(flipped)
    assert [sample.flip for sample in item['data_samples']] == [False, True]
    for sample in item['data_samples']:
        assert np.array_equal(sample.gt_sem_seg.data[0], classes)


def test_metrics_ignore_what_has_no_class(benchmark):
    """A prediction that is right wherever there is a class has 100 % everywhere."""
    config, dataset, labels, _ = benchmark
    sample = dataset[0]['data_samples']
    truth = sample.gt_sem_seg.data
    right = PixelData(data=truth.where(truth != labels.ignored, 0))
    sample.set_data(dict(pred_sem_seg=right, pred_present_classes=right))
    evaluator = Evaluator(config.test_evaluator)
    evaluator.dataset_meta = dataset.metainfo
    evaluator.process([sample])
    metrics = evaluator.evaluate(1)
    assert metrics['mIoU'] == metrics['present_classes/mIoU'] == 100


def test_labels_beyond_the_classes_are_refused(benchmark, tmp_path):
    _, dataset, labels, _ = benchmark
    unknown = labels.num_classes + labels.first
    mask = np.full(SIZE, unknown, np.uint16 if unknown > 255 else np.uint8)
    Image.fromarray(mask).save(tmp_path / 'mask.png')
    sample = dict(dataset.get_data_info(0), seg_map_path=str(tmp_path / 'mask.png'))
    with pytest.raises(ValueError, match=f'mask.png holds the label {unknown},'):
        dataset.pipeline(sample)


@pytest.mark.parametrize('name', BENCHMARKS)
def test_data_lie_below_one_folder_by_default(name, tmp_path, monkeypatch):
    monkeypatch.delenv('PACL_DATA_ROOT', raising=False)
    monkeypatch.chdir(tmp_path)
    converted(Path('data'), name)
    config = load_config(str(CONFIGS / '_base_' / 'datasets' / f'{name}.py'))
    assert config.benchmark == name
    assert len(DATASETS.build(config.test_dataloader.dataset)) == len(NAMES)


def test_ade20k_object_numbers():
    assert len(set(ADE20K_847_IDS)) == len(ADE20K_847_IDS) == 847
    # Of ADE20K: wall, building, sky; adding machine.
    assert (*ADE20K_847_IDS[:3], ADE20K_847_IDS[-1]) == (2978, 312, 2420, 3148)
