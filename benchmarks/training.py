"""A training step against the frozen encoders' forward, measured in one run.

    python benchmarks/training.py --device cpu --batch-size 8 --threads 1
    python benchmarks/training.py --config configs/pacl_vitb16_30m_bf16.py \
        --batch-size 4096

The model and the optimizer of ``--config`` on batches that are in (pinned) memory:
random images, the same in all of them, and 8 sets of captions in turn, tokenized
before, as data workers do. Captions are of random words whose number is log-normally
distributed with mean 20.2 and standard deviation 16.3 (what Conceptual 12M's authors
report of its captions). The shorter noun prompts, which in training take the place of
up to half of the captions, are not among them. Weights are random, unless
``--cfg-options model.encoder.pretrained=...`` says otherwise.

encoders: the two frozen encoders' forward, alone, on the same batches, images being
    on the device and normalised before.
step: what training does with a batch that its data workers have made: copy to the
    device, normalisation, encoders, embedder, compatibility function, loss, backward
    and optimizer. As in training, a batch is copied to a GPU by a stream of its own,
    while the GPU still computes the steps before.

They take turns in one process after a warm-up, each turn ``--steps`` times in a row;
medians of ``--repeat`` turns are compared, and the hours that the paper's recipe would
take at that rate computed, data being in time. Peak memory is that of CUDA's allocator.
On a CPU with ``--threads 1`` seconds are of processor time, which other programs
disturb less.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path

import torch
from measure import medians, parser
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmseg.models import BaseSegmentor
from torch import Tensor
from torch.utils.data import DataLoader

from pacl_mmseg.apis import load_config, read_options
from pacl_mmseg.engine.batches import EndlessBatches
from pacl_mmseg.models.open_clip_model import preprocess_config
from pacl_mmseg.registry import MODELS

CONFIG = Path(__file__).parents[1] / 'configs' / 'pacl_vitb16_cc12m.py'
CAPTION_SETS = 8  # how many texts have which length differs from batch to batch
RECIPE_SAMPLES = 3e8  # 30 million pairs, 10 epochs
WORDS = (
    'a the of and in on with for red blue old new small large young woman man child '
    'dog cat horse bird tree house street river mountain beach table chair window '
    'car bus train photo portrait background vector illustration summer winter'
)


def make_captions(count: int, seed: int = 0) -> list[str]:
    """Random words; see the module's description."""
    dice, words = random.Random(seed), WORDS.split()
    lengths = (dice.lognormvariate(2.755, 0.708) for _ in range(count))
    return [' '.join(dice.choices(words, k=max(round(n), 1))) for n in lengths]


def jobs_of(
    model: BaseSegmentor, cfg: Config, batch_size: int
) -> dict[str, Callable[[], dict[str, Tensor] | None]]:
    """``encoders`` and ``step`` of a config's model, to be called again and again."""
    device = next(model.parameters()).device
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    size = preprocess_config(cfg.model.encoder.model)['size']
    images = torch.randint(0, 256, (batch_size, 3, size, size), dtype=torch.uint8)
    captions = [make_captions(batch_size, seed) for seed in range(CAPTION_SETS)]
    text_encoder = model.decode_head.text_encoder
    tokens = [*map(text_encoder.tokenize, captions)]
    if device.type == 'cuda':
        images, tokens = images.pin_memory(), [part.pin_memory() for part in tokens]
    samples = [
        dict(captions=c, text_tokens=t) for c, t in zip(captions, tokens, strict=True)
    ]
    batches = [dict(inputs=images, data_samples=sample) for sample in samples]
    loader = DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch)
    endless, texts = EndlessBatches(loader, device), itertools.cycle(tokens)
    with torch.no_grad():
        batch = dict(inputs=images, data_samples={})
        normalised = model.data_preprocessor(batch, True)['inputs']

    def encoders() -> None:
        model.backbone(normalised)
        text_encoder(next(texts))

    def step() -> dict[str, Tensor]:
        return model.train_step(next(endless), optim_wrapper)

    return dict(encoders=encoders, step=step)


def main() -> None:
    options = parser(__doc__)
    options.add_argument('--config', type=Path, default=CONFIG)
    options.add_argument('--batch-size', type=int, default=16)
    options.add_argument('--steps', type=int, default=1, help='in a row, in each turn')
    options.add_argument('--cfg-options', nargs='+', action='extend')
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    init_default_scope('mmseg')
    given = read_options(args.cfg_options)
    cfg = load_config(str(args.config), {'model.encoder.pretrained': None, **given})
    torch.backends.cudnn.benchmark = cfg.env_cfg.cudnn_benchmark  # as when training
    model = MODELS.build(cfg.model).to(args.device).train()
    jobs = jobs_of(model, cfg, args.batch_size)
    seconds = medians(jobs, args.device, args.repeat, args.steps)
    loss = jobs['step']()['loss']
    if not loss.isfinite():
        raise RuntimeError(f'The loss is {loss.item()}.')
    result = dict(
        batch_size=args.batch_size,
        seconds=seconds,
        hours=RECIPE_SAMPLES * seconds['step'] / args.batch_size / 3600,
        peak_memory=torch.cuda.max_memory_allocated(),
    )
    print(
        f'{args.config.name}, {args.device}, torch {torch.__version__}, {args.threads} '
        f'CPU threads, batch {args.batch_size}, median of {args.repeat} turns of '
        f'{args.steps}'
    )
    for name, value in seconds.items():
        rate = args.batch_size / value
        print(f'{name:>9} {1000 * value:10.1f} ms {rate:10.1f} samples/s')
    print(
        f'step / encoders: {seconds["step"] / seconds["encoders"]:.3f}; peak memory on '
        f"a GPU {result['peak_memory'] / 1e9:.2f} GB; the paper's {RECIPE_SAMPLES:.0e} "
        f'samples at this rate: {result["hours"]:,.1f} hours'
    )
    if args.json:
        args.json.write_text(json.dumps(result))


if __name__ == '__main__':
    main()
