"""Evaluation protocols by name: written into configs, and read back from them.

Everything that moves a benchmark number is a *setting*. The configs give every setting
a value, for each benchmark, and a :class:`Protocol` changes some of them;
``docs/protocols.md`` tabulates all and says which published figures each belongs to.
What a result carries is :func:`read_protocol`'s account of the config that was run,
never the name that was asked for.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from mmengine.config import Config, ConfigDict

from pacl_mmseg.datasets.preparation.official import OFFICIAL
from pacl_mmseg.models.decode_heads.zero_shot_text_head import resolve_vocabulary
from pacl_mmseg.models.encoder import hand_over, is_tower
from pacl_mmseg.models.open_clip_model import describe, model_config
from pacl_mmseg.models.segmentors.decoding import BackgroundRule, Decoding
from pacl_mmseg.paths import CONFIGS
from pacl_mmseg.registry import MODELS, kind_of, walk
from pacl_mmseg.utils.names import check_name

REAL_BENCHMARKS = tuple(OFFICIAL)
# Those whose class 0 is the background.
WITH_BACKGROUND = ('voc21', 'context60', 'coco_object')

# Setting, and where a model config has it: part, key. Two more, the short side of the
# image and whether it is scored as a square, are in the pipelines.
SETTINGS = {
    'mode': ('test_cfg', 'mode'),
    'window': ('test_cfg', 'crop_size'),
    'window_stride': ('test_cfg', 'stride'),
    'average': ('test_cfg', 'average'),
    'background': ('test_cfg', 'background'),
    'area_threshold': ('test_cfg', 'area_threshold'),
    'pamr': ('test_cfg', 'pamr'),
    'token_stride': ('backbone', 'stride'),
    'fit': ('backbone', 'fit'),
    'interpolate_offset': ('backbone', 'interpolate_offset'),
    'templates': ('decode_head', 'templates'),
    'names': ('decode_head', 'dataset_name'),
    'logit_scale': ('decode_head', 'logit_scale'),
}
PARTS = dict(
    test_cfg='ZeroShotSegmentor',  # whose options they are
    backbone='PACLBackbone',
    decode_head='ZeroShotTextHead',
)
# How a CLIP ViT takes images that its patches do not tile; other towers have own ways.
OF_CLIP_VIT = ('fit', 'interpolate_offset')
SQUARE = 'SquareImageAndMask'
LONG_SIDE = 2048  # of a resized image at most; all protocols here have the same
AFTER_FLIPS = ('LoadAnnotations', 'LoadSegmentationMask', 'PackSegInputs')
PIPELINES = ('test_pipeline', 'tta_pipeline', 'val_dataloader', 'test_dataloader')


@dataclass(frozen=True)
class Protocol:
    """One way to evaluate: what it changes in the configs' own settings.

    Args:
        general: Settings on all benchmarks.
        benchmarks: Settings on single ones, over those.
    """

    general: Mapping[str, Any] = field(default_factory=dict)
    benchmarks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def settings(self, benchmark: str) -> dict[str, Any]:
        """Every setting on a benchmark, in full."""
        changed = {**self.general, **self.benchmarks.get(benchmark, {})}
        changed = {name: _in_full(name, value) for name, value in changed.items()}
        return {**own_settings(benchmark), **changed}

    def difference(self, benchmark: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Its settings on a benchmark that are not those."""
        own = self.settings(benchmark).items()
        return {name: value for name, value in own if value != settings[name]}


@functools.cache
def own_settings(benchmark: str) -> dict[str, Any]:
    """The settings that ``configs/pacl_<benchmark>.py`` states, which are SCLIP's."""
    path = str(CONFIGS / f'pacl_{benchmark}.py')
    return read_settings(Config.fromfile(path, use_environment_variables=False))


def _probability(threshold: float) -> dict[str, Any]:
    return dict(rule='probability', threshold=threshold)


