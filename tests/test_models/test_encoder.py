"""A model's encoder: whoever sets it, however, it is in force in every part."""

from __future__ import annotations

import copy
import functools
import gc
import weakref
from pathlib import Path

import mmseg.apis
import pytest
import torch
from mmengine.config import Config
from open_clip.model import CustomTextCLIP

from pacl_mmseg.apis import Inferencer, init_model, load_config
from pacl_mmseg.models.encoder import hand_over, hand_to_transforms
from pacl_mmseg.models.open_clip_model import build_open_clip
from pacl_mmseg.registry import MODELS, RUNNERS, TRANSFORMS

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
OTHER = dict(
    embed_dim=24,
    vision_cfg=dict(image_size=48, patch_size=8, width=32, layers=1, head_width=16),
    text_cfg=dict(context_length=16, vocab_size=49408, width=16, heads=2, layers=1),
)


@pytest.fixture
def ours(tiny_model, tiny_clip):
    """The tiny model with its encoder said once."""
    for part in (
        tiny_model.data_preprocessor,
        tiny_model.backbone,
        tiny_model.decode_head.text_encoder,
    ):
        del part['model'], part['pretrained']
    tiny_model.update(type='ZeroShotSegmentor', encoder=dict(model=tiny_clip))
    return tiny_model


