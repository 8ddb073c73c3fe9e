"""Speed and memory of evaluation, as ratios measured in one run.

    python benchmarks/evaluation.py --device cpu
    python benchmarks/evaluation.py --device cuda --dtype float16
    python benchmarks/evaluation.py --device cpu --sclip path/to/wangf3014/SCLIP

ViT-B/16 with random weights, ``--method`` on a made-up photograph of ``--size``, by the
configs of ``--benchmarks``. Per benchmark:

(a) whole / encoder: loading, resizing, encoding, decoding and both metrics of an image,
    over the frozen encoder alone on the same windows in the same batches.
(b) stock / batched: MMSeg's ``EncoderDecoder``, which loops over windows, over ours,
    with the same modules on the same preprocessed image; also what the tensors of each
    add to memory at their peak.
(c) SCLIP / batched: the authors' segmentor (wangf3014/SCLIP, from a clone) over ours,
    with the same weights, precision, texts and preprocessed image.

All take turns in one process after a warm-up; medians of ``--repeat`` turns are
compared. CPU times mean little while other programs use the cores; with ``--threads 1``
they are the process' own.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from measure import added_bytes, medians, parser
from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import init_default_scope
from mmseg.models import EncoderDecoder
from PIL import Image
from torch import nn

from pacl_mmseg.benchmark.configs import compose
from pacl_mmseg.models import ZeroShotSegmentor
from pacl_mmseg.models.encoder import hand_over
from pacl_mmseg.models.segmentors.decoding import Decoding
from pacl_mmseg.models.segmentors.score_maps import Windows
from pacl_mmseg.registry import DATASETS, METRICS, MODELS

AUTHORS = (('sclip', 'float32'), ('sclip', 'float16'))


def make_image(folder: Path, size: tuple[int, int], classes: int) -> tuple[Path, Path]:
    """A smooth random photograph and a mask of blocks."""
    random = np.random.default_rng(0)
    height, width = size
    coarse = random.integers(0, 256, (height // 32, width // 32, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.BICUBIC)
    mask = Image.fromarray(
        random.integers(
            0, min(classes, 255), (height // 32, width // 32), dtype=np.uint8
        )
    ).resize((width, height), Image.NEAREST)
    files = folder / 'image.jpg', folder / 'mask.png'
    image.save(files[0], quality=95)
    mask.save(files[1])
    return files


class Evaluation:
    """One image through everything that an evaluation does."""

    def __init__(self, cfg: Config, size: tuple[int, int], folder: Path) -> None:
        dataset = cfg.test_dataloader.dataset
        meta = DATASETS.get(dataset.type).METAINFO
        image, mask = make_image(folder, size, len(meta['classes']))
        self.sample = dict(img_path=str(image), seg_map_path=str(mask), label_map=None)
        self.pipeline = Compose(dataset.pipeline)
        self.metrics = [METRICS.build(metric) for metric in cfg.test_evaluator]
        for metric in self.metrics:
            metric.dataset_meta = meta
        self.cfg = cfg
        self.model: ZeroShotSegmentor = MODELS.build(cfg.model)
        self.model.eval()

    def load(self) -> dict:
        sample = dict(self.sample, seg_fields=[], reduce_zero_label=False)
        return pseudo_collate([self.pipeline(sample)])

    def whole(self) -> None:
        data = self.load()
        outputs = [sample.to_dict() for sample in self.model.test_step(data)]
        for metric in self.metrics:
            metric.process(data, outputs)

    def inputs(self) -> dict:
        return self.model.data_preprocessor(self.load(), False)

    def segment(self, data: dict, model: nn.Module | None = None) -> torch.Tensor:
        """The labels of preprocessed images, by another model if given."""
        samples = [sample.clone() for sample in data['data_samples']]
        (result,) = (model or self.model).predict(data['inputs'], samples)
        return result.pred_sem_seg.data

    def stock(self) -> EncoderDecoder:
        """MMSeg's segmentor of the same modules."""
        cfg = ConfigDict(hand_over(self.cfg.model), type='EncoderDecoder')
        model = MODELS.build(cfg)
        model.backbone, model.decode_head = self.model.backbone, self.model.decode_head
        return model.eval()

    def encode(self, images: torch.Tensor) -> int:
        """Encode the windows and return how many there are."""
        decoding = Decoding.from_test_cfg(self.model.test_cfg)
        windows = Windows.of(tuple(images.shape[-2:]), decoding).crop(images[0])
        for part in windows.split(Decoding.window_batch):
            self.model.backbone(part)
        return len(windows)


