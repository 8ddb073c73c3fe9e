"""Time and memory of the compatibility function, against the reference and the device.

    python benchmarks/compatibility.py --device cpu --sizes 64 256
    python benchmarks/compatibility.py --device cuda --dtype bfloat16 \\
        --matmul-dtype bfloat16 --implementations blockwise --sizes 4096

Needs the package installed, or the repository in PYTHONPATH. Each size is the number
of images and of texts; a measurement is one forward and backward with gradients for
the patch tokens, none for the texts.

Time: the implementations take turns in one process, after one warm-up each; the medians
of ``--repeat`` turns are printed, forward and backward apart. It is wall time; on the
CPU with ``--threads 1`` the process' own, which other programs disturb less.

Matrix rate: a floor takes turns with the implementations, ``device``, the multiply-adds
that ``multiply_adds`` of pacl_mmseg/ops/compatibility_blockwise.py counts, at the rate
of large square products of the same type in a row: the device's own matrix rate,
whatever the shapes are. ``of device`` is this floor over the measured time. On the CPU
products of 16-bit operands are computed in float32, and that is what it measures.

``--json FILE`` writes seconds and bytes there too.

Extra memory: the peak during one forward and backward, less what was held before it
(inputs among it), the result and the gradient of the patch tokens. On CUDA from the
allocator's statistics. On the CPU (Linux only) each measurement is a process of its
own: the kernel's record of the process' peak resident size (VmHWM), less its resident
size (VmRSS) just before, after a tiny warm-up that loads the libraries' buffers. Should
the peak have been reached earlier, while importing, the result is too large, never too
small. (getrusage's ru_maxrss would not do: a child starts with its parent's.)

Times on the CPU with several threads mean little while other programs use its cores:
threads then wait for one another at each operator.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from memory import process_bytes
from torch import Tensor

from pacl_mmseg.ops import compatibility, compatibility_reference
from pacl_mmseg.ops.compatibility_blockwise import multiply_adds

IMPLEMENTATIONS = ('reference', 'blockwise')
DEVICE = 'device'
DIRECTIONS = ('forward', 'backward')


def make_inputs(size: int, options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Patch tokens (size, tokens, dim) with, texts (size, dim) without gradient."""
    torch.manual_seed(0)
    kind = dict(device=options.device, dtype=getattr(torch, options.dtype))
    tokens = torch.randn(size, options.tokens, options.dim, **kind)
    return tokens.requires_grad_(), torch.randn(size, options.dim, **kind)


def function(name: str, options: argparse.Namespace) -> Callable[..., Tensor]:
    """The implementation of this name, of tokens and texts."""

    def run(tokens: Tensor, texts: Tensor) -> Tensor:
        if name == 'reference':
            return compatibility_reference(tokens, texts, mode=options.mode)
        return compatibility(
            tokens,
            texts,
            mode=options.mode,
            matmul_dtype=options.matmul_dtype,
            compile=options.compile,
        )

    return run


def timed(
    options: argparse.Namespace,
    action: Callable[..., object],
    *arguments: object,
    **keywords: object,
) -> tuple[float, object]:
    """Seconds of a call, until the device is done with it, and its result."""
    alone = options.device == 'cpu' and options.threads == 1
    clock = time.process_time if alone else time.perf_counter
    if options.device == 'cuda':
        torch.cuda.synchronize()
    start = clock()
    result = action(*arguments, **keywords)
    if options.device == 'cuda':
        torch.cuda.synchronize()
    return clock() - start, result


def time_step(
    name: str, tokens: Tensor, texts: Tensor, options: argparse.Namespace
) -> dict[str, float]:
    """Seconds of one forward and of one backward."""
    tokens.grad = None
    forward, phi = timed(options, function(name, options), tokens, texts)
    backward, _ = timed(options, phi.backward, torch.ones_like(phi))
    return {'forward': forward, 'backward': backward}


def count_products(size: int, options: argparse.Namespace) -> dict[str, int]:
    """Multiply-adds of forward and of backward."""
    products = multiply_adds(size, size, options.tokens, options.dim)
    return {way: sum(map(math.prod, products[way])) for way in DIRECTIONS}


def time_device(dtype: torch.dtype, options: argparse.Namespace) -> float:
    """Seconds per multiply-add of large square products in a row."""
    size, count = (1024, 2) if options.device == 'cpu' else (8192, 20)
    square = torch.randn(size, size, device=options.device, dtype=dtype)
    out = torch.empty_like(square)

    def multiply() -> None:
        for _ in range(count):
            torch.mm(square, square, out=out)

    return timed(options, multiply)[0] / (count * size**3)


