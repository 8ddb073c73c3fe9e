"""What cross-attention costs beside PACL's compatibility function: time and memory.

    python benchmarks/cross_attention.py --device cpu --threads 1

One forward and one backward of each, with gradients for the patch tokens: in the small
world's shapes (64 tokens of 64 channels, texts of 8 words), and in those of ViT-B/16
(196 tokens of 512 channels, texts of 16 words; 8 heads). They take turns in one
process, and medians are printed. Memory is what a single one adds at its peak: on a CPU
to a process that was forked for it, on a GPU by CUDA's allocator.
"""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from measure import medians, parser
from torch import Tensor

from pacl_mmseg.models.decode_heads import CrossAttentionCompatibility
from pacl_mmseg.ops import compatibility

# Images and as many texts, tokens, words, channels, heads.
SHAPES = {'small world': (32, 64, 8, 64, 4), 'ViT-B/16': (8, 196, 16, 512, 8)}


def peak_memory(job: Callable[[], object], device: str) -> int:
    """Bytes that a job adds at its peak."""
    if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        job()
        return torch.cuda.max_memory_allocated() - before
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            torch.ones(1, requires_grad=True).sum().backward()  # starts autograd
            with open('/proc/self/statm') as file:
                before = int(file.read().split()[1]) * resource.getpagesize()
            job()
            peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            os.write(writer, str(peak - before).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with open(reader) as file:
        return int(file.read())


def measure(name: str, device: str, repeat: int) -> dict[str, Any]:
    """Seconds and bytes of both, and their ratios."""
    size, tokens, words, channels, heads = SHAPES[name]
    torch.manual_seed(0)
    patches = torch.randn(size, tokens, channels, device=device, requires_grad=True)
    texts = torch.randn(size, words, channels, device=device)
    attending = CrossAttentionCompatibility(channels, num_heads=heads).to(device)

    def step(function: Callable[[Tensor, Tensor], Tensor], texts: Tensor) -> None:
        patches.grad = None
        function(patches, texts).sum().backward()

    jobs = {
        'PACL': partial(step, compatibility, texts[:, -1]),
        'cross-attention': partial(step, attending, texts),
    }
    seconds = medians(jobs, device, repeat)
    memory = {key: peak_memory(job, device) for key, job in jobs.items()}
    print(f'{name}: {size} images and texts, {tokens} tokens, {words} words')
    for key in jobs:
        print(f'  {key:16} {seconds[key]:9.5f} s {memory[key] / 1e6:9.1f} MB')
    ratios = {
        kind: values['cross-attention'] / values['PACL']
        for kind, values in dict(time=seconds, memory=memory).items()
    }
    print('  ratio' + ''.join(f', {kind} {r:.0f}' for kind, r in ratios.items()))
    return dict(name=name, seconds=seconds, memory=memory, ratios=ratios)


def main() -> None:
    arguments = parser(__doc__)
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    results = [measure(name, options.device, options.repeat) for name in SHAPES]
    if options.json:
        options.json.write_text(json.dumps(results))


if __name__ == '__main__':
    main()
