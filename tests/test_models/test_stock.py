"""MMSeg's own EncoderDecoder around our parts, tested and trained."""

from __future__ import annotations

from pathlib import Path

import miniatures
import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmengine.config import ConfigDict
from mmengine.dataset import pseudo_collate

from pacl_mmseg.apis import load_config
from pacl_mmseg.datasets import collate_image_text
from pacl_mmseg.models.open_clip_model import preprocess_config
from pacl_mmseg.registry import DATASETS, MODELS

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'


def tiny(name: str, clip: dict) -> ConfigDict:
    """A shipped config on the tiny CLIP."""
    config = load_config(str(CONFIGS / f'{name}.py'))
    model, encoder = config.model, dict(model=clip, pretrained=None)
    said = [model.encoder] if 'encoder' in model else []
    said = said or [
        *(model.data_preprocessor, model.backbone, model.decode_head.text_encoder)
    ]
    for part in said:
        part.update(encoder)
    model.neck.update(in_channels=32, out_channels=24)
    model.decode_head.templates = 'plain'
    return config


@pytest.mark.parametrize('benchmark', ['ade20k', 'voc20'])
def test_the_stock_config_segments_as_ours_where_a_class_has_one_name(
    benchmark, tiny_clip, tmp_path, monkeypatch
):
    monkeypatch.setenv('PACL_DATA_ROOT', str(tmp_path))
    miniatures.converted(tmp_path, benchmark)
    config = tiny(f'pacl_{benchmark}', tiny_clip)
    stock_config = tiny('pacl_voc20_stock', tiny_clip)
    stock_config.model.decode_head.dataset_name = benchmark
    ours, stock = (MODELS.build(c.model).eval() for c in (config, stock_config))
    assert type(stock).__module__.startswith('mmseg.')
    stock.load_state_dict(ours.state_dict())
    dataset = DATASETS.build(config.test_dataloader.dataset)
    ours, stock = (
        model.test_step(pseudo_collate([dataset[0]]))[0].pred_sem_seg.data
        for model in (ours, stock)
    )
    assert ours.shape == stock.shape == (1, *miniatures.SIZE)
    assert len(ours.unique()) > 2
    share = (ours == stock).float().mean()
    if benchmark == 'ade20k':
        assert share > 0.999  # all but ties
    else:
        assert share < 1


def test_what_the_stock_segmentor_does_not_take_is_refused():
    named = 'encoder, test_cfg.present_classes'
    message = f'EncoderDecoder does not take {named}: .*configs/pacl_voc20_stock.py'
    for kind in ('EncoderDecoder', 'mmseg.EncoderDecoder'):
        with pytest.raises(ValueError, match=message):
            load_config(str(CONFIGS / 'pacl_voc20.py'), {'model.type': kind})
    stock = str(CONFIGS / 'pacl_voc20_stock.py')
    load_config(stock, {'model.test_cfg.crop_size': (448, 448)})
    with pytest.raises(ValueError, match='does not take test_cfg.area_threshold: '):
        load_config(stock, {'model.test_cfg.area_threshold': 0.1})


def test_the_stock_parts_train_by_captions(tiny_model, tiny_clip):
    """PackSegInputs and SegDataPreProcessor give the loss of our own packing."""
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    samples = [
        dict(img=image, img_shape=(32, 32), caption=caption)
        for image, caption in zip(images, ('a cat', 'two dogs', 'grass'), strict=True)
    ]
    model = MODELS.build(tiny_model)
    packed = [Compose([dict(type='PackImageText')])(dict(s)) for s in samples]
    data = model.data_preprocessor(collate_image_text(packed), True)
    expected = model.loss(**data)

    pixels = preprocess_config(tiny_clip, None)
    stock = MODELS.build(
        dict(
            type='SegDataPreProcessor',
            mean=[255 * value for value in pixels['mean']],
            std=[255 * value for value in pixels['std']],
            bgr_to_rgb=True,
            size=(32, 32),
        )
    )
    pack = dict(type='PackSegInputs', meta_keys=('caption', 'img_shape'))
    batch = pseudo_collate([Compose([pack])(dict(s)) for s in samples])
    losses = model.loss(**stock(batch, True))
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)