@pytest.fixture(scope='module')
def weights(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp('weights') / 'other.pt'
    torch.save(build_open_clip(OTHER, init_seed=7).state_dict(), path)
    return str(path)


@pytest.fixture
def config(ours, tmp_path) -> Path:
    """A config file of it that can segment an image file."""
    ours.update(neck=None)  # nothing trains
    ours.backbone.output = 'projection'
    content = dict(default_scope='mmseg', model=ours.to_dict())
    cfg = Config(content, format_python_code=False)  # slow
    cfg.custom_imports = dict(imports=['pacl_mmseg'], allow_failed_imports=False)
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackSegInputs')]
    cfg.test_dataloader = dict(dataset=dict(pipeline=pipeline))
    cfg.visualizer = dict(type='SegLocalVisualizer')
    cfg.dump(tmp_path / 'config.py')
    return tmp_path / 'config.py'


def child(config: Path, text: str) -> Path:
    path = config.with_name('child.py')
    path.write_text(f"_base_ = ['config.py']\n{text}\n")
    return path


def build(cfg: Config) -> torch.nn.Module:
    return MODELS.build(cfg.model)


def by_child(config, changes):
    return build(load_config(child(config, f'model = dict(encoder=dict(**{changes}))')))


def by_delete(config, changes):
    whole = {**changes, '_delete_': True}
    return build(load_config(child(config, f'model = dict(encoder=dict(**{whole}))')))


def options(changes):
    return {f'model.encoder.{key}': value for key, value in changes.items()}


def by_cfg_options(config, changes):
    return build(load_config(config, options(changes)))


def by_merge_from_dict(config, changes):
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(options(changes))
    return build(cfg)


def by_init_model(config, changes):
    return init_model(str(config), device='cpu', cfg_options=options(changes))


def by_mmsegs_init_model(config, changes):
    changes = options(changes)
    return mmseg.apis.init_model(str(config), device='cpu', cfg_options=changes)


def by_inferencer(config, changes):
    return Inferencer(load_config(config, options(changes)), device='cpu').model


def by_mmsegs_inferencer(config, changes):
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(options(changes))
    return mmseg.apis.MMSegInferencer(cfg, device='cpu').model


WAYS = [
    *(by_child, by_delete, by_cfg_options, by_merge_from_dict),
    *(by_init_model, by_mmsegs_init_model, by_inferencer, by_mmsegs_inferencer),
]


@pytest.mark.parametrize('what', ['weights', 'model', 'dtype', 'pair', 'one_side'])
@pytest.mark.parametrize('way', WAYS, ids=lambda way: way.__name__)
@pytest.mark.filterwarnings('ignore:Checkpoint is not loaded')
def test_it_is_in_force_in_every_part(way, what, config, tiny_clip, weights):
    changes = dict(
        weights=dict(model=dict(OTHER, _delete_=True), pretrained=weights),
        model=dict(model=dict(OTHER, _delete_=True), init_seed=3),
        dtype=dict(dtype='bfloat16'),
        pair=dict(
            model=tiny_clip,
            init_seed=5,
            dtype='bfloat16',
            vision=dict(model=OTHER, pretrained=weights),
        ),
        one_side=dict(vision=dict(model=OTHER, init_seed=3, dtype='bfloat16')),
    )[what]
    if way is by_delete and what != 'pair':  # there `model` replaces nothing
        changes['model'] = tiny_clip if what == 'one_side' else OTHER
    same = tiny_clip if what == 'dtype' and way is not by_delete else OTHER
    vision, text, dtypes = dict(
        weights=([same, weights], [same, weights], ['float32', 'float32']),
        model=([same, None, 3], [same, None, 3], ['float32', 'float32']),
        dtype=([same], [same], ['bfloat16', 'bfloat16']),
        pair=([OTHER, weights], [tiny_clip, None, 5], ['bfloat16', 'bfloat16']),
        one_side=([OTHER, None, 3], [tiny_clip], ['bfloat16', 'float32']),
    )[what]
    model = way(config, changes)
    dtypes = [getattr(torch, dtype) for dtype in dtypes]
    for mine, theirs, dtype in (
        (model.backbone.visual, build_open_clip(*vision).visual, dtypes[0]),
        (model.decode_head.text_encoder.text, build_open_clip(*text).text, dtypes[1]),
    ):
        theirs = theirs.to(dtype).state_dict()
        assert mine.state_dict().keys() == theirs.keys()
        for name, value in mine.state_dict().items():
            assert torch.equal(value, theirs[name])
    assert model.data_preprocessor.dtype == dtypes[0]
    length = text[0]['text_cfg']['context_length']
    assert model.decode_head.text_encoder.tokenize(['a']).shape == (1, length)


def test_the_old_name_is_refused(config, ours):
    with pytest.raises(ValueError, match=r'encoder.dtype: its name is model.encoder.d'):
        load_config(config, {'encoder.dtype': 'bfloat16'})
    with pytest.raises(ValueError, match='its name is model.encoder.dtype'):
        init_model(config, device='cpu', cfg_options={'encoder.dtype': 'bfloat16'})
    with pytest.raises(ValueError, match=r'top-level `encoder`.*model = dict\(encoder'):
        load_config(child(config, "encoder = dict(pretrained='mine.pt')"))


@pytest.mark.parametrize('place', ['data_preprocessor', 'backbone', 'decode_head'])
def test_a_part_that_says_another_is_refused(ours, place):
    part = ours[place]
    part = part.get('text_encoder', part)
    part.pretrained = None  # equal
    hand_over(ours)
    part.pretrained = 'mine.pt'
    with pytest.raises(
        ValueError, match=f'{place}.*mine.pt.*model.encoder.pretrained sets it'
    ):
        MODELS.build(ours)


def test_other_mistakes(ours):
    with pytest.raises(ValueError, match="'pretraned'.*Did you mean 'pretrained'"):
        MODELS.build(dict(ours, encoder=dict(ours.encoder, pretraned='openai')))
    for lacking in (dict(pretrained='openai'), 'ViT-B-16'):
        with pytest.raises(ValueError, match='names an open_clip `model`, as in'):
            MODELS.build(dict(ours, encoder=lacking))
    for encoder, message in (
        (dict(ours.encoder, vision=dict(pretraned='a')), r'encoder.vision .pretraned'),
        (dict(vision=dict(model='RN50')), 'or one for each of `vision` and `text`'),
        (dict(ours.encoder, text='RN50'), 'or one for each of `vision` and `text`'),
        (
            dict(vision=ours.encoder, text=ours.encoder, init_seed=3),
            'model.encoder.init_seed is of no tower.*_delete_=True.*vision.init_seed',
        ),
        (
            dict(ours.encoder, dtype='float16')
            | dict(vision=dict(dtype='float32'), text=dict(dtype='float32')),
            'model.encoder.dtype is of no tower',
        ),
        (
            dict(model='timm/test_vit'),
            'test_vit is a vision tower alone: name it in model.encoder.vision',
        ),
    ):
        with pytest.raises(ValueError, match=message):
            MODELS.build(dict(ours, encoder=encoder))
    lone = dict(type='ZeroShotSegmentor', encoder=dict(model='ViT-B-16'))
    with pytest.raises(ValueError, match='reaches no part'):
        hand_over(dict(lone, backbone=dict(type='ResNetV1c', depth=18)))


@pytest.mark.parametrize('place', ['data_preprocessor', 'backbone', 'decode_head'])
def test_unequal_encoders_of_a_stock_segmentor_are_refused(tiny_model, place, tmp_path):
    assert hand_over(tiny_model) == tiny_model
    part = tiny_model[place]
    part.get('text_encoder', part).pretrained = 'mine.pt'
    Config(dict(model=tiny_model.to_dict())).dump(tmp_path / 'config.py')
    with pytest.raises(ValueError, match="pretrained='mine.pt'|'mine.pt': both need"):
        load_config(tmp_path / 'config.py')


def test_parts_of_ours_may_say_it_as_in_configs_of_before(tiny_model):
    tiny_model.type = 'ZeroShotSegmentor'
    model = MODELS.build(tiny_model)
    assert model.backbone.description == model.decode_head.text_encoder.description
    tiny_model.backbone.init_seed = 1
    with pytest.raises(ValueError, match='text_encoder has init_seed=0.*backbone 1:'):
        MODELS.build(tiny_model)


def test_a_stock_segmentor_has_no_encoder(config):
    with pytest.raises(ValueError, match='EncoderDecoder does not take encoder'):
        load_config(config, {'model.type': 'EncoderDecoder'})
    # But is built from what ours hands over, and equal.
    cfg = load_config(config)
    stock = MODELS.build(dict(hand_over(cfg.model), type='EncoderDecoder'))
    model = build(cfg)
    assert stock.backbone.fingerprint() == model.backbone.fingerprint()


def test_under_another_backbone_it_is_the_texts(ours):
    ours.backbone = dict(
        type='FrozenBackbone',
        backbone=dict(type='ResNetV1c', depth=18, base_channels=6, out_indices=(3,)),
    )
    ours.neck.in_channels = 48
    ours.encoder.dtype = 'bfloat16'
    with pytest.raises(ValueError, match='type FrozenBackbone: set its mean and std'):
        MODELS.build(ours)
    with pytest.raises(ValueError, match='vision reaches no part: the backbone, Froz'):
        MODELS.build(dict(ours, encoder=dict(ours.encoder, vision=dict(dtype='x'))))
    ours.data_preprocessor.update(mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0])
    model = MODELS.build(ours).eval()
    assert model.decode_head.text_encoder.text.ln_final.weight.dtype == torch.bfloat16
    assert model.data_preprocessor.dtype == torch.float32  # of another encoder
    assert model.data_preprocessor.mean.flatten().tolist() == [1, 2, 3]
    other = dict(model='ViT-B-16', pretrained=None, dtype='bfloat16')
    ours.data_preprocessor.update(other)
    assert hand_over(ours).data_preprocessor == dict(ours.data_preprocessor, **other)
    data = dict(inputs=[torch.zeros(3, 64, 64, dtype=torch.uint8)])
    (result,) = model.predict(model.data_preprocessor(data)['inputs'])
    assert result.pred_sem_seg.data.shape == (1, 64, 64)


