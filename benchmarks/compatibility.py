"""Time and memory of the compatibility function: reference against efficient.

    python benchmarks/compatibility.py --device cpu --sizes 64 128 256

Needs the package installed, or the repository in PYTHONPATH. Each size is the number
of images and of texts; a measurement is one forward and backward with gradients for
the patch tokens, none for the texts.

Time: both functions take turns in one process, after one warm-up each; the median of
``--repeat`` turns is printed.

Extra memory: the peak during one forward and backward, less what was held before it
(inputs among it), the result and the gradient of the patch tokens. On CUDA from the
allocator's statistics. On the CPU (Linux only) each measurement is a process of its
own: the kernel's record of the process' peak resident size (VmHWM), less its resident
size (VmRSS) just before, after a tiny warm-up that loads the libraries' buffers. Should
the peak have been reached earlier, while importing, the result is too large, never too
small. (getrusage's ru_maxrss would not do: a child starts with its parent's.)

Times on the CPU mean little while other programs use its cores: threads then wait for
one another at each operator. ``--threads 1`` is less sensitive to that.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from memory import process_bytes
from torch import Tensor

from pacl_mmseg.ops import compatibility, compatibility_reference

FUNCTIONS = {'reference': compatibility_reference, 'efficient': compatibility}


def make_inputs(size: int, options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Patch tokens (size, tokens, dim) with, texts (size, dim) without gradient."""
    torch.manual_seed(0)
    kind = dict(device=options.device, dtype=getattr(torch, options.dtype))
    tokens = torch.randn(size, options.tokens, options.dim, **kind)
    return tokens.requires_grad_(), torch.randn(size, options.dim, **kind)


def step(
    function: Callable[..., Tensor], tokens: Tensor, texts: Tensor, mode: str
) -> Tensor:
    """One forward and backward; returns phi, leaves the gradient in the tokens."""
    tokens.grad = None
    phi = function(tokens, texts, mode=mode)
    phi.backward(torch.ones_like(phi))
    return phi


def measure_time(
    functions: list[str], size: int, options: argparse.Namespace
) -> dict[str, float]:
    """Median seconds of a step of each function, taking turns."""
    tokens, texts = make_inputs(size, options)
    times = {name: [] for name in functions}
    for turn in range(options.repeat + 1):
        for name in functions:
            start = time.perf_counter()
            step(FUNCTIONS[name], tokens, texts, options.mode)
            if tokens.is_cuda:
                torch.cuda.synchronize()
            if turn > 0:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def measure_memory(name: str, size: int, options: argparse.Namespace) -> int:
    """Peak extra bytes of one step in this process; see the module's description."""
    warm_up = argparse.Namespace(**{**vars(options), 'tokens': 4, 'dim': 8})
    step(FUNCTIONS[name], *make_inputs(4, warm_up), options.mode)
    tokens, texts = make_inputs(size, options)
    if tokens.is_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        phi = step(FUNCTIONS[name], tokens, texts, options.mode)
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated()
    else:
        before = process_bytes('VmRSS')
        phi = step(FUNCTIONS[name], tokens, texts, options.mode)
        peak = process_bytes('VmHWM')
    return peak - before - phi.nbytes - tokens.grad.nbytes


def measure_memory_apart(name: str, size: int, options: argparse.Namespace) -> int:
    """:func:`measure_memory`, on the CPU in a process of its own."""
    if options.device != 'cpu':
        return measure_memory(name, size, options)
    command = [sys.executable, __file__, '--memory-of', name, '--sizes', str(size)]
    for option in ('device', 'tokens', 'dim', 'mode', 'dtype', 'threads'):
        command += [f'--{option}', str(getattr(options, option))]
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
    # How the script runs itself for one memory measurement on the CPU.
    parser.add_argument('--memory-of', choices=tuple(FUNCTIONS), help=argparse.SUPPRESS)
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
        f'{options.device}, torch {torch.__version__}, '
        f'{options.threads} CPU threads, median of {options.repeat}'
    )
    print(
        f'{"B = N":>6} {"reference":>21} {"efficient":>21} '
        f'{"time ratio":>11} {"memory ratio":>13}'
    )
    for size in options.sizes:
        names = list(FUNCTIONS)
        if reference_bytes(size, options) > options.reference_limit_gb * 1e9:
            names.remove('reference')
        times = measure_time(names, size, options)
        memory = {name: measure_memory_apart(name, size, options) for name in names}
        cells = [
            f'{times[name]:8.3f} s {memory[name] / 1e6:8.1f} MB'
            if name in names
            else 'would not fit'
            for name in FUNCTIONS
        ]
        line = f'{size:>6} {cells[0]:>21} {cells[1]:>21}'
        if 'reference' in names:
            time_ratio = times['efficient'] / times['reference']
            memory_ratio = memory['efficient'] / memory['reference']
            line += f' {time_ratio:>11.2f} {memory_ratio:>13.3f}'
        print(line, flush=True)


if __name__ == '__main__':
    main()
