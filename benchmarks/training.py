"""A training step against the frozen encoders' forward, measured in one run.

    python benchmarks/training.py --device cpu --batch-size 8 --threads 1
    python benchmarks/training.py --device cuda --dtype bfloat16 --compile \
        --batch-size 4096

The model and the optimizer of ``--config`` on batches that are in (pinned) memory:
random images, the same in all of them, and 8 sets of captions in turn, tokenized
before, as data workers do. Captions are of random words whose number is log-normally
distributed with mean 20.2 and standard deviation 16.3 (what Conceptual 12M's authors
report of its captions). The shorter noun prompts, which in training take the place of
up to half of the captions, are not among them; with ``--noun-prompts`` all texts are
such, of the small world's 36 classes. Weights are random, unless
``--cfg-options model.encoder.pretrained=...`` says otherwise.

encoders: the two frozen encoders' forward, alone, on the same batches, images being
    on the device and normalised before.
step: what training does with a batch that its data workers have made: copy to the
    device, normalisation, encoders, embedder, compatibility function, loss, backward
    and optimizer. As in training, a batch is copied to a GPU by a stream of its own,
    while the GPU still computes the steps before.
apart: with ``--noun-prompts`` also a step in which no two texts count as equal, so that
    each is encoded and compared with the images for itself.

They take turns in one process after a warm-up, each turn ``--steps`` times in a row;
medians of ``--repeat`` turns are compared, and the hours that the paper's recipe would
take at that rate computed, data being in time. Then two steps run under PyTorch's
profiler, for the time of each phase that a step has a range of: on a GPU that of its
kernels. With ``--dtype`` of 16 bits frozen towers and the compatibility function's
products have that precision, and the embedder runs under MMEngine's
``AmpOptimWrapper`` where it works, on a GPU.

``--json FILE`` writes what is printed there too.

Peak memory: of CUDA's allocator, or of this whole process (Linux). On a CPU with
``--threads 1`` seconds of the first table are of processor time, which other programs
disturb less.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measure import medians, parser, peak_bytes
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from torch import Tensor
from torch.autograd import DeviceType

from pacl_mmseg.apis import load_config, read_options
from pacl_mmseg.datasets.small_world import CLASSES
from pacl_mmseg.engine.batches import EndlessBatches
from pacl_mmseg.models.open_clip_model import preprocess_config
from pacl_mmseg.prompts import get_templates
from pacl_mmseg.registry import MODELS

CONFIG = Path(__file__).parents[1] / 'configs' / 'pacl_vitb16_cc12m.py'
CAPTION_WORDS = 20.2, 16.3  # mean and standard deviation
CAPTION_SETS = 8  # how many texts have which length differs from batch to batch
RECIPE_SAMPLES = 3e8  # 30 million pairs, 10 epochs
# What parts of the model name their forward, and how names of PyTorch's own begin.
PHASES = {name: name for name in ('vision', 'text', 'embedder', 'phi', 'loss')} | {
    'backward': 'autograd::engine::evaluate_function',
    'optimizer': 'Optimizer.step',
}
PROFILED = 2  # steps
WORDS = (
    'a the of and in on with for red blue old new small large young woman man child '
    'dog cat horse bird tree house street river mountain beach table chair window '
    'car bus train photo portrait background vector illustration summer winter'
)


def make_captions(count: int, seed: int = 0) -> list[str]:
    """Random words; see the module's description."""
    mean, deviation = CAPTION_WORDS
    variance = math.log1p((deviation / mean) ** 2)
    location = math.log(mean) - variance / 2
    dice, words = random.Random(seed), WORDS.split()
    lengths = (dice.lognormvariate(location, variance**0.5) for _ in range(count))
    return [' '.join(dice.choices(words, k=max(round(n), 1))) for n in lengths]


def make_prompts(count: int, seed: int = 0) -> list[str]:
    """Noun prompts of the small world's classes."""
    dice, templates = random.Random(seed), get_templates('pacl7')
    return [dice.choice(templates).format(dice.choice(CLASSES)) for _ in range(count)]