def test_parts_within_others_get_it_too(ours):
    """What wraps a backbone of ours, and heads in lists."""
    ours.backbone = dict(type='FrozenBackbone', backbone=ours.backbone)
    ours.auxiliary_head = [copy.deepcopy(ours.decode_head)]
    handed = hand_over(ours)
    for part in (
        *(handed.data_preprocessor, handed.backbone.backbone),
        handed.auxiliary_head[0].text_encoder,
    ):
        assert part.model == ours.encoder.model
    ours.auxiliary_head[0].text_encoder.pretrained = 'mine.pt'
    with pytest.raises(ValueError, match=r'model.auxiliary_head.0.text_encoder says'):
        hand_over(ours)


def test_it_is_built_once_and_only_the_towers_are_kept(ours, monkeypatch):
    built = []
    original = CustomTextCLIP.__init__

    @functools.wraps(original)
    def init(self, *args, **kwargs):
        original(self, *args, **kwargs)
        built.append(weakref.ref(self))

    monkeypatch.setattr(CustomTextCLIP, '__init__', init)
    before = copy.deepcopy(ours)
    model = MODELS.build(ours)
    assert ours == before  # what is written beside checkpoints
    gc.collect()
    assert len(built) == 1 and built[0]() is None
    assert model.backbone.description == model.decode_head.text_encoder.description


