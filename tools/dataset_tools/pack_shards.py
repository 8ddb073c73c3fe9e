"""Pack image-caption pairs into webdataset shards of img2dataset's layout."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
import cli


def _column(text: str) -> int | str:
    return int(text) if text.isdigit() else text


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'annotations', help='a COCO captions .json, a .csv table, or one with tabs'
    )
    parser.add_argument('out_dir', help='folder for the shards')
    parser.add_argument('--image-root', default='', help='folder of the images')
    parser.add_argument('--shard-size', type=int, default=10000)
    parser.add_argument(
        '--one-per-image',
        action='store_true',
        help='write an image once with all its captions, not once per caption',
    )
    table = parser.add_argument_group('tables')
    table.add_argument('--path-column', type=_column, default=0, help='index or name')
    table.add_argument(
        '--caption-column', type=_column, default=1, help='index or name'
    )
    table.add_argument(
        '--header', action='store_true', default=None, help='the first row has names'
    )
    cli.add_arguments(parser, '--traceback')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from pacl_mmseg.datasets.image_text import CaptionListDataset, CocoCaptionsDataset
    from pacl_mmseg.datasets.packing import pack_shards

    prefix = dict(img_path=args.image_root)
    if args.annotations.endswith('.json'):
        dataset = CocoCaptionsDataset(args.annotations, data_prefix=prefix)
    else:
        dataset = CaptionListDataset(
            args.annotations,
            path_column=args.path_column,
            caption_column=args.caption_column,
            header=args.header,
            data_prefix=prefix,
        )
    pattern, pairs = pack_shards(
        dataset,
        args.out_dir,
        shard_size=args.shard_size,
        one_per_image=args.one_per_image,
    )
    print(f'{pairs} pairs packed; {dataset.counts.summary()}')
    print(f"shards='{pattern}'")


if __name__ == '__main__':
    cli.run(main)
