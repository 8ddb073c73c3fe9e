"""Image-text pairs a core reads per second, against open_clip's own pipeline.

    python benchmarks/data.py --shards '/data/cc12m/{00000..00003}.tar'
    python benchmarks/data.py --shards small.tar large.tar --repeat 5

From the same shards, each in this process with one thread:

- ``open_clip``: what its training composes of webdataset (read, shuffle, decode with
  Pillow, evaluation transform with normalisation, tokenizer, float32 batches);
- ``exact``: the pipeline of ``--config`` with the options under which its images are
  open_clip's pixel for pixel;
- ``config``: as configured.

Ours leave normalisation to the device, and take captions as they are (``NounPrompt``
has ``prob=0``). All take turns after a warm-up; given is the median of ``--repeat``
turns, and the ratio to open_clip's. Seconds are of processor time, so that other
programs disturb little; files should be in the page cache.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import open_clip
import torch
import webdataset as wds
from measure import medians
from mmengine.config import Config
from torch.utils.data import DataLoader

from pacl_mmseg.apis.config import load_config
from pacl_mmseg.datasets import ImageTextShards, collate_image_text
from pacl_mmseg.models.encoder import hand_to_transforms

CONFIG = Path(__file__).parents[1] / 'configs' / 'pacl_vitb16_cc12m.py'
EXACT = dict(
    LoadPILImage=dict(min_size=None, jpeg_decoder='pillow'),
    CLIPResizeCrop=dict(backend='pillow'),
)


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


def our_batches(
    shards: str, batch_size: int, cfg: Config, changes: dict
) -> Iterable[torch.Tensor]:
    """Images as the pipeline of a config batches them, after some changes."""
    configured = hand_to_transforms(cfg.train_dataloader.dataset, cfg.model)
    changes = dict(changes, NounPrompt=dict(prob=0))
    steps = [{**step, **changes.get(step['type'], {})} for step in configured.pipeline]
    dataset = ImageTextShards(shards, steps, shuffle_buffer=1000, repeat=False)
    loader = DataLoader(dataset, batch_size, collate_fn=collate_image_text)
    return (batch['inputs'] for batch in loader)


def count(batches: Callable[[], Iterable[torch.Tensor]]) -> int:
    """Read all pairs."""
    return sum(map(len, batches()))


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
    cfg = load_config(args.config)
    for shards in args.shards:
        given = shards, args.batch_size
        readers = dict(
            open_clip=partial(open_clip_batches, *given, cfg.model.encoder['model']),
            exact=partial(our_batches, *given, cfg, EXACT),
            config=partial(our_batches, *given, cfg, {}),
        )
        pairs = count(readers['config'])
        jobs = {name: partial(count, reader) for name, reader in readers.items()}
        seconds = medians(jobs, 'cpu', args.repeat)
        print(shards)
        for name, value in seconds.items():
            rate, ratio = pairs / value, seconds['open_clip'] / value
            print(f'  {name:10} {rate:6.0f} pairs/s {ratio:6.2f} x', flush=True)


if __name__ == '__main__':
    main()
