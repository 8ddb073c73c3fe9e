"""Speed of ``Segmenter``, as ratios measured in one run.

    python benchmarks/segmenter.py --threads 1
    python benchmarks/segmenter.py --device cuda

NACLIP with a ViT-B/16 of random weights and 20 words, on made-up photographs (JPEG
files) of ``--size``:

(a) one / encoder: a photograph from file to labels, over the frozen encoder alone on
    the same windows in the same batches.
(b) many / encoder: each of ``--photos`` in one list, likewise.
(c) thousand / one: with 1,000 words in place of 20. Texts were encoded before.
(d) texts: seconds for each new word, 7 templates each.

All take turns in one process after a warm-up; medians of ``--repeat`` turns are
compared. CPU times mean little while other programs use the cores; with ``--threads 1``
they are the process' own.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from measure import medians, parser
from mmcv.transforms import Compose
from PIL import Image

from pacl_mmseg import Segmenter
from pacl_mmseg.apis import set_vocabulary
from pacl_mmseg.benchmark.configs import compose
from pacl_mmseg.models.segmentors.decoding import Decoding
from pacl_mmseg.models.segmentors.score_maps import Windows
from pacl_mmseg.prompts import get_templates


def photo(path: Path, size: tuple[int, int], seed: int) -> str:
    """A file of a smooth random photograph."""
    random, (height, width) = np.random.default_rng(seed), size
    image = random.integers(0, 256, (height // 32, width // 32, 3), dtype=np.uint8)
    image = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    image.save(path, quality=95)
    return str(path)


@torch.inference_mode()
def main() -> None:
    options = parser(__doc__)
    options.add_argument('--size', nargs=2, type=int, default=[480, 640])
    options.add_argument('--photos', type=int, default=8, help='in one list')
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    config = compose('naclip', 'voc20', options={'model.encoder.pretrained': None})
    segmenter = Segmenter.from_config(config, device=args.device, templates='pacl7')
    model = segmenter.model
    few, many = ([f'word {i}' for i in range(n)] for n in (20, 1000))
    with tempfile.TemporaryDirectory() as folder:
        photos = [
            photo(Path(folder, f'{i}.jpg'), args.size, i) for i in range(args.photos)
        ]
        _, data = segmenter._read(photos[0], Compose(segmenter._steps))
        inputs = dict(inputs=[data['inputs']], data_samples=[data['data_samples']])
        image = model.data_preprocessor(inputs)['inputs'][0]
        decoding = Decoding.from_test_cfg(model.test_cfg)
        windows = Windows.of(tuple(image.shape[-2:]), decoding).crop(image)

        def encoder() -> None:
            for part in windows.split(decoding.window_batch):
                model.backbone(part)

        set_vocabulary(model, few)
        start = time.process_time() if args.threads == 1 else time.perf_counter()
        assert model.decode_head.text_bank
        stop = time.process_time() if args.threads == 1 else time.perf_counter()
        texts = (stop - start) / len(few)
        # One template: what is in memory costs the same.
        model.decode_head.templates = get_templates('plain')
        jobs = dict(
            encoder=encoder,
            one=lambda: segmenter(photos[0], few),
            many=lambda: segmenter(photos, few),
            thousand=lambda: segmenter(photos[0], many),
        )
        seconds = medians(jobs, args.device, args.repeat)
    seconds['many'] /= len(photos)
    pairs = (('one', 'encoder'), ('many', 'encoder'), ('thousand', 'one'))
    print(
        f'ViT-B/16, {args.device}, torch {torch.__version__}, {args.threads} CPU '
        f'threads, image {args.size[1]} x {args.size[0]}, {len(windows)} windows, '
        f'median of {args.repeat}'
    )
    for a, b in pairs:
        ratio = seconds[a] / seconds[b]
        print(f'{a} {seconds[a]:.3f} s / {b} {seconds[b]:.3f} s = {ratio:.2f}')
    print(f'texts: {1000 * texts:.1f} ms for each new word')
    if args.json:
        args.json.write_text(json.dumps(dict(seconds, texts=texts)))


if __name__ == '__main__':
    main()