class InMemory:
    """A stand-in for a data loader: the same batches in turn, without end."""

    def __init__(self, batches: list[dict]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[dict]:
        return itertools.cycle(self.batches)


class Training:
    """The model and optimizer of a config, and batches that share their images."""

    def __init__(
        self,
        cfg: Config,
        batch_size: int,
        device: torch.device,
        noun_prompts: bool = False,
    ) -> None:
        self.device = device
        self.model = MODELS.build(cfg.model).to(device).train()
        self.optim_wrapper = build_optim_wrapper(self.model, cfg.optim_wrapper)
        size = preprocess_config(cfg.model.encoder.model)['size']
        images = torch.randint(0, 256, (batch_size, 3, size, size), dtype=torch.uint8)
        make = make_prompts if noun_prompts else make_captions
        captions = [make(batch_size, seed) for seed in range(CAPTION_SETS)]
        self.tokens = [*map(self.model.decode_head.text_encoder.tokenize, captions)]
        if device.type == 'cuda':
            images = images.pin_memory()
            self.tokens = [tokens.pin_memory() for tokens in self.tokens]

        def batches(captions: list[list[str]]) -> list[dict[str, Any]]:
            samples = zip(captions, self.tokens, strict=True)
            return [
                dict(inputs=images, data_samples=dict(captions=c, text_tokens=t))
                for c, t in samples
            ]

        self.batches = EndlessBatches(InMemory(batches(captions)), device)
        self.apart: EndlessBatches | None = None
        if noun_prompts:  # known by their captions: the same tokens under other ones
            captions = [[f'{n} {text}' for n, text in enumerate(c)] for c in captions]
            self.apart = EndlessBatches(InMemory(batches(captions)), device)
        self.texts = itertools.cycle(self.tokens)
        with torch.no_grad():
            batch = dict(inputs=images, data_samples={})
            self.images = self.model.data_preprocessor(batch, True)['inputs']

    def encoders(self) -> None:
        self.model.backbone(self.images)
        self.model.decode_head.text_encoder(next(self.texts))

    def step(self, apart: bool = False) -> dict[str, Tensor]:
        batch = next(self.apart if apart else self.batches)
        return self.model.train_step(batch, self.optim_wrapper)


def measure(training: Training, repeat: int, steps: int) -> dict[str, Any]:
    """Measure, print tables, and return what is in them, in plain values."""
    device = training.device.type
    jobs = dict(encoders=training.encoders, step=training.step)
    if training.apart is not None:
        jobs['apart'] = partial(training.step, apart=True)
    seconds = medians(jobs, device, repeat, steps)
    count = len(training.images)
    for name, value in seconds.items():
        print(f'{name:>9} {1000 * value:10.1f} ms {count / value:10.1f} samples/s')
    hours, peak = RECIPE_SAMPLES * seconds['step'] / count / 3600, peak_bytes(device)
    print(
        f'step / encoders: {seconds["step"] / seconds["encoders"]:.3f}; peak memory '
        f"{peak / 1e9:.2f} GB; the paper's {RECIPE_SAMPLES:.0e} samples at this rate: "
        f'{hours:,.1f} hours'
    )
    phases = measure_phases(training.step, device)
    total = sum(phases.values()) or math.nan  # where GPUs cannot be profiled
    print(f'phases of a step, {1000 * total:.1f} ms in all:')
    for name, value in phases.items():
        print(f'{name:>9} {1000 * value:10.1f} ms {value / total:10.1%}')
    return dict(
        batch_size=count, seconds=seconds, peak_memory=peak, hours=hours, phases=phases
    )


def measure_phases(step: Callable[[], dict], device: str) -> dict[str, float]:
    """Mean seconds of each phase of a step."""
    with torch.profiler.profile() as profiler:
        for _ in range(PROFILED):
            log = step()
        if not log['loss'].isfinite():  # waits for a GPU
            raise RuntimeError(f'The loss is {log["loss"].item()}.')
    seconds = dict.fromkeys(PHASES, 0.0)
    for row in profiler.key_averages():
        for name, begin in PHASES.items():
            # On a GPU each range has a second row, of when it was there.
            if row.device_type == DeviceType.CPU and row.key.startswith(begin):
                taken = row.cpu_time_total if device == 'cpu' else row.device_time_total
                seconds[name] += taken / 1e6 / PROFILED
    return seconds


def parse_args() -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument('--config', type=Path, default=CONFIG)
    dtypes = ['float32', 'bfloat16', 'float16']
    options.add_argument('--dtype', choices=dtypes, default='float32')
    options.add_argument('--batch-size', type=int, default=16)
    options.add_argument('--compile', action='store_true', help='the frozen encoders')
    options.add_argument(
        '--noun-prompts', action='store_true', help='in place of captions'
    )
    options.add_argument(
        '--steps',
        type=int,
        help='in a row, in each turn; default: 10 on a GPU, 1 on a CPU',
    )
    options.add_argument('--cfg-options', nargs='+', action='extend')
    args = options.parse_args()
    if args.steps is None:
        args.steps = 10 if args.device == 'cuda' else 1
    if min(args.repeat, args.steps) < 1:
        options.error('--repeat and --steps must be at least 1.')
    return args


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    init_default_scope('mmseg')
    options = {
        'model.encoder.pretrained': None,
        'model.encoder.dtype': args.dtype,
        'model.encoder.compile': args.compile,
    }
    if args.dtype != 'float32':
        options['model.decode_head.compatibility.matmul_dtype'] = args.dtype
    if args.dtype != 'float32' and args.device == 'cuda':
        options['optim_wrapper.type'] = 'AmpOptimWrapper'
        options['optim_wrapper.dtype'] = args.dtype
        # Gradients in bfloat16 need no scale, whose check waits for the GPU each step.
        options['optim_wrapper.loss_scale'] = dict(enabled=args.dtype == 'float16')
    cfg = load_config(str(args.config), {**options, **read_options(args.cfg_options)})
    device = torch.device(args.device)
    torch.backends.cudnn.benchmark = cfg.env_cfg.cudnn_benchmark  # as when training
    training = Training(cfg, args.batch_size, device, args.noun_prompts)
    ends = torch.cat(training.tokens).argmax(1) + 1.0
    where = torch.cuda.get_device_name() if device.type == 'cuda' else 'CPU'
    print(
        f'{args.config.name}, {args.dtype}, {"" if args.compile else "not "}compiled, '
        f'{where}, torch {torch.__version__}, {args.threads} CPU threads, batch '
        f'{args.batch_size}, texts of {ends.mean():.1f} tokens on average, median of '
        f'{args.repeat} turns of {args.steps}'
    )
    result = measure(training, args.repeat, args.steps)
    if args.json:
        args.json.write_text(json.dumps(result))


if __name__ == '__main__':
    main()
