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
    parser.add_argument('--out', help='folder, if not that of the config')
    parser.add_argument(
        '--dtype',
        default='bfloat16',
        help='how tokens are stored: bfloat16 (default), float32, or int8, which takes '
        'half the space',
    )
    parser.add_argument('--device', help='default: a GPU if there is one')
    parser.add_argument(
        '--batch-size', type=int, default=128, help='images encoded at once'
    )
    parser.add_argument(
        '--num-workers', type=int, default=4, help='processes that load images'
    )
    cli.add_options_argument(parser)
    cli.add_traceback_argument(parser)
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
    if not found or (args.out and len(found) > 1):
        raise ValueError(
            f'the config has LoadImageTokens in {len(found)} pipelines of its '
            'training data: see configs/pacl_vitb16_coco_cached.py for one that '
            'has it, and leave out --out where several have'
        )
    if lacking := missing_data(config, 'train_dataloader'):
        raise ValueError(lacking)  # before weights are fetched
    model = MODELS.build(config.model).to(args.device or get_device())
    for dataset, transform in found:
        done = write_token_cache(
            model,
            dataset,
            transform,
            args.out,
            dtype=args.dtype,
            batch_size=args.batch_size,
            num_workers=args.num_workers,
        )
        print(
            f'{args.out or transform["root"]}: {done["images"]:,} images '
            f'({done["written"]:,} encoded now, {sample_counts.summary()}; '
            f'{done["skipped"]:,} left out in all) in {done["bytes"] / 1e9:,.3g} '
            f'GB. {args.dtype} changes the tokens by {done["relative_error"]:.2e} '
            'of their size (root mean square).'
        )


if __name__ == '__main__':
    cli.run(main)
