"""Classification over the encoder's own forward, as a ratio measured in one run.

    python benchmarks/classification.py
    python benchmarks/classification.py --device cuda --dtype bfloat16 --batch 256

ViT-B/16 with random weights by the config of ``--set``, whose names are encoded before:
``ZeroShotClassifier.predict`` on a batch of images, pooled by each of ``--methods``,
over the frozen vision tower alone on the same images, in turns in one process.
"""

from __future__ import annotations

import json

import torch
from measure import medians, parser
from mmengine.registry import init_default_scope

from pacl_mmseg.benchmark import CLASSIFIERS, compose
from pacl_mmseg.models import ZeroShotClassifier
from pacl_mmseg.registry import MODELS


def build(method: str, name: str, dtype: str, device: str) -> ZeroShotClassifier:
    """A model without weights; one template, as texts are not what is measured."""
    options = {
        'model.encoder.pretrained': None,
        'model.encoder.dtype': dtype,
        'model.decode_head.templates': 'plain',
    }
    model = MODELS.build(compose(method, name, options=options).model)
    return model.to(device).eval()


@torch.inference_mode()
def main() -> None:
    options = parser(__doc__)
    options.add_argument('--set', default='imagenet', help='whose classes')
    options.add_argument('--methods', nargs='+', default=list(CLASSIFIERS))
    options.add_argument('--batch', type=int, default=16, help='images')
    options.add_argument('--dtype', default='float32', help='of the frozen encoder')
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    init_default_scope('mmseg')
    images = torch.randn(args.batch, 3, 224, 224, device=args.device)
    results = {}
    for method in args.methods:
        model = build(method, args.set, args.dtype, args.device)
        model.decode_head.text_bank  # noqa: B018  (encoded here, once)
        jobs = {
            'classify': lambda model=model: model.predict(images),
            'encoder': lambda model=model: model.backbone(images),
        }
        seconds = medians(jobs, args.device, args.repeat)
        ratio = seconds['classify'] / seconds['encoder']
        print(
            f'{method}, {model.decode_head.num_classes} classes, {args.batch} images, '
            f'{args.dtype}, {args.device}: classify {seconds["classify"]:.3f} s / '
            f'encoder {seconds["encoder"]:.3f} s = {ratio:.3f}'
        )
        results[method] = seconds
    if args.json:
        args.json.write_text(json.dumps(results))


if __name__ == '__main__':
    main()
