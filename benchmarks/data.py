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
files should be in the page cache.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import open_clip
import torch
import webdataset as wds
from torch.utils.data import DataLoader, IterableDataset

import pacl_mmseg  # noqa: F401  (registers the transforms)
from pacl_mmseg.apis.config import load_config
from pacl_mmseg.datasets import ImageTextShards, collate_image_text
from pacl_mmseg.models.encoder import hand_to_transforms

CONFIG = Path(__file__).parents[1] / 'configs' / 'pacl_vitb16_cc12m.py'


class Reader(IterableDataset):
    """Batches of images; iterated, it reads one epoch and yields seconds a pair."""

    def __init__(self, batches: Iterable[torch.Tensor]) -> None:
        self.batches = batches
        self.turns: list[float] = []

    def __iter__(self) -> Iterator[float]:
        start = time.process_time()
        pairs = sum(len(images) for images in self.batches)
        yield (time.process_time() - start) / pairs

    def read(self) -> None:
        """Take a turn, in a data worker."""
        self.turns += DataLoader(self, batch_size=None, num_workers=1)


def open_clip_batches(
    shards: str, batch_size: int, model: str
) -> Iterable[torch.Tensor]:
    """Images as open_clip_train.data batches them."""
    size = open_clip.get_model_config(model)['vision_cfg']['image_size']
    preprocess = open_clip.image_transform(size, is_train=False)
    tokenizer = open_clip.get_tokenizer(model)
    return wds.DataPipeline(
        wds.SimpleShardList(shards),
        wds.tarfile_to_samples(handler=wds.warn_and_continue),
        wds.shuffle(bufsize=5000, initial=1000),
        wds.select(lambda sample: 'txt' in sample and 'jpg' in sample),
        wds.decode('pilrgb', handler=wds.warn_and_continue),
        wds.rename(image='jpg;png;jpeg;webp', text='txt'),
        wds.map_dict(image=preprocess, text=lambda text: tokenizer(text)[0]),
        wds.to_tuple('image', 'text'),
        wds.batched(batch_size, partial=True),
        wds.map(lambda batch: batch[0]),
    )


def images_of(samples: Sequence[dict]) -> torch.Tensor:
    """Images as a pipeline of this package batches them."""
    return collate_image_text(samples)['inputs']


def readers(config: str, shards: str, batch_size: int) -> dict[str, Reader]:
    """The pipelines to compare, by name."""
    cfg = load_config(config)

    def ours(**changes: dict) -> Reader:
        configured = hand_to_transforms(cfg.train_dataloader.dataset, cfg.model)
        steps = [dict(step) for step in configured.pipeline]
        for step in steps:
            step.update(changes.get(step['type'], {}))
            if step['type'] == 'NounPrompt':
                step['prob'] = 0
        dataset = ImageTextShards(shards, steps, shuffle_buffer=1000, repeat=False)
        return Reader(DataLoader(dataset, batch_size, collate_fn=images_of))

    return {
        'open_clip': Reader(
            open_clip_batches(shards, batch_size, cfg.model.encoder['model'])
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
        reference = min(compared['open_clip'].turns)
        for name, reader in compared.items():
            best = min(reader.turns)
            print(
                f'  {name:10} {1 / best:6.0f} pairs/s {reference / best:6.2f} x',
                flush=True,
            )


if __name__ == '__main__':
    main()
