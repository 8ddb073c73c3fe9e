"""Runs an author's code on the weights, images and names of ``recipe.py``.

    python tests/parity/make_goldens.py sclip /path/to/a/clone/of/SCLIP

writes ``sclip.npz`` beside this file; docs/parity.md has the repositories. The clone's
own files do the work. Replaced are only: the download of weights (by the tiny seeded
model), CUDA and half precision (by float32 on the CPU), modules of MMCV 1 and MMSeg 0
(by the same ones of today's MMCV, MMEngine and MMSeg), and ClearCLIP's unused imports.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from unittest import mock

import mmcv.utils
import mmengine.model.weight_init
import mmseg.models.decode_heads.decode_head
import mmseg.models.utils
import mmseg.utils
import numpy as np
import open_clip
import recipe
import torch
import torchvision
from mmengine.config import ConfigDict
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch.nn import functional as F

VISION, TEXT = recipe.ARCHITECTURE['vision_cfg'], recipe.ARCHITECTURE['text_cfg']
WINDOWS = dict(slide_crop=recipe.WINDOW, slide_stride=recipe.WINDOW_STRIDE)


def sclip(clone: Path) -> dict[str, Tensor]:
    segmentor = importlib.import_module('clip_segmentor').CLIPForSegmentation
    pamr = importlib.import_module('pamr').PAMR
    net = openai_clip()
    made = {}
    for size, images in recipe.dense_images().items():
        for method, csa in (('clip', False), ('sclip', True)):
            tokens = net.encode_image(images, return_all=True, csa=csa)[:, 1:]
            made[f'{method}_{size}'] = cosines(tokens)
    image, scores = recipe.pamr_inputs()
    made['pamr'] = pamr(10, dilations=(8, 16))(image, scores)
    made['pamr_1_2_4'] = pamr(2, dilations=(1, 2, 4))(image, scores)
    background = dict(prob_thd=recipe.THRESHOLD, **WINDOWS)
    for case, options in (
        ('plain', WINDOWS),
        ('probability', background),
        ('area', dict(area_thd=recipe.AREA_THRESHOLD, **background)),
    ):
        with mock.patch('clip.load', lambda *_, **__: (net, None)):
            made |= segment(case, segmentor, clip_path='', **options)
    return made


def naclip(clone: Path) -> dict[str, Tensor]:
    segmentor = importlib.import_module('naclip').NACLIP
    net = openai_clip()
    made = {}
    for std in (1.5, 5.0):
        net.visual.set_params('reduced', 'naclip', std)
        net.visual.addition_cache.clear()  # it does not look at the deviation
        for size, images in recipe.dense_images().items():
            tokens = net.encode_image(images, return_all=True)[:, 1:]
            made[f'naclip_{std:g}_{size}'] = cosines(tokens)
    whole = dict(slide_crop=0, prob_thd=recipe.THRESHOLD)
    for case, options in (
        ('windows', dict(pamr_steps=0, **WINDOWS)),
        ('whole', dict(pamr_steps=0, **whole)),
        ('whole_pamr', whole),
    ):
        with mock.patch('clip.load', lambda *_, **__: (net, None)):
            made |= segment(case, segmentor, clip_path='', **options)
    return made


def clearclip(clone: Path) -> dict[str, Tensor]:
    # The clone has an open_clip of its own, which is the one to run.
    for name in [name for name in sys.modules if name.split('.')[0] == 'open_clip']:
        del sys.modules[name]
    for unused in ('BLIP', 'BLIP.models', 'BLIP.models.blip_retrieval', 'gem'):
        sys.modules[unused] = mock.MagicMock()
    module = importlib.import_module('clearclip_segmentor')
    net = importlib.import_module('open_clip.model').CLIP(**recipe.ARCHITECTURE)
    net = fill(net)
    made = {}
    for size, images in recipe.dense_images('native', 'large').items():
        for method, model_type, ignore_residual in (
            ('clip', 'vanilla', False),
            ('maskclip', 'MaskCLIP', False),
            ('sclip', 'SCLIP', False),
            ('clearclip', 'ClearCLIP', True),
        ):
            tokens = net.encode_image(images, model_type, ignore_residual)
            made[f'{method}_{size}'] = cosines(tokens)
    with (
        mock.patch('clearclip_segmentor.create_model', lambda *_, **__: net),
        mock.patch('torch.Tensor.half', lambda tensor: tensor),
    ):
        made |= segment(
            'probability',
            module.ClearCLIPSegmentation,
            clip_type='CLIP',
            vit_type='ViT-B/16',
            model_type='ClearCLIP',
            prob_thd=recipe.THRESHOLD,
            **WINDOWS,
        )
    return made


def maskclip(clone: Path) -> dict[str, Tensor]:
    registry = mock.MagicMock(register_module=lambda: lambda cls: cls)
    mmcv.utils.print_log = mmseg.utils.get_root_logger = mock.MagicMock()
    stand_in('mmcv.cnn.utils.weight_init', mmengine.model.weight_init)
    stand_in('mmcv.runner', mmengine.model, _load_checkpoint=None)
    stand_in('mmseg.ops', resize=mmseg.models.utils.resize)
    stand_in('clone.builder', BACKBONES=registry, HEADS=registry)
    stand_in('clone.utils', mmseg.models.utils)
    stand_in('clone.heads.decode_head', mmseg.models.decode_heads.decode_head)
    models = clone / 'mmseg' / 'models'
    vit = load(models / 'backbones' / 'vit.py', 'clone.backbones.vit')
    head = load(models / 'decode_heads' / 'maskclip_head.py', 'clone.heads.maskclip')
    # As in configs/_base_/models/maskclip_vit16.py.
    backbone = vit.VisionTransformer(
        img_size=(VISION['image_size'],) * 2,
        patch_size=VISION['patch_size'],
        patch_bias=False,
        embed_dims=VISION['width'],
        num_layers=VISION['layers'],
        num_heads=VISION['width'] // VISION['head_width'],
        norm_cfg=dict(type='LN', eps=1e-6),
        act_cfg=dict(type='GELU'),
        pre_norm=True,
        final_norm=True,
        return_qkv=True,
    )
    own = dict(backbone.named_parameters())
    values = recipe.weights({openai_name(k): v.squeeze().shape for k, v in own.items()})
    backbone.load_state_dict(
        {k: values[openai_name(k)].view_as(v) for k, v in own.items()}
    )
    vectors = recipe.name_vectors()
    dims = vectors.shape[1]
    proj = recipe.weights({'visual.proj': (VISION['width'], dims)})['visual.proj']
    files = dict(texts=vectors, projection=dict(proj=dict(weight=proj.T)))
    with mock.patch('torch.load', lambda name, **_: files[name]):
        decode_head = head.MaskClipHead(
            text_categories=len(vectors),
            text_channels=dims,
            text_embeddings_path='texts',
            visual_projs_path='projection',
            vit=True,
            in_channels=VISION['width'],
            channels=0,
            num_classes=len(vectors),
            dropout_ratio=0,
        )
    model = nn.Sequential(backbone, decode_head).eval()
    sizes = recipe.dense_images('native', 'large')
    return {f'maskclip_{s}': model(images).flatten(2) for s, images in sizes.items()}


def dinoiser(clone: Path) -> dict[str, Tensor]:
    registry = mock.MagicMock(register_module=lambda: lambda cls: cls)
    stand_in('mmseg.ops', resize=mmseg.models.utils.resize)
    stand_in('models.builder', MODELS=registry)
    sys.modules['models'].__path__.append(str(clone / 'models'))
    module = importlib.import_module('models.maskclip.maskclip')
    evaluation = clone / 'segmentation' / 'evaluation' / 'clip_dinoiser_eval.py'
    inferencer = load(evaluation, 'clone.evaluation').DinoCLIP_Infrencer
    net = fill(open_clip.model.CLIP(**recipe.ARCHITECTURE))
    # Tokens came first in the open_clip of its time (2.24); after that layer, whose
    # output is what it reads, nothing is used.
    net.visual.transformer.resblocks[-2].register_forward_hook(
        lambda block, inputs, output: output.transpose(0, 1)
    )
    with (
        mock.patch.object(
            module, 'create_model_from_pretrained', lambda *_, **__: (net, 0)
        ),
        mock.patch.object(module, 'get_tokenizer', lambda _: open_clip.tokenize),
    ):
        model = module.MaskClip(
            backbone=dict(
                patch_size=VISION['patch_size'], img_size=VISION['image_size']
            ),
            decode_head=dict(
                type='MaskClipHead',
                in_channels=VISION['width'],
                text_channels=recipe.ARCHITECTURE['embed_dim'],
                use_templates=True,
                pretrained='',
            ),
            clip_model='',
            class_names=recipe.FIRST_NAMES,
        )
    model.clip_T = nn.Identity()  # images are normalised already
    test_cfg = ConfigDict(
        mode='slide',
        crop_size=(recipe.WINDOW,) * 2,
        stride=(recipe.WINDOW_STRIDE,) * 2,
    )
    classes = len(recipe.FIRST_NAMES)
    segmentor = inferencer(model, num_classes=classes, test_cfg=test_cfg)
    segmentor.out_channels = classes  # as today's slide_inference calls num_classes
    averaged = segmentor.slide_inference(recipe.images(*recipe.INPUT_SIZE), [{}])
    # What slide_inference of its time did with rescale=True.
    resized = F.interpolate(averaged, recipe.ORIGINAL_SIZE, mode='bilinear')[0]
    return outcome('windows', resized.argmax(0), resized)


@torch.enable_grad()
def clippy(clone: Path) -> dict[str, Tensor]:
    # Packages whose own __init__ imports what is not installed, or another open_clip.
    for name in ('evaluation', 'training', 'open_clip'):
        package = ModuleType(f'clone_{name}')
        package.__path__ = [str(clone / 'src' / name)]
        sys.modules[package.__name__] = package
    sys.modules['training'] = sys.modules['clone_training']  # imported by that name
    module = importlib.import_module('clone_evaluation.segmentation')
    net = fill(open_clip.model.CLIP(**recipe.ARCHITECTURE))
    net.visual.output_tokens = True

    def encode_image(images: Tensor, normalize: bool, pool: bool) -> Tensor:
        pooled, patches = net.visual(images)  # after ln_post, unlike the pooled one
        tokens = torch.cat([pooled[:, None], patches @ net.visual.proj], dim=1)
        return F.normalize(tokens, dim=-1)

    def encode(prompts: list[str], convert_to_tensor: bool) -> Tensor:
        return net.encode_text(open_clip.tokenize(prompts))

    images, targets = recipe.dense_images('native')['native'], recipe.clippy_targets()
    evaluator = module.PascalEvaluator(
        mock.Mock(encode_image=encode_image, text=mock.Mock(encode=encode)),
        list(zip(images, targets, strict=True)),
        module.PascalMIoU(),
        mock.Mock(batch_size=2, workers=0, precision='fp32', device='cpu'),
    )
    with mock.patch.object(
        evaluator.metric, 'update', wraps=evaluator.metric.update
    ) as update:
        evaluator.evaluate()
    prediction = update.call_args.args[0]  # whose further names are folded by then
    result = evaluator.metric.compute()
    vectors = evaluator.class_embeddings
    tokens = encode_image(images, True, False)[:, 1:].detach()
    similarity = module.get_similarity(tokens, vectors, targets.shape)
    image, mask = recipe.clippy_image()
    transform = importlib.import_module('clone_open_clip.transform').image_transform
    evaluation_utils = importlib.import_module('clone_evaluation.utils')

    patch_tokens, texts = recipe.clippy_pairs()
    patch_tokens.requires_grad_()
    # Reduce('b n c -> b c', 'max') of timm_model.py, whose imports timm has moved.
    reduce = importlib.import_module('einops.layers.torch').Reduce
    pooled = reduce('b n c -> b c', 'max')(patch_tokens)
    loss = importlib.import_module('clone_open_clip.loss').ClipLoss()(
        F.normalize(pooled, dim=-1), F.normalize(texts, dim=-1), torch.tensor(1 / 0.07)
    )
    loss.backward()
    return dict(
        vectors=vectors,
        similarity=similarity[:1, :, ::3, ::3],
        prediction=prediction.to(torch.uint8),
        iou=torch.tensor(result['per_class'], dtype=torch.float64),
        image=transform(224, is_train=False)(image)[:, ::7, ::7],
        mask=evaluation_utils.default_seg_target_transform(mask),
        loss=loss.detach(),
        gradient=patch_tokens.grad,
    )


@torch.enable_grad()
def nms05(clone: Path) -> dict[str, Tensor]:
    module = importlib.import_module('model.pacl')
    net = open_clip.model.CLIP(**recipe.NMS05_ARCHITECTURE)
    with mock.patch.object(
        module.open_clip, 'create_model_and_transforms', lambda *_, **__: (net, 0, 0)
    ):
        fill(net)
        model = module.open_clip_pacl().eval()  # without dropout
    trained = {k: v for k, v in model.named_parameters() if v.requires_grad}
    shapes = {name: value.shape for name, value in trained.items()}
    for name, value in recipe.weights(shapes).items():
        trained[name].data = value
    images, texts = recipe.pairs()
    made = dict(visual=model.forward_visual(images), text=model.forward_text(texts))
    made['activation'] = model.patch_alignment(*made.values())
    grid = made['activation'].view(-1, 1, 25, 25)
    # Its inference draws the deviation anew for each map.
    blur = torchvision.transforms.GaussianBlur(kernel_size=3)
    torch.manual_seed(0)
    made['deviation'] = torch.tensor(blur.get_params(*blur.sigma))
    torch.manual_seed(0)
    made['map'] = blur(grid)
    made['visual'] = made['visual'][:, ::25, ::4]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    loss = module.ClipLoss(temperature=0.1)(*model(images, texts))
    loss.backward()
    made['loss'] = loss
    for name, value in trained.items():
        made[f'gradient_{name}'] = value.grad.flatten()[::97].clone()
    optimizer.step()
    for name, value in trained.items():
        made[f'step_{name}'] = value.flatten()[::97]
    return {name: value.detach() for name, value in made.items()}


def openai_clip() -> nn.Module:
    """The tiny CLIP, as the clone's copy of OpenAI's code builds it."""
    clip = importlib.import_module('clip.model').CLIP(
        embed_dim=recipe.ARCHITECTURE['embed_dim'],
        image_resolution=VISION['image_size'],
        vision_layers=VISION['layers'],
        vision_width=VISION['width'],
        vision_patch_size=VISION['patch_size'],
        context_length=TEXT['context_length'],
        vocab_size=TEXT['vocab_size'],
        transformer_width=TEXT['width'],
        transformer_heads=TEXT['heads'],
        transformer_layers=TEXT['layers'],
    )
    return fill(clip)


def fill(net: nn.Module) -> nn.Module:
    shapes = {name: value.shape for name, value in net.named_parameters()}
    net.load_state_dict(recipe.weights(shapes))
    return net.eval()


def openai_name(name: str) -> str:
    """What OpenAI's CLIP calls a weight of MaskCLIP's ViT."""
    if not name.startswith('layers.'):
        name = name.replace('ln0', 'ln_pre').replace('ln1', 'ln_post')
    for theirs, openai in (
        ('patch_embed.projection', 'conv1'),
        ('cls_token', 'class_embedding'),
        ('pos_embed', 'positional_embedding'),
        ('ffn.layers.0.0', 'mlp.c_fc'),
        ('ffn.layers.1', 'mlp.c_proj'),
        ('layers', 'transformer.resblocks'),
        ('attn.attn', 'attn'),
        ('ln1', 'ln_1'),
        ('ln2', 'ln_2'),
    ):
        name = name.replace(theirs, openai)
    return f'visual.{name}'


def cosines(tokens: Tensor) -> Tensor:
    """``(N, tokens, D)`` against the name vectors: ``(N, names, tokens)``."""
    return (F.normalize(tokens, dim=-1) @ recipe.name_vectors().T).transpose(1, 2)


def segment(case: str, segmentor: type, **options: object) -> dict[str, Tensor]:
    """Segment the image with an author's segmentor."""
    with tempfile.TemporaryDirectory() as folder:
        names = Path(folder) / 'names.txt'
        names.write_text('\n'.join(recipe.NAMES))
        model = segmentor(
            name_path=str(names),
            device=torch.device('cpu'),
            logit_scale=recipe.LOGIT_SCALE,
            **options,
        )
    sample = SegDataSample(metainfo=dict(ori_shape=recipe.ORIGINAL_SIZE))
    (sample,) = model.predict(recipe.images(*recipe.INPUT_SIZE), [sample])
    return outcome(case, sample.pred_sem_seg.data[0], sample.seg_logits.data)