# mc-lan/ClearCLIP at ad68a40: configs/cfg_*.py over clearclip_segmentor.py, whose
# default window stride, 224, Cityscapes keeps with its smaller window.
_CLEARCLIP = Protocol(
    general=dict(
        short_side=448,
        window=448,
        window_stride=224,
        logit_scale=50.0,
        fit='resize',
        area_threshold=None,
    ),
    benchmarks=dict(
        voc20=dict(names='voc20_clearclip'),
        voc21=dict(names='voc21_clearclip', background=_probability(0.5)),
        context60=dict(background=_probability(0.15)),
        coco_object=dict(names='coco_object_clearclip', background=_probability(0.4)),
        cityscapes=dict(window=224),
    ),
)
# sinahmr/NACLIP at 0cac3a6: configs/cfg_*.py over naclip.py, with --pamr off. VOC is
# segmented without windows.
_WITHOUT_WINDOWS = dict(mode='whole', window=None, window_stride=None)
_NACLIP = Protocol(
    general=dict(logit_scale=40.0, area_threshold=None),
    benchmarks=dict(
        voc20=_WITHOUT_WINDOWS,
        voc21=_WITHOUT_WINDOWS,
        coco_stuff171=dict(short_side=336),
    ),
)
# The same with what that code does by default, and its README's figures have.
_NACLIP_PAMR = Protocol(
    dict(_NACLIP.general, pamr=dict(steps=10, dilations=(8, 16))), _NACLIP.benchmarks
)
# wysoczanska/clip_dinoiser at a954aae: segmentation/configs and the softmax of
# models/maskclip/maskclip.py, of which windows are averaged. The names are the classes
# of its datasets; on VOC21 and COCO-Object its learnt background decoder is not here.
_DINOISER = Protocol(
    general=dict(
        short_side=448,
        window=448,
        window_stride=224,
        average='probabilities',
        logit_scale=100.0,
        fit='resize',
        interpolate_offset=0.0,
        area_threshold=None,
    ),
    benchmarks={
        name: dict(
            names=f'{name}_dinoiser',
            background=dict(rule='names' if name in WITH_BACKGROUND else 'none'),
        )
        for name in REAL_BENCHMARKS
        if name not in ('ade847', 'pc459')
    },
)
# Mukhoti et al., CVPR 2023: templates, token stride and background rule. Accounts of it
# leave open the sizes of image and window, the logit scale that the entropy needs, and
# the names, which are those of `sclip` here.
_PACL_PAPER = Protocol(
    general=dict(
        short_side=336,
        logit_scale=40.0,
        token_stride=4,
        fit='resize',
        interpolate_offset=0.0,
        templates='pacl7',
        area_threshold=None,
    ),
    benchmarks={
        name: dict(background=dict(rule='entropy', threshold=1.5))
        for name in WITH_BACKGROUND
    },
)
# kahnchana/clippy at 04bf78b: src/evaluation, whose one benchmark is VOC21. Names of 39
# more things are class 0; nothing is scaled, and no rule but the names decides.
_CLIPPY = Protocol(
    general=dict(
        **_WITHOUT_WINDOWS,
        short_side=224,
        square='crop',
        templates='clippy',
        logit_scale=1.0,
        area_threshold=None,
    ),
    benchmarks={name: dict(background=dict(rule='names')) for name in WITH_BACKGROUND}
    | dict(voc21=dict(names='voc21_clippy', background=dict(rule='names'))),
)
PROTOCOLS = dict(
    # wangf3014/SCLIP at b56bd30, configs/cfg_*.py over the defaults of
    # clip_segmentor.py: what the configs say by themselves.
    sclip=Protocol(),
    clearclip=_CLEARCLIP,
    naclip=_NACLIP,
    naclip_pamr=_NACLIP_PAMR,
    dinoiser=_DINOISER,
    pacl_paper=_PACL_PAPER,
    clippy=_CLIPPY,
)


