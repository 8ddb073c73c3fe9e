"""Speed of evaluation, as ratios measured in one run.

    python benchmarks/evaluation.py --device cpu
    python benchmarks/evaluation.py --device cuda --dtype float16

SCLIP with a ViT-B/16 of random weights, on a made-up photograph of ``--size``, by the
configs of ``--benchmarks``. Per benchmark:

(a) whole / encoder: loading, resizing, encoding, decoding and both metrics of an image,
    over the frozen encoder alone on the same windows in the same batches.
(b) stock / batched: MMSeg's ``EncoderDecoder``, which loops over windows, over ours,
    with the same modules on the same preprocessed image.

All take turns in one process after a warm-up; medians of ``--repeat`` turns are
compared. CPU times mean little while other programs use the cores; with ``--threads 1``
they are the process' own.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from measure import medians, parser
from mmengine.config import ConfigDict
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import init_default_scope
from mmseg.models import EncoderDecoder
from PIL import Image

from pacl_mmseg.benchmark.configs import compose
from pacl_mmseg.models.encoder import hand_over
from pacl_mmseg.models.segmentors.decoding import Decoding
from pacl_mmseg.models.segmentors.score_maps import Windows
from pacl_mmseg.registry import DATASETS, METRICS, MODELS


def make_image(folder: Path, size: tuple[int, int], classes: int) -> dict[str, str]:
    """The files of a smooth random photograph and a mask of blocks."""
    random, (height, width) = np.random.default_rng(0), size
    blocks = height // 32, width // 32
    files = dict(
        img_path=str(folder / 'image.jpg'), seg_map_path=str(folder / 'mask.png')
    )
    image = random.integers(0, 256, (*blocks, 3), dtype=np.uint8)
    mask = random.integers(0, min(classes, 255), blocks, dtype=np.uint8)
    image = Image.fromarray(image).resize((width, height), Image.BICUBIC)
    image.save(files['img_path'], quality=95)
    mask = Image.fromarray(mask).resize((width, height), Image.NEAREST)
    mask.save(files['seg_map_path'])
    return files


@torch.inference_mode()
def measure(benchmark: str, args: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Median seconds of each job, having printed their ratios."""
    options = {
        'model.encoder.pretrained': None,
        'model.encoder.dtype': args.dtype,
        'model.decode_head.templates': 'photo',  # texts are encoded before, once
    }
    cfg = compose('sclip', benchmark, options=options)
    dataset = cfg.test_dataloader.dataset
    meta = DATASETS.get(dataset.type).METAINFO
    files = make_image(folder, args.size, len(meta['classes']))
    pipeline = Compose(dataset.pipeline)
    metrics = [METRICS.build(metric) for metric in cfg.test_evaluator]
    for metric in metrics:
        metric.dataset_meta = meta
    model = MODELS.build(cfg.model).to(args.device).eval()
    stock = MODELS.build(ConfigDict(hand_over(cfg.model), type='EncoderDecoder'))
    stock.backbone, stock.decode_head = model.backbone, model.decode_head
    stock = stock.to(args.device).eval()

    def load() -> dict:
        sample = dict(files, label_map=None, seg_fields=[], reduce_zero_label=False)
        return pseudo_collate([pipeline(sample)])

    def whole() -> None:
        data = load()
        outputs = [sample.to_dict() for sample in model.test_step(data)]
        for metric in metrics:
            metric.process(data, outputs)

    data = model.data_preprocessor(load(), False)
    images, decoding = data['inputs'], Decoding.from_test_cfg(model.test_cfg)
    windows = Windows.of(tuple(images.shape[-2:]), decoding).crop(images[0])

    def encoder() -> None:
        for part in windows.split(Decoding.window_batch):
            model.backbone(part)

    def segment(segmentor: EncoderDecoder) -> torch.Tensor:
        samples = [sample.clone() for sample in data['data_samples']]
        return segmentor.predict(images, samples)[0].pred_sem_seg.data

    same = (segment(stock) == segment(model)).float().mean().item()
    jobs = dict(whole=whole, encoder=encoder)
    jobs |= dict(stock=partial(segment, stock), batched=partial(segment, model))
    seconds = medians(jobs, args.device, args.repeat)
    ratios = [
        f'{a} {seconds[a]:.3f} s / {b} {seconds[b]:.3f} s = '
        f'{seconds[a] / seconds[b]:.2f}'
        for a, b in (('whole', 'encoder'), ('stock', 'batched'))
    ]
    print(
        f'{benchmark}: {model.num_classes} classes, {len(windows)} windows; '
        f'{"; ".join(ratios)}; {same:.2%} of the labels are the same',
        flush=True,
    )
    return seconds


def main() -> None:
    options = parser(__doc__)
    options.add_argument('--benchmarks', nargs='+', default=['coco_stuff171', 'ade20k'])
    options.add_argument('--size', nargs=2, type=int, default=[480, 640])
    options.add_argument('--dtype', default='float32', help='of the frozen encoder')
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    init_default_scope('mmseg')
    print(
        f'ViT-B/16, {args.dtype}, {args.device}, torch {torch.__version__}, '
        f'{args.threads} CPU threads, image {args.size[1]} x {args.size[0]}, median of '
        f'{args.repeat}'
    )
    with tempfile.TemporaryDirectory() as folder:
        results = {name: measure(name, args, Path(folder)) for name in args.benchmarks}
    if args.json:
        args.json.write_text(json.dumps(results))


if __name__ == '__main__':
    main()
