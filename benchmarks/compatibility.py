"""Time of the compatibility function, beside the reference and the device's own rate.

    python benchmarks/compatibility.py --device cpu --threads 1
    python benchmarks/compatibility.py --device cuda --dtype bfloat16 --sizes 4096

Each size is the number of images and of texts, with the 196 tokens of ViT-B/16 and 512
channels; measured are one forward and one backward with gradients for the patch tokens,
none for the texts. All take turns in one process, and medians are printed. With a
``--dtype`` of 16 bits inputs and the blocks' products have it; the reference is float32
then, and left out above 256, where it needs more than 0.8 GB.

``device`` is the rate of large square products of the same type: what the device can
do, whatever the shapes are. The share beside a time is that of this rate which the
blocks' products have, counted as ``tests/test_ops`` checks it. On the CPU products of
16-bit operands are computed in float32, and that is what it measures.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from measure import medians, parser
from torch import Tensor

from pacl_mmseg.ops import compatibility, compatibility_reference

TOKENS, DIM = 196, 512
LARGEST_REFERENCE = 256


def multiply_adds(size: int) -> dict[str, int]:
    """Those of the blocks' products, by direction."""
    project, gram = size**2 * TOKENS * DIM, size * TOKENS**2 * (DIM + size)
    if 3 * gram < 4 * project:  # tokens are compared with one another
        return dict(forward=project + gram, backward=2 * (project + gram))
    return dict(forward=2 * project, backward=5 * project)


def measure(size: int, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each function and direction, and shares of the device's rate."""
    torch._dynamo.reset()  # or sizes after the first would have code for any size
    torch.manual_seed(0)
    half = None if options.dtype == 'float32' else options.dtype
    kind = dict(device=options.device, dtype=getattr(torch, options.dtype))
    tokens = torch.randn(size, TOKENS, DIM, **kind).requires_grad_()
    texts = torch.randn(size, DIM, **kind)
    functions = dict(blockwise=partial(compatibility, matmul_dtype=half))
    if size <= LARGEST_REFERENCE:
        functions['reference'] = compatibility_reference
    results: dict[str, Tensor] = {}

    def forward(name: str, function: Callable[..., Tensor]) -> None:
        results[name] = function(tokens, texts)

    def backward(name: str) -> None:
        tokens.grad = None
        results[name].sum().backward()

    on_gpu = options.device == 'cuda'
    side = 8192 if on_gpu else 1024
    square = torch.randn(side, side, device=options.device)
    square = square.to(kind['dtype'] if on_gpu else torch.float32)
    jobs = dict(device=lambda: square @ square)
    for name, function in functions.items():
        jobs[f'{name} forward'] = partial(forward, name, function)
        jobs[f'{name} backward'] = partial(backward, name)
    seconds = medians(jobs, options.device, options.repeat)
    rate = side**3 / seconds['device']
    shares = {
        way: count / rate / seconds[f'blockwise {way}']
        for way, count in multiply_adds(size).items()
    }
    for name, value in seconds.items():
        print(f'{size:>6} {name:>18} {value:>10.5f} s')
    for way, share in shares.items():
        print(f"{size:>6} {way:>8}: {share:.0%} of the device's rate", flush=True)
    return dict(size=size, seconds=seconds, shares=shares)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument(
        '--sizes', type=int, nargs='+', default=[64, 128, 256], help='images and texts'
    )
    dtypes = ['float32', 'bfloat16', 'float16']
    arguments.add_argument('--dtype', choices=dtypes, default='float32')
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f'T={TOKENS}, D={DIM}, {options.dtype}, {options.device}, torch '
        f'{torch.__version__}, {options.threads} CPU threads, median of '
        f'{options.repeat}'
    )
    results = [measure(size, options) for size in options.sizes]
    if options.json:
        options.json.write_text(json.dumps(results))


if __name__ == '__main__':
    main()