def apply_protocol(cfg: Config, protocol: str, benchmark: str) -> None:
    """Write a protocol into a config, in place; what it says already is left alone.

    Args:
        cfg: Config of a :class:`ZeroShotSegmentor` on that benchmark.
        protocol: One of :data:`PROTOCOLS`.
        benchmark: One of :data:`REAL_BENCHMARKS`.

    Raises:
        ValueError: Unknown name, or a model that does not have these settings.
    """
    check_name('protocol', protocol, PROTOCOLS)
    check_name('benchmark with published protocols', benchmark, REAL_BENCHMARKS)
    model = _segmentor(cfg)
    changed = PROTOCOLS[protocol].difference(benchmark, read_settings(cfg))
    if 'square' in changed or 'short_side' in changed:
        settings = PROTOCOLS[protocol].settings(benchmark)
        _set_size(cfg, settings['short_side'], settings['square'])
    for name, (part, key) in SETTINGS.items():
        if name not in changed:
            continue
        config = model if part == 'test_cfg' else model.get(part)
        found, takes = kind_of(config), key in (_parameters(config) or ())
        if name in OF_CLIP_VIT and is_tower(config) and not takes:
            continue  # and the result says that there is none
        if found != PARTS[part] and not takes:
            raise ValueError(
                f'The protocol {protocol!r} sets {key!r} of a {PARTS[part]}; this '
                f'config has a {found}.'
            )
        value = copy.deepcopy(changed[name])
        square = name in ('window', 'window_stride') and value is not None
        model[part][key] = (value, value) if square else value
        if name == 'names':
            model[part].pop('vocabulary', None)


def apply_augmentation(cfg: Config) -> None:
    """Make a config test every image as it is and mirrored, in place.

    By MMSeg's ``tta_model`` and the config's ``tta_pipeline``, or, if it has none, its
    test pipeline, mirrored where annotations are not loaded yet.

    Args:
        cfg: Config of any segmentor, with a ``tta_model``.

    Raises:
        ValueError: It has no ``tta_model``.
    """
    if 'tta_model' not in cfg:
        raise ValueError('Augmentation needs a tta_model, which the config lacks.')
    model, dataset = cfg.model, cfg.test_dataloader.dataset
    if kind_of(model) == PARTS['test_cfg']:
        # MMSeg merges the scores of all classes alone: of the present-classes protocol
        # it would leave the first view's prediction.
        model.test_cfg.update(
            keep_scores=True, present_classes=False, token_labels=False
        )
        given = cfg.test_evaluator
        cfg.test_evaluator = [
            metric
            for metric in (given if isinstance(given, list) else [given])
            if kind_of(metric) != 'PresentClassesIoUMetric'
        ]
    dataset.pipeline = cfg.get('tta_pipeline') or _mirrored(dataset.pipeline)
    cfg.tta_model = ConfigDict(**cfg.tta_model, module=model)
    cfg.model = cfg.tta_model


def _mirrored(pipeline: Sequence[Mapping]) -> list[dict]:
    steps = [[step] for step in pipeline]
    views = [
        dict(type='RandomFlip', prob=prob, direction='horizontal')
        for prob in (0.0, 1.0)
    ]
    first = next(i for i, (step,) in enumerate(steps) if kind_of(step) in AFTER_FLIPS)
    steps.insert(first, views)
    load, *transforms = steps  # the image is loaded once
    return [*load, dict(type='TestTimeAug', transforms=transforms)]


def read_settings(cfg: Config) -> dict[str, Any]:
    """The settings of a config, and those that its types have by default.

    A setting that does not apply (the window of whole-image inference, the templates of
    a head without text) is None.
    """
    model = hand_over(_segmentor(cfg))
    options = {part: _options(model, part) for part in PARTS}
    settings = {
        name: _in_full(name, _plain(options[part].get(key)))
        for name, (part, key) in SETTINGS.items()
    }
    for name in ('window', 'window_stride'):
        sides = settings[name] if settings['mode'] == 'slide' else None
        settings[name] = _one_or_all(sides or ())
    resizes = list(_resizes(cfg.get('test_dataloader')))
    settings['short_side'] = _one_or_all(map(_short_side, resizes))
    settings['square'] = _one_or_all(resize.get('image') for resize in resizes)
    settings['tta'] = _segmentor(cfg) is not cfg.model
    return settings


def read_method(cfg: Config) -> dict[str, Any]:
    """What makes a config's model a method: how tokens are had, and what is on top.

    Returns:
        ``dense_attention`` and ``output`` of the backbone, and ``neck`` as configured.
    """
    backbone, neck = _options(_segmentor(cfg), 'backbone'), _segmentor(cfg).get('neck')
    return dict(
        dense_attention=_plain(backbone.get('dense_attention')),
        output=backbone.get('output'),
        neck=neck and _plain(neck),
    )


