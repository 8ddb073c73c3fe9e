"""Write the feature cache that a config trains from.

python tools/dataset_tools/cache_features.py configs/pacl_vitb16_coco_cached.py

Run again, it goes on where it was stopped, and writes damaged files anew. The encoders
run in the precision that the config gives them (model.encoder.dtype), never under
autocast: train from the cache with the same one.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

from mmengine.config import DictAction
from mmengine.device import get_device
from mmengine.registry import init_default_scope

from pacl_mmseg.apis import apply_options, load_config
from pacl_mmseg.apis.messages import reason_of
from pacl_mmseg.datasets.feature_caching import DTYPES, cache_features, check_source
from pacl_mmseg.models.encoder import hand_to_transforms
from pacl_mmseg.registry import MODELS, typed

EXPECTED_ERRORS = (OSError, RuntimeError, ValueError, ImportError, TypeError, KeyError)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config whose training data are CachedFeatures')
    parser.add_argument('--out', help='folder for the cache, if not that of the config')
    parser.add_argument(
        '--dtype',
        choices=DTYPES,
        default='bfloat16',
        help='how tokens are stored (default: bfloat16); int8 takes half the space',
    )
    parser.add_argument('--device', help='default: a GPU if there is one')
    parser.add_argument(
        '--batch-size', type=int, default=128, help='images encoded at once'
    )
    parser.add_argument(
        '--num-workers', type=int, default=4, help='processes that load images'
    )
    parser.add_argument(
        '--shard-size',
        type=int,
        default=1024,
        help='images per file, which is what a stopped run may lose',
    )
    parser.add_argument(
        '--overwrite', action='store_true', help='replace whatever cache is there'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override settings of the config, as key=value',
    )
    return parser.parse_args(argv)


def find_cached_features(config: Mapping) -> Mapping:
    """The config of ``CachedFeatures`` in that of a run, within any wrappers.

    Raises:
        ValueError: There is none.
    """
    for name, part in typed(config.get('train_dataloader')):
        if name == 'CachedFeatures':
            return part
    raise ValueError(
        'the config does not train from CachedFeatures: see '
        'configs/pacl_vitb16_coco_cached.py for one that does'
    )


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    try:
        config = load_config(args.config)
        apply_options(config, args.cfg_options)
        init_default_scope(config.get('default_scope', 'mmseg'))
        config.train_dataloader = hand_to_transforms(
            config.get('train_dataloader'), config.model
        )
        cached = find_cached_features(config)
        source, root = cached.get('source'), args.out or cached.get('root')
        if not root:
            raise ValueError('no folder for the cache: set its root, or give --out')
        check_source(source, root, args.overwrite)  # before weights are fetched
        model = MODELS.build(config.model).to(args.device or get_device())
        summary = cache_features(
            model,
            source,
            root,
            dtype=args.dtype,
            batch_size=args.batch_size,
            num_workers=args.num_workers,
            shard_size=args.shard_size,
            overwrite=args.overwrite,
        )
    except EXPECTED_ERRORS as error:
        raise SystemExit(f'cache_features: {reason_of(error)}') from error
    except KeyboardInterrupt as error:
        raise SystemExit(
            'cache_features: stopped; run it again to go on (without --overwrite)'
        ) from error
    print(summary)


if __name__ == '__main__':
    main()