def authors_sclip(clone: Path, model: ZeroShotSegmentor, dtype: str) -> nn.Module:
    """SCLIP's own segmentor with our weights and texts, in our precision."""
    sys.path.insert(0, str(clone))
    from clip.model import CLIP, convert_weights
    from clip_segmentor import CLIPForSegmentation

    net = CLIP(512, 224, 12, 768, 16, 77, 49408, 512, 8, 12)
    visual = {f'visual.{k}': v for k, v in model.backbone.visual.state_dict().items()}
    net.load_state_dict(visual, strict=False)
    if dtype == 'float16':
        convert_weights(net)
    device = next(model.backbone.parameters()).device
    bank = model.decode_head.text_bank
    segmentor = CLIPForSegmentation.__new__(CLIPForSegmentation)
    nn.Module.__init__(segmentor)
    segmentor.net = net.to(device).eval()
    segmentor.query_features = bank.embeddings.to(getattr(torch, dtype))
    segmentor.query_idx, segmentor.num_queries = bank.class_of, len(bank)
    segmentor.dtype = segmentor.query_features.dtype
    segmentor.logit_scale, segmentor.prob_thd = model.decode_head.logit_scale, 0.0
    segmentor.slide_crop, segmentor.slide_stride = 224, 112
    segmentor.area_thd = segmentor.pamr = None
    return segmentor


@torch.inference_mode()
def measure(
    benchmark: str, args: argparse.Namespace, folder: Path
) -> dict[str, dict[str, float]]:
    """Median seconds and bytes of each job, having printed their ratios."""
    options = {
        'model.encoder.pretrained': None,
        'model.encoder.dtype': args.dtype,
        'model.decode_head.templates': 'photo',  # texts are encoded before, once
    }
    cfg = compose(args.method, benchmark, options=options)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = Evaluation(cfg, args.size, folder)
        evaluation.model.to(args.device)
        data = evaluation.inputs()
        images = data['inputs']
        count = evaluation.encode(images)
        others = {'stock': evaluation.stock()}
        if args.sclip:
            others['SCLIP'] = authors_sclip(args.sclip, evaluation.model, args.dtype)
        jobs = {
            'whole': evaluation.whole,
            'encoder': lambda: evaluation.encode(images),
            'batched': lambda: evaluation.segment(data),
        } | {k: partial(evaluation.segment, data, v) for k, v in others.items()}
        labels = evaluation.segment(data)
        for name, model in others.items():
            same = (evaluation.segment(data, model) == labels).float().mean().item()
            print(f'{name}: {same:.2%} of the labels are ours', file=sys.stderr)
        seconds = medians(jobs, args.device, args.repeat)
        memory = {k: added_bytes(jobs[k], args.device) for k in ('stock', 'batched')}
    classes = evaluation.model.num_classes
    ratios = [('whole', 'encoder'), ('stock', 'batched')]
    ratios += [('SCLIP', 'batched')] if args.sclip else []
    parts = [
        f'{a} {seconds[a]:.3f} s / {b} {seconds[b]:.3f} s = '
        f'{seconds[a] / seconds[b]:.2f}'
        for a, b in ratios
    ]
    parts += [f'{name} adds {size / 1e6:.0f} MB' for name, size in memory.items()]
    line = f'{benchmark}: {classes} classes, {count} windows; {"; ".join(parts)}'
    print(line, flush=True)
    return dict(seconds=seconds, added_memory=memory)


def parse_args() -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument('--method', default='sclip')
    options.add_argument('--benchmarks', nargs='+', default=['coco_stuff171', 'ade20k'])
    options.add_argument('--size', nargs=2, type=int, default=[480, 640])
    options.add_argument('--dtype', default='float32', help='of the frozen encoder')
    options.add_argument('--sclip', type=Path, help='a clone of wangf3014/SCLIP')
    args = options.parse_args()
    if args.sclip and (args.method, args.dtype) not in AUTHORS:
        options.error('--sclip compares method sclip in float32 or float16')
    if min(args.size) < 32:
        options.error('--size must be at least 32 32')
    return args


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    init_default_scope('mmseg')
    print(
        f'{args.method}, ViT-B/16, {args.dtype}, {args.device}, torch '
        f'{torch.__version__}, {args.threads} CPU threads, image '
        f'{args.size[1]} x {args.size[0]}, median of {args.repeat}'
    )
    with tempfile.TemporaryDirectory() as folder:
        results = {name: measure(name, args, Path(folder)) for name in args.benchmarks}
    if args.json:
        args.json.write_text(json.dumps(results))


if __name__ == '__main__':
    main()