def measure_time(
    names: list[str], size: int, options: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Median seconds of forward and backward of each, and of the device."""
    torch._dynamo.reset()  # or sizes after the first would have code for any size
    tokens, texts = make_inputs(size, options)
    counts = count_products(size, options)
    name = options.matmul_dtype if options.device == 'cuda' else None
    wide = 'float64' if options.dtype == 'float64' else 'float32'
    dtype = getattr(torch, name or wide)  # of the blocks' products
    turns = {name: [] for name in [DEVICE, *names]}
    for _ in range(options.repeat + 1):
        rate = time_device(dtype, options)
        turns[DEVICE].append({way: rate * counts[way] for way in DIRECTIONS})
        for name in names:
            turns[name].append(time_step(name, tokens, texts, options))
    return {
        name: {
            way: statistics.median(turn[way] for turn in taken[1:])
            for way in DIRECTIONS
        }
        for name, taken in turns.items()
    }


def measure_memory(name: str, size: int, options: argparse.Namespace) -> int:
    """Peak extra bytes of one step in this process; see the module's description."""

    def step(tokens: Tensor, texts: Tensor) -> Tensor:
        phi = function(name, options)(tokens, texts)
        phi.backward(torch.ones_like(phi))
        return phi

    if options.device == 'cpu':
        warm_up = argparse.Namespace(**{**vars(options), 'tokens': 4, 'dim': 8})
        step(*make_inputs(4, warm_up))
    tokens, texts = make_inputs(size, options)
    if tokens.is_cuda:
        # Compiles, for this size: a small one before would make code for any size.
        step(tokens, texts)
        tokens.grad = None
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        phi = step(tokens, texts)
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated()
    else:
        before = process_bytes('VmRSS')
        phi = step(tokens, texts)
        peak = process_bytes('VmHWM')
    return peak - before - phi.nbytes - tokens.grad.nbytes


def measure_memory_apart(name: str, size: int, options: argparse.Namespace) -> int:
    """:func:`measure_memory`, on the CPU in a process of its own."""
    if options.device != 'cpu':
        return measure_memory(name, size, options)
    command = [sys.executable, __file__, '--memory-of', name, '--sizes', str(size)]
    for option in ('device', 'tokens', 'dim', 'mode', 'dtype', 'threads'):
        command += [f'--{option}', str(getattr(options, option))]
    if options.matmul_dtype:
        command += ['--matmul-dtype', options.matmul_dtype]
    if options.compile is not None:
        command += ['--compile' if options.compile else '--no-compile']
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    # Imports may print something before.
    return int(result.stdout.split()[-1])


def reference_bytes(size: int, options: argparse.Namespace) -> int:
    """Estimate of the reference's peak extra memory.

    About four tensors each of B x T x N and B x N x D elements, and two copies of the
    tokens, in float32 at least.
    """
    tokens, dim = options.tokens, options.dim
    elements = 4 * size * size * (tokens + dim) + 2 * size * tokens * dim
    return elements * (8 if options.dtype == 'float64' else 4)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default_device = 'cuda' if torch.cuda.is_available() else 'cpu'
    parser.add_argument('--device', choices=('cpu', 'cuda'), default=default_device)
    parser.add_argument(
        '--sizes', type=int, nargs='+', default=[64, 128, 256], help='images and texts'
    )
    parser.add_argument('--tokens', type=int, default=196, help='patches per image')
    parser.add_argument('--dim', type=int, default=512)
    parser.add_argument('--mode', choices=('softmax', 'sigmoid'), default='softmax')
    parser.add_argument(
        '--dtype',
        choices=('float32', 'float64', 'bfloat16', 'float16'),
        default='float32',
    )
    parser.add_argument(
        '--matmul-dtype', choices=('bfloat16', 'float16'), help='of the blocks'
    )
    parser.add_argument(
        '--implementations',
        choices=IMPLEMENTATIONS,
        nargs='+',
        default=['reference', 'blockwise'],
    )
    parser.add_argument(
        '--compile',
        action=argparse.BooleanOptionalAction,
        help='fuse what is between the products; by default on CUDA',
    )
    parser.add_argument('--repeat', type=int, default=5, help='timed turns')
    parser.add_argument(
        '--threads', type=int, default=torch.get_num_threads(), help='CPU threads'
    )
    parser.add_argument(
        '--reference-limit-gb',
        type=float,
        default=8.0,
        help='leave the reference out where it is estimated to need more',
    )
    parser.add_argument('--json', type=Path, help='file for the results')
    # How the script runs itself for one memory measurement on the CPU.
    parser.add_argument('--memory-of', choices=IMPLEMENTATIONS, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure each size and print a table."""
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    if options.memory_of is not None:
        print(measure_memory(options.memory_of, options.sizes[0], options))
        return
    print(
        f'{options.mode}, T={options.tokens}, D={options.dim}, {options.dtype}, '
        f'matmul_dtype={options.matmul_dtype}, compile={options.compile}, '
        f'{options.device}, torch {torch.__version__}, '
        f'{options.threads} CPU threads, median of {options.repeat}'
    )
    print(
        f'{"B = N":>6} {"implementation":>15} '
        + ''.join(f'{way:>10} of device ' for way in DIRECTIONS)
        + 'extra memory'
    )
    results = []
    for size in options.sizes:
        names = list(options.implementations)
        too_large = reference_bytes(size, options) > options.reference_limit_gb * 1e9
        if 'reference' in names and too_large:
            names.remove('reference')
            print(f'{size:>6} {"reference":>15} would not fit')
        times = measure_time(names, size, options)
        memory = {name: measure_memory_apart(name, size, options) for name in names}
        results.append(dict(size=size, seconds=times, extra_memory=memory))
        for name, taken in times.items():
            line = f'{size:>6} {name:>15} '
            for way in DIRECTIONS:
                line += f'{taken[way]:>8.4f} s {times[DEVICE][way] / taken[way]:>9.0%} '
            if name in memory:
                line += f'{memory[name] / 1e6:>9.1f} MB'
            print(line, flush=True)
        for way, count in count_products(size, options).items():
            rate = 2 * count / times[DEVICE][way] / 1e12
            print(
                f'{size:>6} {way} has {count:.4g} multiply-adds, of which the device '
                f'does {rate:.4g} TFLOP/s'
            )
    if options.json:
        options.json.write_text(json.dumps(results))


if __name__ == '__main__':
    main()
