"""A web page to type words into: for this machine alone, unless --host says otherwise.

Upload a photo, write words, and see where they are, by one method or two. The training-
free ones download CLIP's weights when they are first used; the small world's encoder,
for scenes such as the examples, is here.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Sequence

import cli


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--small-world', action='store_true', help='offer what needs no download, alone'
    )
    parser.add_argument('--encoder', help='offer it alone: vitb16, vitl14 or rn50')
    parser.add_argument(
        '--checkpoint', type=cli.find_shipped, help='of PACL, from train.py'
    )
    parser.add_argument('--pretrained', help="file or tag of the encoder's weights")
    parser.add_argument(
        '--host',
        default='127.0.0.1',
        help='address to listen at; 0.0.0.0 lets others in (default: %(default)s)',
    )
    parser.add_argument(
        '--port', type=int, help='default: the first free one from 7860 on'
    )
    cli.add_arguments(parser, '--traceback')
    args = parser.parse_args(argv)
    from pacl_mmseg.app import serving

    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # temporary files go
    page = serving(
        args.small_world,
        args.encoder,
        args.checkpoint,
        args.pretrained,
        args.host,
        args.port,
    )
    with page as address:
        print(f'The page is at {address} until Ctrl-C.', flush=True)
        threading.Event().wait()


if __name__ == '__main__':
    cli.run(main)