def outcome(case: str, prediction: Tensor, scores: Tensor) -> dict[str, Tensor]:
    return {
        f'{case}_prediction': prediction.to(torch.uint8),
        f'{case}_scores': recipe.thinned(scores),
    }


def stand_in(name: str, source: ModuleType | None = None, **extra: object) -> None:
    """Register a module with the contents of another, and the packages around it."""
    parts = name.split('.')
    for depth in range(1, len(parts)):
        package = ModuleType('.'.join(parts[:depth]))
        package.__path__ = []
        sys.modules.setdefault(package.__name__, package)
    module = ModuleType(name)
    vars(module).update({**(vars(source) if source else {}), **extra})
    sys.modules[name] = module


def load(path: Path, name: str) -> ModuleType:
    """Execute a file as a module of that name."""
    stand_in(name)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKERS = dict(
    sclip=sclip,
    clearclip=clearclip,
    naclip=naclip,
    maskclip=maskclip,
    dinoiser=dinoiser,
    clippy=clippy,
    nms05=nms05,
)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('name', choices=MAKERS)
    parser.add_argument('clone', type=Path, help="a clone of the authors' repository")
    args = parser.parse_args()
    torch.set_num_threads(1)
    sys.path.insert(0, str(args.clone))
    made = MAKERS[args.name](args.clone)
    arrays = {name: value.numpy() for name, value in made.items()}
    np.savez_compressed(Path(__file__).parent / f'{args.name}.npz', **arrays)
    for name, value in arrays.items():
        print(name, value.dtype, value.shape)


if __name__ == '__main__':
    main()