def read_protocol(cfg: Config) -> dict[str, Any]:
    """What moves the number that a config will give, as it stands in the config.

    Returns:
        The settings, and beside them:

        - ``protocol``: the preset that has all these settings on this benchmark (the
          first, if several have; ``same_as`` are the others), or ``'custom'``, and then
          ``nearest`` is the preset with the fewest other settings and ``differs`` what
          those are there;
        - ``benchmark``, or None where the config does not name one;
        - ``subset``, None for the whole of it, or the dataset's ``indices``;
        - ``weights`` and ``precision`` of the image encoder;
        - ``names_sha256`` of the names and their classes;
        - of whole images ``pooling``, the options of the compatibility function; and no
          names nor templates where captions are retrieved.

        Plain values throughout, as JSON has them.
    """
    settings, benchmark = read_settings(cfg), cfg.get('benchmark')
    others = {
        name: protocol.difference(benchmark, settings)
        for name, protocol in PROTOCOLS.items()
        if benchmark in REAL_BENCHMARKS
    }
    same = [name for name, differs in others.items() if not differs]
    nearest = min(others, key=lambda name: len(others[name]), default=None)
    backbone = _options(hand_over(_segmentor(cfg)), 'backbone')
    if settings['token_stride'] is None and kind_of(backbone) == PARTS['backbone']:
        patch_size = model_config(backbone['model'])['vision_cfg'].get('patch_size')
        settings['token_stride'] = patch_size
    model, extra = _segmentor(cfg), {}
    if kind_of(model) == 'ZeroShotClassifier':
        extra = dict(pooling=_plain(model['decode_head'].get('compatibility') or {}))
    if kind_of(cfg.get('test_cfg')) == 'RetrievalTestLoop':
        settings.update(names=None, templates=None)
        extra['names_sha256'] = None
    return dict(
        protocol=same[0] if same else 'custom',
        same_as=same[1:],
        nearest=None if same else nearest,
        differs={} if same or nearest is None else others[nearest],
        benchmark=benchmark,
        subset=_plain(cfg.get('test_dataloader', {}).get('dataset', {}).get('indices')),
        weights=_weights(backbone),
        precision=backbone.get('dtype'),
        **settings,
        **dict(names_sha256=_names_sha256(model)) | extra,
    )


def format_protocol(protocol: Mapping[str, Any]) -> str:
    """:func:`read_protocol`'s account in three lines, without what does not apply."""
    p = protocol
    title = p['protocol'] + (p['subset'] is not None) * f', {subset_in_words(p)} alone'
    if p['same_as']:
        title += f' (here the same as {", ".join(p["same_as"])})'
    if p['differs']:
        differs = (_difference(k, p[k], v) for k, v in p['differs'].items())
        title += f' ({p["nearest"]}, but {", ".join(differs)})'
    settings = [
        f'{name} {in_words(p[name])}'
        for name in (
            'short_side',
            'square',
            *SETTINGS,
            'tta',
            'names_sha256',
            'pooling',
        )
        if p.get(name) is not None
    ]
    lines = ([p['weights'], p['precision']], settings)
    texts = (', '.join(filter(None, line)) for line in lines)
    return '\n  '.join([f'protocol {title}', *texts])


def _difference(name: str, here: Any, there: Any) -> str:
    if here is None:
        return f'no {name} where it has {in_words(there)}'
    if there is None:
        return f'{name} {in_words(here)} where it has none'
    return f'{name} {in_words(here)} for {in_words(there)}'


def in_words(value: Any) -> str:
    """A setting's value, as tables and logs have it."""
    if isinstance(value, Mapping):
        items = value.items()
        return ' '.join(f'{k} {in_words(v)}' for k, v in items if v is not None)
    return '/'.join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def subset_in_words(protocol: Mapping[str, Any]) -> str:
    """Which images of a benchmark a result is of."""
    subset = protocol['subset']
    if isinstance(subset, int):
        return f'the {"first" if subset > 0 else "last"} {abs(subset)} images'
    return 'all images' if subset is None else f'{len(subset)} chosen images'


