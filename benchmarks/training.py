"""A training step against the frozen encoders' forward, measured in one run.

    python benchmarks/training.py --device cpu --batch-size 8 --threads 1
    python benchmarks/training.py --device cuda --dtype bfloat16 --compile \
        --batch-size 4096

The model and the optimizer of ``--config`` on a batch that is in (pinned) memory:
random images, captions of random words whose number is log-normally distributed with
mean 20.2 and standard deviation 16.3 (what Conceptual 12M's authors report of its
captions). The shorter noun prompts of the recipe are not among them. Weights are
random, unless ``--cfg-options encoder.pretrained=...`` says otherwise.

encoders: the two frozen encoders' forward, alone, on the same batch, normalised and
    tokenized before.
step: what training does with a batch: copy, normalisation, encoders, embedder,
    compatibility function, loss, backward and optimizer. As in training, the next
    batch is copied to a GPU while it computes.

Both take turns in one process after a warm-up, each turn ``--steps`` times in a row;
medians of ``--repeat`` turns are compared. Then come as many steps with
``PhaseTimer``, for the time of each phase. With ``--dtype`` of 16 bits the embedder
runs under MMEngine's ``AmpOptimWrapper`` where it works, on a GPU.

Peak memory: of CUDA's allocator in a turn of steps, or of this whole process (Linux).
On a CPU, seconds of the first table are of processor time (of all ``--threads``
together), which other programs disturb little, those of phases of a clock.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from memory import process_bytes
from mmengine.config import Config, DictAction
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from torch import Tensor

from pacl_mmseg.apis.config import load_config
from pacl_mmseg.engine.batches import EndlessBatches
from pacl_mmseg.engine.phases import PhaseTimer
from pacl_mmseg.models.open_clip_model import preprocess_config
from pacl_mmseg.registry import MODELS

CONFIG = Path(__file__).parents[1] / 'configs' / 'pacl_vitb16_cc12m.py'
CAPTION_WORDS = 20.2, 16.3  # mean and standard deviation
WORDS = (
    'a the of and in on with for red blue old new small large young woman man child '
    'dog cat horse bird tree house street river mountain beach table chair window '
    'car bus train photo portrait background vector illustration summer winter'
)


def make_captions(count: int) -> list[str]:
    """Random words; see the module's description."""
    mean, deviation = CAPTION_WORDS
    variance = math.log1p((deviation / mean) ** 2)
    location = math.log(mean) - variance / 2
    dice, words = random.Random(0), WORDS.split()
    lengths = (dice.lognormvariate(location, variance**0.5) for _ in range(count))
    return [' '.join(dice.choices(words, k=max(round(n), 1))) for n in lengths]


class InMemory:
    """A stand-in for a data loader: the same batch without end."""

    def __init__(self, batch: dict) -> None:
        self.batch = batch

    def __iter__(self) -> Iterator[dict]:
        return itertools.repeat(self.batch)


class Training:
    """The model and optimizer of a config, and a batch."""

    def __init__(self, cfg: Config, batch_size: int, device: torch.device) -> None:
        self.device = device
        self.model = MODELS.build(cfg.model).to(device).train()
        self.optim_wrapper = build_optim_wrapper(self.model, cfg.optim_wrapper)
        size = preprocess_config(cfg.encoder.model)['size']
        images = torch.randint(0, 256, (batch_size, 3, size, size), dtype=torch.uint8)
        captions = make_captions(batch_size)
        tokens = self.model.decode_head.text_encoder.tokenize(captions)
        if device.type == 'cuda':
            images, tokens = images.pin_memory(), tokens.pin_memory()
        self.batch: dict[str, Any] = dict(
            inputs=images, data_samples=dict(captions=captions, text_tokens=tokens)
        )
        self.batches = EndlessBatches(InMemory(self.batch), device)
        with torch.no_grad():
            data = self.model.data_preprocessor(self.batch, True)
        self.images, self.tokens = data['inputs'], tokens

    def encoders(self) -> None:
        self.model.backbone(self.images)
        self.model.decode_head.text_encoder(self.tokens)

    def step(self, timer: PhaseTimer | None = None) -> dict[str, Tensor]:
        if timer is None:
            batch = next(self.batches)
        else:
            with timer.phase('data'):
                batch = next(self.batches)
        return self.model.train_step(batch, self.optim_wrapper)

    def seconds(self, job: Callable[[], object], steps: int) -> float:
        """Of one execution, where ``steps`` follow one another."""
        clock = time.process_time if self.device.type == 'cpu' else time.perf_counter
        self.synchronize()
        start = clock()
        for _ in range(steps):
            job()
        self.synchronize()
        return (clock() - start) / steps

    def synchronize(self) -> None:
        if self.device.type == 'cuda':
            torch.cuda.synchronize()