def test_the_runner_tells_transforms(ours, tmp_path):
    cfg = load_config(CONFIGS / 'small_world' / 'pacl.py')
    ours.decode_head.pop('vocabulary')
    ours.decode_head.dataset_name = 'small_world'
    cfg.merge_from_dict(dict(work_dir=str(tmp_path), log_level='WARNING'))
    cfg.model, cfg.visualizer.name = ours, 'test_the_runner'
    cfg.train_cfg.update(max_iters=1)
    cfg.train_dataloader.update(
        batch_size=2, num_workers=0, persistent_workers=False, pin_memory=False
    )
    dataset = cfg.train_dataloader.dataset.dataset
    dataset.num_scenes = 4
    steps = [dict(type='CLIPResizeCrop'), dict(type='TokenizeCaption')]
    dataset.pipeline = [*steps, dict(type='PackImageText')]
    for key in ('val_dataloader', 'val_cfg', 'val_evaluator'):
        cfg[key] = None
    runner = RUNNERS.build(cfg)
    seen = []
    runner.model.decode_head.text_encoder.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].shape)
    )
    runner.train()
    assert seen == [(2, ours.encoder.model.text_cfg.context_length)]
    written = load_config(next(tmp_path.glob('*.py'))).train_dataloader
    assert written.dataset.dataset.pipeline[:2] == steps  # so that it can be changed
    with pytest.raises(ValueError, match='CLIPResizeCrop prepares data for an open_cl'):
        TRANSFORMS.build(steps[0])


def test_transforms_take_that_of_their_tower():
    cfg = load_config(CONFIGS / 'pacl_dino_vitb16_cc12m.py')
    steps = hand_to_transforms(cfg.train_dataloader, cfg.model).dataset.pipeline
    crop, tokens = steps[-3:-1]
    assert (crop.model, crop.pretrained) == ('timm/vit_base_patch16_224.dino', 'dino')
    assert tokens.model == 'ViT-B-16-quickgelu'
    handed = hand_over(cfg.model)
    assert handed.data_preprocessor.model == handed.backbone.model == crop.model
    assert handed.decode_head.text_encoder.pretrained == 'openai'
    # Parts of a stock segmentor say it themselves, and other texts than its images.
    stock = dict(handed, type='EncoderDecoder')
    assert hand_to_transforms(cfg.train_dataloader, stock).dataset.pipeline == steps
    stock['data_preprocessor'].pretrained = 'mae'
    with pytest.raises(ValueError, match=r"backbone has pretrained='dino', but.*'mae'"):
        hand_over(stock)


def test_transforms_take_it_or_are_checked():
    cfg = load_config(CONFIGS / 'pacl_vitl14_cc12m.py')
    steps = hand_to_transforms(cfg.train_dataloader, cfg.model).dataset.pipeline
    crop, tokens = steps[-3:-1]
    assert (crop.model, crop.pretrained) == ('ViT-L-14-quickgelu', 'openai')
    assert tokens.model == 'ViT-L-14-quickgelu'
    assert 'model' not in cfg.train_dataloader.dataset.pipeline[-2]  # a copy
    cfg.train_dataloader.dataset.pipeline[-2].model = 'ViT-B-16-quickgelu'
    with pytest.raises(ValueError, match='TokenizeCaption says.*leave model out'):
        hand_to_transforms(cfg.train_dataloader, cfg.model)
    # A stock segmentor's parts say it.
    stock = dict(hand_over(cfg.model), type='EncoderDecoder')
    cfg.train_dataloader.dataset.pipeline[-2].pop('model')
    assert hand_to_transforms(cfg.train_dataloader, stock).dataset.pipeline == steps
