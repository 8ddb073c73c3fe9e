"""Time and memory of the compatibility function, against the reference and the device.

    python benchmarks/compatibility.py --device cpu --sizes 64 256
    python benchmarks/compatibility.py --device cuda --dtype bfloat16 \\
        --matmul-dtype bfloat16 --implementations blockwise --sizes 4096

Needs the package installed, or the repository in PYTHONPATH. Each size is the number
of images and of texts; a measurement is one forward and backward with gradients for
the patch tokens, none for the texts. What is measured takes turns in one process; the
medians of ``--repeat`` turns are printed. The reference at 256 needs 0.8 GB, and more
with the square of the size.

Matrix rate: a floor takes turns with the implementations, ``device``, the operations of
the blocks' matrix products, as PyTorch counts them, at the rate of large square
products of the same type in a row: the device's own matrix rate, whatever the shapes
are. ``of device`` is this floor over the measured time. On the CPU products of 16-bit
operands are computed in float32, and that is what it measures.

Extra memory: the peak during one forward and backward, less what was held before it
(inputs among it), the result and the gradient of the patch tokens.

``--json FILE`` writes seconds and bytes there too. Times on the CPU with several
threads mean little while other programs use its cores: threads then wait for one
another at each operator. With ``--threads 1`` they are the process' own.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from typing import Any

import torch
from measure import added_bytes, medians, parser
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pacl_mmseg.ops import compatibility, compatibility_reference

DIRECTIONS = ('forward', 'backward')


def product(*arguments: Any, **_: Any) -> int:
    """Operations of ``left @ right``, the last two of the shapes."""
    left, right = [shape for shape in arguments if isinstance(shape, torch.Size)][-2:]
    return 2 * math.prod(left) * right[-1]


# PyTorch's counter knows neither those in place nor bmm with another out_dtype.
PRODUCTS = dict.fromkeys(
    [getattr(torch.ops.aten, name) for name in ('mm', 'bmm', 'addmm_', 'baddbmm_')],
    product,
)


class Step:
    """One forward and backward of an implementation.

    Args:
        function: Of patch tokens and texts.
        tokens: (B, T, D), with gradient.
        texts: (N, D).
    """

    def __init__(
        self, function: Callable[..., Tensor], tokens: Tensor, texts: Tensor
    ) -> None:
        self.function, self.tokens, self.texts = function, tokens, texts

    def forward(self) -> None:
        self.phi = self.function(self.tokens, self.texts)

    def backward(self) -> None:
        """Only after :meth:`forward`."""
        self.tokens.grad = None
        self.phi.backward(torch.ones_like(self.phi))

    def both(self) -> None:
        self.forward()
        self.backward()

    def operations(self) -> dict[str, int]:
        """Floating-point operations of the matrix products."""
        counted = {}
        for way in DIRECTIONS:
            with FlopCounterMode(display=False, custom_mapping=PRODUCTS) as counter:
                getattr(self, way)()
            counted[way] = counter.get_total_flops()
        return counted

    def extra_memory(self, device: str) -> int:
        """Bytes at the peak beside arguments and results; see the module."""
        self.phi = self.tokens.grad = None
        added = added_bytes(self.both, device)
        return added - self.phi.nbytes - self.tokens.grad.nbytes


def measure(size: int, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds, by what is measured and direction, and bytes; prints them."""
    torch._dynamo.reset()  # or sizes after the first would have code for any size
    torch.manual_seed(0)
    kind = dict(device=options.device, dtype=getattr(torch, options.dtype))
    tokens = torch.randn(size, options.tokens, options.dim, **kind).requires_grad_()
    texts = torch.randn(size, options.dim, **kind)
    matmul = dict(matmul_dtype=options.matmul_dtype)
    functions = dict(
        reference=compatibility_reference,
        blockwise=lambda *inputs: compatibility(*inputs, **matmul),
    )
    steps = {k: Step(functions[k], tokens, texts) for k in options.implementations}
    plain = Step(
        lambda *inputs: compatibility(*inputs, **matmul, compile=False), tokens, texts
    )
    operations = plain.operations()
    del plain

    on_gpu = options.device == 'cuda'
    wide = 'float64' if options.dtype == 'float64' else 'float32'
    name = (on_gpu and options.matmul_dtype) or wide  # of the blocks' products
    side, count = (8192, 20) if on_gpu else (1024, 2)
    square = torch.randn(side, side, device=options.device, dtype=getattr(torch, name))
    out = torch.empty_like(square)

    def multiply() -> None:
        for _ in range(count):
            torch.mm(square, square, out=out)

    jobs = dict(device=multiply)
    for name, step in steps.items():
        jobs |= {f'{name} {way}': getattr(step, way) for way in DIRECTIONS}
    taken = medians(jobs, options.device, options.repeat)
    rate = 2 * count * side**3 / taken['device']
    seconds = {'device': {way: operations[way] / rate for way in DIRECTIONS}}
    memory = {}
    for name, step in steps.items():
        seconds[name] = {way: taken[f'{name} {way}'] for way in DIRECTIONS}
        memory[name] = step.extra_memory(options.device)
        line = f'{size:>6} {name:>15} '
        for way, value in seconds[name].items():
            line += f'{value:>8.4f} s {seconds["device"][way] / value:>9.0%} '
        print(f'{line}{memory[name] / 1e6:>9.1f} MB')
    print(
        f'{size:>6} products of {operations["forward"]:.4g} operations forward, '
        f'{operations["backward"]:.4g} backward; the device does {rate / 1e12:.4g} '
        'TFLOP/s',
        flush=True,
    )
    return dict(size=size, seconds=seconds, extra_memory=memory)


def main() -> None:
    """Measure each size and print a table."""
    arguments = parser(__doc__)
    arguments.add_argument(
        '--sizes', type=int, nargs='+', default=[64, 128, 256], help='images and texts'
    )
    arguments.add_argument('--tokens', type=int, default=196, help='patches per image')
    arguments.add_argument('--dim', type=int, default=512)
    dtypes = ['float32', 'float64', 'bfloat16', 'float16']
    arguments.add_argument('--dtype', choices=dtypes, default='float32')
    arguments.add_argument('--matmul-dtype', choices=dtypes[2:], help='of the blocks')
    names = ['reference', 'blockwise']
    arguments.add_argument('--implementations', choices=names, nargs='+', default=names)
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f'T={options.tokens}, D={options.dim}, {options.dtype}, '
        f'matmul_dtype={options.matmul_dtype}, {options.device}, torch '
        f'{torch.__version__}, {options.threads} CPU threads, median of '
        f'{options.repeat}'
    )
    ways = ''.join(f'{way:>10} of device ' for way in DIRECTIONS)
    print(f'{"B = N":>6} {"implementation":>15} {ways}extra memory')
    results = [measure(size, options) for size in options.sizes]
    if options.json:
        options.json.write_text(json.dumps(results))


if __name__ == '__main__':
    main()
