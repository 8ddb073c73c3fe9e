"""Write scenes of the small world as PNG files, to try things on.

pacl scene -n 3 -o scenes

A scene has 64 x 64 pixels, the scale that the small world's models know. No model was
trained on any of these.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import cli


def main(argv: Sequence[str] | None = None) -> list[Path]:
    """Write the scenes and print what is in them; returns the files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '-n', '--number', type=int, default=3, help='how many (default: 3)'
    )
    parser.add_argument(
        '-o', '--out', type=Path, default='scenes', help='folder (default: scenes)'
    )
    cli.add_arguments(parser, '--traceback')
    args = parser.parse_args(argv)
    if not 1 <= args.number <= 10_000:
        raise ValueError(f'--number is from 1 to 10,000, not {args.number}.')
    import shlex

    from PIL import Image

    from pacl_mmseg.datasets.small_world import render_scene
    from pacl_mmseg.utils import whole_file

    cli.make_folder(args.out)
    files, words = [], {}
    for index in range(args.number):
        scene = render_scene(index, split='test')
        path = args.out / f'scene_{index}.png'
        with whole_file(path) as part:
            Image.fromarray(scene.image).save(part)
        print(f'{path}: {", ".join(scene.nouns)}')
        files.append(path)
        words |= dict.fromkeys(scene.nouns)
    command = ['pacl', 'segment', str(args.out), *list(words)[:12], '--small-world']
    print(f'\nTo segment them:\n{shlex.join(command)}')
    return files


if __name__ == '__main__':
    cli.run(main)
