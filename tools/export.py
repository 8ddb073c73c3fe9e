"""Write a trained model as a folder to share.

python tools/export.py CONFIG CHECKPOINT FOLDER

Segmenter('FOLDER') loads it, and, uploaded to the Hugging Face hub,
Segmenter('hf-hub:user/name').
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import cli


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description='Export a trained model to share it')
    parser.add_argument('config', help='config that the checkpoint was trained by')
    parser.add_argument(
        'checkpoint',
        type=cli.find_shipped,
        help='checkpoint with the trained parts',
    )
    parser.add_argument('folder', help='new folder: tensors, settings and model card')
    parser.add_argument('--name', help="of the model, in its card; default: folder's")
    cli.add_arguments(parser, '--cfg-options', '--traceback')
    args = parser.parse_args(argv)
    from pacl_mmseg.apis import export

    options = cli.options_from(args)
    for path in export(args.config, args.checkpoint, args.folder, args.name, options):
        print(path)


if __name__ == '__main__':
    cli.run(main)
