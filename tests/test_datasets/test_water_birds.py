"""WaterBirds as published, in miniature; and that of the small world."""

import numpy as np
import pytest
import torch
from PIL import Image

from pacl_mmseg.apis import load_config
from pacl_mmseg.benchmark.missing import missing_data
from pacl_mmseg.datasets import SmallWorldBirds, WaterBirds
from pacl_mmseg.datasets.small_world import IGNORE_INDEX, render_scene
from pacl_mmseg.models.encoder import hand_to_transforms
from pacl_mmseg.registry import DATASETS, METRICS, MODELS

HEADER = 'img_id,img_filename,y,split,place,place_filename\n'
LINES = [
    '1,001.Albatross/a 1.jpg,1,2,0,/f/forest/1.jpg',
    '2,004.Cuckoo/b.jpg,0,0,0,/b/bamboo/2.jpg',
    '3,004.Cuckoo/c.jpg,0,2,1,/o/ocean/3.jpg',
]


def write(folder, lines=LINES):
    folder.mkdir(exist_ok=True)
    (folder / 'metadata.csv').write_text(HEADER + '\n'.join(lines) + '\n')
    return str(folder)


def test_layout_to_metric(tmp_path, monkeypatch, tiny_clip):
    monkeypatch.setenv('PACL_DATA_ROOT', str(tmp_path))
    options = {
        'model.encoder': dict(_delete_=True, model=tiny_clip, pretrained=None),
        'model.neck.in_channels': 32,
        'model.neck.out_channels': 24,
    }
    config = load_config('configs/classification/pacl_waterbirds.py', options)
    assert missing_data(config).endswith('has all benchmarks).')
    root = tmp_path / 'waterbird_complete95_forest2water2'
    write(root)
    for line in LINES:
        path = root / line.split(',')[1]
        path.parent.mkdir(exist_ok=True)
        Image.new('RGB', (50, 40), (9, 90, 200)).save(path)
    assert missing_data(config) is None
    loader = hand_to_transforms(config.test_dataloader, config.model)
    dataset = DATASETS.build(loader.dataset)
    items = [dataset[index] for index in range(len(dataset))]
    samples = [item['data_samples'] for item in items]
    assert [(int(s.gt_label), s.place) for s in samples] == [(1, 0), (0, 1)]
    model = MODELS.build(config.model).eval()
    with torch.no_grad():
        data = dict(inputs=[item['inputs'] for item in items], data_samples=samples)
        predicted = model.test_step(data)
    metric = METRICS.build(config.test_evaluator[0])
    metric.dataset_meta = dataset.metainfo
    metric.process({}, [sample.to_dict() for sample in predicted])
    # The two images are the same: one prediction is right.
    assert metric.compute_metrics(metric.results)['accuracy'] == 50


@pytest.mark.parametrize('split, number', [('train', 1), ('test', 2)])
def test_splits(tmp_path, split, number):
    dataset = WaterBirds(write(tmp_path), split)
    assert len(dataset) == number
    assert dataset.metainfo['classes'] == ('landbird', 'waterbird')
    assert dataset.get_data_info(0)['img_path'].endswith('.jpg')


@pytest.mark.parametrize(
    'lines, message',
    [
        (['1,a.jpg,2,2,0,x'], "Line 2 of .*'2' as y, which should be one of 0, 1"),
        ([*LINES, '4,a.jpg,1,3,0,x'], "Line 5 .*'3' as split"),
        (['1,a.jpg,1,2'], 'None as place, which should be'),
        (['1,,1,2,0,x'], "'' as img_filename, which should be a file name"),
        (LINES, 'has no images of the split val'),
    ],
)
def test_bad_files(tmp_path, lines, message):
    with pytest.raises(ValueError, match=message):
        WaterBirds(write(tmp_path, lines), 'val')


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='metadata.csv does not exist: unpack'):
        WaterBirds(str(tmp_path))
    with pytest.raises(ValueError, match="split must be one of .* not 'dev'"):
        WaterBirds(str(tmp_path), 'dev')


@pytest.mark.parametrize('bias, own', [(0, 0), (0.5, 0.5), (0.95, 0.95), (1, 1)])
def test_the_bias_is_that_of_the_backgrounds(bias, own):
    dataset = SmallWorldBirds(300, split='test', bias=bias, size=16)
    infos = [dataset.get_data_info(index) for index in range(300)]
    share = np.mean([info['gt_label'] == info['place'] for info in infos])
    assert share == pytest.approx(own, abs=0.06 * (0 < bias < 1))
    assert 0.4 < np.mean([info['gt_label'] for info in infos]) < 0.6


def test_only_the_background_is_another():
    land, water = (SmallWorldBirds(20, split='test', bias=bias) for bias in (0, 1))
    for index in range(20):
        scene = render_scene(index, split='test', objects=(1, 1))
        infos = [dataset.get_data_info(index) for dataset in (land, water)]
        assert infos[0]['place'] != infos[1]['place']
        label = infos[0]['gt_label']
        texture = scene.nouns[0].split()[0]
        assert label == (texture in ('dotted', 'gridded', 'speckled'))
        assert infos[0]['caption'] == f'a photo of a {("land", "water")[label]}bird.'
        thing = scene.mask != IGNORE_INDEX
        for info in infos:
            rgb = info['img'][..., ::-1]
            assert np.array_equal(rgb[thing], scene.image[thing])
            red, _, blue = rgb[~thing].mean(0)
            assert (blue > red + 40) if info['place'] else (red > blue + 40)


def test_bad_bias():
    with pytest.raises(ValueError, match='a share, from 0 to 1, not 95'):
        SmallWorldBirds(1, bias=95)