def _segmentor(cfg: Config) -> ConfigDict:
    """The model; for test-time augmentation MMSeg wraps it into another."""
    return cfg.model.get('module', cfg.model)


def _options(model: Mapping, part: str) -> dict[str, Any]:
    """What a part of the model is configured with, over the defaults of our types."""
    given = model.get(part)
    given = dict(given) if isinstance(given, Mapping) else {}  # or several heads
    if part == 'test_cfg':
        if kind_of(model) != PARTS[part]:
            return given
        Decoding.from_test_cfg(given)  # complains about what is no option
        defaults = {f.name: f.default for f in fields(Decoding)}
        return dict(defaults, mode='whole', background={}) | given
    return (_parameters(given) or {}) | given


def _parameters(config: Any) -> dict[str, Any] | None:
    """Options of a tower or of our head, with their defaults; None of other parts."""
    if kind_of(config) != PARTS['decode_head'] and not is_tower(config):
        return None
    parameters = inspect.signature(MODELS.get(config['type'])).parameters
    return {name: parameter.default for name, parameter in parameters.items()}


def _in_full(name: str, value: Any) -> Any:
    """A setting with the defaults of what it leaves unsaid."""
    if name == 'background' and value is not None:
        return asdict(BackgroundRule(**value))
    if name == 'pamr' and value is not None:
        return dict(steps=10, dilations=(8, 16)) | value
    return value


def _plain(value: Any) -> Any:
    """Sequences as tuples, mappings as dicts."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(_plain(v) for v in value)
    return value


def _one_or_all(values: Iterable[Any]) -> Any:
    """What all values are; or all different ones; or None if there are none."""
    different = tuple(dict.fromkeys(values))
    return different[0] if len(different) == 1 else (different or None)


def _resizes(node: Any) -> Iterator[dict]:
    """Every resizing step in a pipeline, dataset or loader."""
    return (
        part
        for _, part in walk(node)
        if (kind_of(part) == 'Resize' and part.get('scale')) or kind_of(part) == SQUARE
    )


def _set_size(cfg: Config, short_side: int, square: str | None) -> None:
    """Make a config resize to a short side, and its datasets give squares or not."""
    resize = dict(type='Resize', scale=(LONG_SIDE, short_side), keep_ratio=True)
    to_square = dict(type=SQUARE, size=short_side, image=square)
    for key in ('val_dataloader', 'test_dataloader'):
        for _, part in walk(cfg.get(key)):
            steps = part.get('pipeline', ())
            if not steps or any(kind_of(s) == SQUARE for s in steps) == bool(square):
                continue
            rest = [s for s in steps if kind_of(s) not in ('Resize', SQUARE)]
            # Masks are loaded after the one, and before the other.
            first, *others, last = rest
            part['pipeline'] = (
                [first, *others, to_square, last]
                if square
                else [first, resize, *others, last]
            )
    for step in _resizes([cfg.get(key) for key in PIPELINES]):
        step.update(to_square if kind_of(step) == SQUARE else resize)


def _short_side(resize: Mapping) -> Any:
    """The short side that a step resizes to, or its scale if that is something else."""
    if kind_of(resize) == SQUARE:
        return resize.get('size', 224)
    scale = _plain(resize['scale'])
    if not resize.get('keep_ratio') or isinstance(scale, int):
        return scale
    return min(scale) if max(scale) == LONG_SIDE else scale


def _weights(backbone: Mapping) -> str:
    if 'model' not in backbone:
        return kind_of(backbone)
    return describe(
        backbone['model'], backbone.get('pretrained'), backbone.get('init_seed', 0)
    )


def _names_sha256(model: Mapping) -> str | None:
    head = _options(model, 'decode_head')
    if kind_of(head) != PARTS['decode_head']:  # one that is trained with masks
        return None
    names = resolve_vocabulary(head['vocabulary'], head['dataset_name'])
    pairs = zip(names.class_of, names.names, strict=True)
    lines = '\n'.join(f'{index} {name}' for index, name in pairs)
    return hashlib.sha256(lines.encode()).hexdigest()
