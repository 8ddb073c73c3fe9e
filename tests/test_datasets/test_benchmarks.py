"""Every benchmark's config reads a miniature of its set in the official layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from mmcv.transforms import Compose
from mmengine.evaluator import Evaluator
from mmengine.structures import PixelData
from mmseg.datasets import PascalContextDataset59
from PIL import Image

from pacl_mmseg.apis import load_config
from pacl_mmseg.datasets import PascalContext459Dataset
from pacl_mmseg.datasets.image_text import build_pipeline
from pacl_mmseg.datasets.large_vocabulary import ADE20K_847_IDS
from pacl_mmseg.registry import DATASETS

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
HEIGHT, WIDTH = 40, 60


@dataclass(frozen=True)
class Layout:
    """Where a set has an image, its mask and its split; and what the masks mean.

    ``first`` is the label of class 0 in the files; label 0 is ignored where it is 1.
    """

    image: str
    mask: str
    num_classes: int
    short_side: int = 336
    split: str | None = None
    first: int = 0
    ignored: int = 255


VOC = 'VOCdevkit/VOC2012'
VOC_SPLIT = f'{VOC}/ImageSets/Segmentation/val.txt'
CONTEXT = 'VOCdevkit/VOC2010'
CONTEXT_SPLIT = f'{CONTEXT}/ImageSets/SegmentationContext/val.txt'
COCO = 'coco_stuff164k'
ADE = 'ade/ADEChallengeData2016'
ADE_FULL = 'ADE20K_2021_17_01'
LAYOUTS = dict(
    voc20=Layout(
        f'{VOC}/JPEGImages/2007_000033.jpg',
        f'{VOC}/SegmentationClass/2007_000033.png',
        20, split=VOC_SPLIT, first=1,
    ),
    voc21=Layout(
        f'{VOC}/JPEGImages/2007_000033.jpg',
        f'{VOC}/SegmentationClass/2007_000033.png',
        21, split=VOC_SPLIT,
    ),
    context59=Layout(
        f'{CONTEXT}/JPEGImages/2008_000002.jpg',
        f'{CONTEXT}/SegmentationClassContext/2008_000002.png',
        59, split=CONTEXT_SPLIT, first=1,
    ),
    context60=Layout(
        f'{CONTEXT}/JPEGImages/2008_000002.jpg',
        f'{CONTEXT}/SegmentationClassContext/2008_000002.png',
        60, split=CONTEXT_SPLIT,
    ),
    coco_object=Layout(
        f'{COCO}/images/val2017/000000000139.jpg',
        f'{COCO}/annotations/val2017/000000000139_instanceTrainIds.png',
        81,
    ),
    coco_stuff171=Layout(
        f'{COCO}/images/val2017/000000000139.jpg',
        f'{COCO}/annotations/val2017/000000000139_labelTrainIds.png',
        171, short_side=448,
    ),
    ade20k=Layout(
        f'{ADE}/images/validation/ADE_val_00000001.jpg',
        f'{ADE}/annotations/validation/ADE_val_00000001.png',
        150, first=1,
    ),
    cityscapes=Layout(
        'cityscapes/leftImg8bit/val/lindau/lindau_000000_000019_leftImg8bit.png',
        'cityscapes/gtFine/val/lindau/lindau_000000_000019_gtFine_labelTrainIds.png',
        19, short_side=560,
    ),
    ade847=Layout(
        f'{ADE_FULL}/images_detectron2/validation/ADE_val_00000001.jpg',
        f'{ADE_FULL}/annotations_detectron2/validation/ADE_val_00000001.tif',
        847, ignored=65535,
    ),
    pc459=Layout(
        f'{CONTEXT}/JPEGImages/2008_000002.jpg',
        f'{CONTEXT}/annotations_detectron2/pc459_val/2008_000002.tif',
        459, split=CONTEXT_SPLIT, ignored=65535,
    ),
)  # fmt: skip


def write_set(root: Path, layout: Layout) -> np.ndarray:
    """Write one image and its mask, and return the classes of its pixels."""
    rng = np.random.default_rng(0)
    kind = np.uint16 if layout.ignored > 255 else np.uint8
    labels = rng.integers(0, layout.num_classes + layout.first, (HEIGHT, WIDTH), kind)
    labels[0, :3] = layout.ignored
    labels[0, 3] = layout.num_classes - 1 + layout.first
    labels[0, 4] = layout.first
    image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    for name, content in ((layout.image, image), (layout.mask, labels)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(content).save(root / name)
    if layout.split:
        (root / layout.split).parent.mkdir(parents=True)
        (root / layout.split).write_text(f'{Path(layout.image).stem}\n')
    classes = labels.astype(int) - layout.first
    classes[(classes < 0) | (labels == layout.ignored)] = layout.ignored
    return classes


@pytest.fixture(scope='module', params=LAYOUTS)
def benchmark(request, tmp_path_factory):
    """Config, dataset, layout and true classes of a benchmark with its set of one."""
    root, layout = tmp_path_factory.mktemp(request.param), LAYOUTS[request.param]
    classes = write_set(root, layout)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PACL_DATA_ROOT', str(root))
        config = load_config(str(CONFIGS / f'pacl_{request.param}.py'))
    dataset = DATASETS.build(config.test_dataloader.dataset)
    return config, dataset, layout, classes


def test_images_and_labels(benchmark):
    config, dataset, layout, classes = benchmark
    assert config.val_dataloader == config.test_dataloader
    assert len(dataset) == 1
    assert len(dataset.metainfo['classes']) == layout.num_classes
    assert len(dataset.metainfo['palette']) == layout.num_classes
    assert dataset.ignore_index == layout.ignored
    item = dataset[0]
    assert min(item['inputs'].shape[1:]) == layout.short_side
    sample = item['data_samples']
    assert sample.ori_shape == (HEIGHT, WIDTH)
    assert np.array_equal(sample.gt_sem_seg.data[0], classes)


def test_flipped_views(benchmark):
    config, dataset, layout, classes = benchmark
    item = Compose(build_pipeline(config.tta_pipeline))(dataset.get_data_info(0))
    plain, flipped = item['inputs']
    assert min(plain.shape[1:]) == layout.short_side
    assert plain.flip(2).equal(flipped)
    assert [sample.flip for sample in item['data_samples']] == [False, True]
    for sample in item['data_samples']:
        assert np.array_equal(sample.gt_sem_seg.data[0], classes)


def test_metrics_ignore_what_has_no_class(benchmark):
    """A prediction that is right wherever there is a class has 100 % everywhere."""
    config, dataset, layout, _ = benchmark
    sample = dataset[0]['data_samples']
    labels = sample.gt_sem_seg.data
    right = PixelData(data=labels.where(labels != layout.ignored, 0))
    sample.set_data(dict(pred_sem_seg=right, pred_present_classes=right))
    evaluator = Evaluator(config.test_evaluator)
    evaluator.dataset_meta = dataset.metainfo
    evaluator.process([sample])
    metrics = evaluator.evaluate(1)
    assert metrics['mIoU'] == metrics['present_classes/mIoU'] == 100


def test_labels_beyond_the_classes_are_refused(benchmark, tmp_path):
    _, dataset, layout, _ = benchmark
    unknown = layout.num_classes + layout.first
    mask = np.full((HEIGHT, WIDTH), unknown, np.uint16 if unknown > 255 else np.uint8)
    Image.fromarray(mask).save(tmp_path / 'mask.png')
    sample = dict(dataset.get_data_info(0), seg_map_path=str(tmp_path / 'mask.png'))
    with pytest.raises(ValueError, match=f'mask.png holds the label {unknown},'):
        dataset.pipeline(sample)


def test_the_default_protocol_is_sclips(benchmark):
    """Of wangf3014/SCLIP at b56bd30, configs/cfg_*.py."""
    config, *_ = benchmark
    scale, threshold, area = dict(
        voc21=(65, 0.1, 0.1), context60=(50, 0.1, None), coco_object=(50, 0.1, None)
    ).get(config.benchmark, (40, None, None))
    head, decoding = config.model.decode_head, config.model.test_cfg
    assert head.dataset_name == config.benchmark
    assert head.logit_scale == scale
    rule = dict(rule='probability', threshold=threshold) if threshold else None
    assert decoding.get('background') == rule
    assert decoding.get('area_threshold') == area


@pytest.mark.parametrize('name', LAYOUTS)
def test_data_lie_below_one_folder_by_default(name, monkeypatch):
    monkeypatch.delenv('PACL_DATA_ROOT', raising=False)
    config = load_config(str(CONFIGS / '_base_' / 'datasets' / f'{name}.py'))
    assert config.benchmark == name
    root = config.test_dataloader.dataset.data_root
    assert f'data/{LAYOUTS[name].image}'.startswith(f'{root}/')


def test_ade20k_object_numbers():
    assert len(set(ADE20K_847_IDS)) == len(ADE20K_847_IDS) == 847
    # Of ADE20K: wall, building, sky; adding machine.
    assert (*ADE20K_847_IDS[:3], ADE20K_847_IDS[-1]) == (2978, 312, 2420, 3148)


def test_context_459_agrees_with_context_59():
    """The official labels that MMSeg's converter takes the 59 classes from."""
    labels = [
        2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98,
        104, 105, 113, 115, 144, 158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260,
        284, 295, 296, 308, 324, 326, 347, 349, 354, 355, 360, 366, 368, 397, 415, 416,
        420, 424, 427, 440, 445, 454, 458,
    ]  # fmt: skip
    classes = PascalContext459Dataset.METAINFO['classes']
    assert (
        tuple(classes[label - 1] for label in labels)
        == PascalContextDataset59.METAINFO['classes']
    )