def measure(training: Training, repeat: int, steps: int) -> None:
    """Measure and print a table."""
    on_gpu = training.device.type == 'cuda'
    jobs = dict(encoders=training.encoders, step=training.step)
    times: dict[str, list[float]] = {name: [] for name in jobs}
    peak = 0
    for turn in range(repeat + 1):
        for name, job in jobs.items():
            if on_gpu:
                torch.cuda.reset_peak_memory_stats()
            seconds = training.seconds(job, 2 if turn == 0 else steps)
            if turn > 0:
                times[name].append(seconds)
            if name == 'step' and on_gpu:
                peak = torch.cuda.max_memory_allocated()
    if not on_gpu:
        peak = process_bytes('VmHWM')
    medians = {name: statistics.median(values) for name, values in times.items()}
    count = len(training.images)
    for name, seconds in medians.items():
        spread = max(times[name]) / min(times[name]) - 1
        print(
            f'{name:>9} {1000 * seconds:10.1f} ms {count / seconds:10.1f} samples/s'
            f'   (turns differ by {spread:.0%})'
        )
    print(
        f'step / encoders: {medians["step"] / medians["encoders"]:.3f}; peak memory '
        f'{peak / 1e9:.2f} GB'
    )
    with PhaseTimer(training.model, training.optim_wrapper) as timer:
        for _ in range(max(repeat * steps, 1)):
            log = training.step(timer)
        phases = timer.read()
    total = sum(value for name, value in phases.items() if name != 'reduce')
    print(f'phases of a step, {1000 * total:.1f} ms in all:')
    for name, seconds in phases.items():
        print(f'{name:>9} {1000 * seconds:10.1f} ms {seconds / total:10.1%}')
    print(f'loss {log["loss"].item():.4f}')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = 'cuda' if torch.cuda.is_available() else 'cpu'
    parser.add_argument('--config', type=Path, default=CONFIG)
    parser.add_argument('--device', choices=('cpu', 'cuda'), default=default)
    parser.add_argument(
        '--dtype', choices=('float32', 'bfloat16', 'float16'), default='float32'
    )
    parser.add_argument('--batch-size', type=int, default=16)
    parser.add_argument('--compile', action='store_true', help='the frozen encoders')
    parser.add_argument('--repeat', type=int, default=5, help='timed turns')
    parser.add_argument('--steps', type=int, default=1, help='in a row, in each turn')
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={})
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    init_default_scope('mmseg')
    options = {
        'encoder.pretrained': None,
        'encoder.dtype': args.dtype,
        'encoder.compile': args.compile,
    }
    if args.dtype != 'float32' and args.device == 'cuda':
        options['optim_wrapper.type'] = 'AmpOptimWrapper'
        options['optim_wrapper.dtype'] = args.dtype
        # Gradients in bfloat16 need no scale, whose check waits for the GPU each step.
        options['optim_wrapper.loss_scale'] = dict(enabled=args.dtype == 'float16')
    cfg = load_config(str(args.config), {**options, **args.cfg_options})
    device = torch.device(args.device)
    training = Training(cfg, args.batch_size, device)
    ends = training.tokens.argmax(1) + 1.0
    where = torch.cuda.get_device_name() if device.type == 'cuda' else 'CPU'
    print(
        f'{args.config.name}, {args.dtype}, {"" if args.compile else "not "}compiled, '
        f'{where}, torch {torch.__version__}, {args.threads} CPU threads, batch '
        f'{args.batch_size}, texts of {ends.mean():.1f} tokens on average, median of '
        f'{args.repeat} turns of {args.steps}'
    )
    measure(training, args.repeat, args.steps)


if __name__ == '__main__':
    main()
