"""Image-text pairs a core reads per second, against open_clip's own pipeline.

    python benchmarks/data.py --shards '/data/cc12m/{00000..00003}.tar'
    python benchmarks/data.py --shards small.tar large.tar --repeat 5

From the same shards, each in one data worker with one thread:

- ``open_clip``: what its training composes of webdataset (read, shuffle, decode with
  Pillow, evaluation transform with normalisation, tokenizer, float32 batches);
- ``exact``: the pipeline of ``--config`` with the options under which its images are
  open_clip's pixel for pixel;
- ``full size``: as configured, but JPEG files are always decoded at full size;
- ``config``: as configured.

Ours leave normalisation to the device, and take captions as they are (``NounPrompt``
has ``prob=0``). All take turns; given is the best of ``--repeat`` turns, and the ratio
to open_clip's. Seconds are of processor time, so that other programs disturb little;
files should be in the page cache. The milliseconds a pair that follow say where the
time goes; ``rest`` is reading, shuffling and batching.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
import webdataset as wds
from torch.utils.data import DataLoader, IterableDataset

import pacl_mmseg  # noqa: F401  (registers the transforms)
from pacl_mmseg.apis.config import load_config
from pacl_mmseg.datasets import ImageTextShards, collate_image_text
from pacl_mmseg.models.encoder import hand_to_transforms
from pacl_mmseg.registry import TRANSFORMS

CONFIG = Path(__file__).parents[1] / 'configs' / 'pacl_vitb16_cc12m.py'
PHASES = {
    'LoadPILImage': 'decode',
    'CLIPResizeCrop': 'resize',
    'PickCaption': 'text',
    'NounPrompt': 'text',
    'TokenizeCaption': 'text',
    'PackImageText': 'pack',
}


class Timed:
    """A function whose processor time is added up under a name."""

    def __init__(self, function: Callable, name: str, seconds: Counter) -> None:
        self.function = function
        self.name = name
        self.seconds = seconds

    def __call__(self, *args: Any) -> Any:
        start = time.process_time()
        result = self.function(*args)
        self.seconds[self.name] += time.process_time() - start
        return result


class Reader(IterableDataset):
    """A pipeline over shards; iterated, it reads one epoch and yields what it took.

    That is: milliseconds a pair, in all and by phase.
    """

    def __init__(self, build: Callable[[Counter], Iterable]) -> None:
        self.seconds: Counter[str] = Counter()
        self.batches = build(self.seconds)
        self.turns: list[tuple[float, dict[str, float]]] = []

    def __iter__(self) -> Iterator[tuple[float, dict[str, float]]]:
        self.seconds.clear()
        start = time.process_time()
        pairs = sum(len(images) for images in self.batches)
        total = time.process_time() - start
        self.seconds['rest'] = total - self.seconds.total()
        phases = {name: 1e3 * value / pairs for name, value in self.seconds.items()}
        yield 1e3 * total / pairs, phases

    def read(self) -> None:
        """Take a turn, in a data worker."""
        self.turns += DataLoader(self, batch_size=None, num_workers=1)

    @property
    def best(self) -> tuple[float, dict[str, float]]:
        """The fastest turn."""
        return min(self.turns, key=lambda turn: turn[0])


def open_clip_batches(
    seconds: Counter, shards: str, batch_size: int, model: str
) -> Iterable[torch.Tensor]:
    """Images as open_clip_train.data batches them."""
    size = open_clip.get_model_config(model)['vision_cfg']['image_size']
    preprocess = open_clip.image_transform(size, is_train=False)
    tokenizer = open_clip.get_tokenizer(model)
    decode = wds.autodecode.imagehandler('pilrgb')
    return wds.DataPipeline(
        wds.SimpleShardList(shards),
        wds.tarfile_to_samples(handler=wds.warn_and_continue),
        wds.shuffle(bufsize=5000, initial=1000),
        wds.select(lambda sample: 'txt' in sample and 'jpg' in sample),
        wds.decode(Timed(decode, 'decode', seconds), handler=wds.warn_and_continue),
        wds.rename(image='jpg;png;jpeg;webp', text='txt'),
        wds.map_dict(
            image=Timed(preprocess, 'resize', seconds),
            text=Timed(lambda text: tokenizer(text)[0], 'text', seconds),
        ),
        wds.to_tuple('image', 'text'),
        wds.batched(batch_size, partial=True),
        wds.map(lambda batch: batch[0]),
    )


class OurBatches:
    """Images as a pipeline of this package batches them."""

    def __init__(
        self,
        seconds: Counter,
        shards: str,
        batch_size: int,
        pipeline: Sequence[dict],
    ) -> None:
        transforms = [
            Timed(TRANSFORMS.build(dict(step)), PHASES[step['type']], seconds)
            for step in pipeline
        ]
        dataset = ImageTextShards(shards, transforms, shuffle_buffer=1000, repeat=False)
        self.loader = DataLoader(dataset, batch_size, collate_fn=collate_image_text)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (batch['inputs'] for batch in self.loader)


def readers(config: str, shards: str, batch_size: int) -> dict[str, Reader]:
    """The pipelines to compare, by name."""
    cfg = load_config(config)

    def ours(**changes: dict) -> Reader:
        dataset = hand_to_transforms(cfg.train_dataloader.dataset, cfg.model)
        steps = [dict(step) for step in dataset.pipeline]
        for step in steps:
            step.update(changes.get(step['type'], {}))
            if step['type'] == 'NounPrompt':
                step['prob'] = 0
        return Reader(lambda seconds: OurBatches(seconds, shards, batch_size, steps))

    return {
        'open_clip': Reader(
            lambda seconds: open_clip_batches(
                seconds, shards, batch_size, cfg.model.encoder['model']
            )
        ),
        'exact': ours(
            LoadPILImage=dict(min_size=None, jpeg_decoder='pillow'),
            CLIPResizeCrop=dict(backend='pillow'),
        ),
        'full size': ours(LoadPILImage=dict(min_size=None)),
        'config': ours(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--shards', nargs='+', required=True, help='compared each')
    parser.add_argument('--config', default=str(CONFIG))
    parser.add_argument('--batch-size', type=int, default=256)
    parser.add_argument('--repeat', type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for shards in args.shards:
        compared = readers(args.config, shards, args.batch_size)
        for reader in compared.values():
            list(reader)  # warms caches up, which the workers inherit
        for _ in range(args.repeat):
            for reader in compared.values():
                reader.read()
        print(shards)
        reference = compared['open_clip'].best[0]
        for name, reader in compared.items():
            total, phases = reader.best
            spent = ', '.join(f'{key} {value:.2f}' for key, value in phases.items())
            print(
                f'  {name:10} {1e3 / total:6.0f} pairs/s {reference / total:6.2f} x '
                f'{total:7.2f} ms: {spent}',
                flush=True,
            )


if __name__ == '__main__':
    main()
