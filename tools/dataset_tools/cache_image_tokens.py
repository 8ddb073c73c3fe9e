"""Write the image tokens that a config trains from, with LoadImageTokens.

python tools/dataset_tools/cache_image_tokens.py configs/pacl_vitb16_coco_cached.py

Run again, it goes on where it was stopped, and writes damaged files anew. The backbone
runs in the precision that the config gives it, never under autocast: train with the
same one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
import cli


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config that trains from LoadImageTokens')
    parser.add_argument(
        '--dtype',
        default='bfloat16',
        choices=('bfloat16', 'float32', 'int8'),
        help='how tokens are stored (default: bfloat16); int8 takes half the space',
    )
    parser.add_argument('--device', help='default: a GPU if there is one')
    cli.add_arguments(parser, '--cfg-options', '--traceback')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    from mmengine.device import get_device
    from mmengine.registry import init_default_scope

    from pacl_mmseg.apis import load_config
    from pacl_mmseg.benchmark.missing import missing_data
    from pacl_mmseg.datasets.counts import sample_counts
    from pacl_mmseg.datasets.token_cache import find_cached, write_token_cache
    from pacl_mmseg.registry import MODELS

    config = load_config(args.config, cli.options_from(args))
    init_default_scope(config.get('default_scope', 'mmseg'))
    found = list(find_cached(config))
    if not found:
        raise ValueError(
            'the training data of the config have no LoadImageTokens in a pipeline: '
            'see configs/pacl_vitb16_coco_cached.py for one that has'
        )
    if lacking := missing_data(config, 'train_dataloader'):
        raise ValueError(lacking)  # before weights are fetched
    model = MODELS.build(config.model).to(args.device or get_device())
    for dataset, transform in found:
        workers = config.train_dataloader.num_workers
        done = write_token_cache(
            model, dataset, transform, args.dtype, num_workers=workers
        )
        print(
            f'{transform["root"]}: {done["images"]:,} images in '
            f'{done["bytes"] / 1e9:,.3g} GB, {done["skipped"]:,} left out. Encoded '
            f'now: {done["written"]:,} ({sample_counts.summary()}), whose tokens '
            f'{args.dtype} changes by {done["relative_error"]:.2e} of their size (root '
            'mean square).'
        )


if __name__ == '__main__':
    cli.run(main)
