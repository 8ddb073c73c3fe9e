"""Segment a photo, a folder of photos or a video by words of your own.

pacl segment photo.jpg "cat, kitten" sofa "wooden floor" -o segmented

"cat, kitten" is one thing of two names. Every pixel gets one of the words, so name the
rest, too. The results of photo.jpg are in segmented/photo.jpg: overlay.png, labels.png,
heat_maps/ and areas.json. Those of a folder that are finished are kept when it is
segmented again, unless photo, words or settings are others. Of a video each frame is
segmented for itself, and there is no sound.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cli


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('source', type=Path, help='image, folder of images, or video')
    parser.add_argument('words', nargs='+', help='two or more')
    parser.add_argument(
        '-o', '--out', type=Path, default='segmented', help='default: segmented'
    )
    parser.add_argument(
        '--method',
        help='clip, maskclip, sclip, clearclip or naclip (the default), which need no '
        'training; pacl, clippy or nms05, which need --checkpoint; or what pacl export '
        'wrote, a folder or hf-hub:user/name',
    )
    parser.add_argument(
        '--checkpoint', type=cli.find_shipped, help='of a trained method'
    )
    parser.add_argument('--encoder', help='vitb16 (the default), vitl14 or rn50')
    parser.add_argument('--pretrained', help="file or tag of the encoder's weights")
    parser.add_argument('--device', help='default: a GPU if there is one')
    parser.add_argument(
        '--small-world',
        action='store_true',
        help='the tiny encoder for what pacl scene writes, which needs no download; by '
        'default with pacl, of which it has a checkpoint',
    )
    parser.add_argument(
        '--heat-maps',
        type=int,
        default=20,
        metavar='N',
        help='at most so many, of the largest areas; of a video, of the first words '
        '(default: 20)',
    )
    parser.add_argument(
        '--opacity', type=float, default=0.6, help='of colours, 0 to 1 (default: 0.6)'
    )
    parser.add_argument(
        '--threshold',
        type=float,
        metavar='P',
        help='in the overlay, pixels whose best word has a lower probability stay bare '
        '(default: none do)',
    )
    parser.add_argument(
        '--short-side',
        type=int,
        metavar='PIXELS',
        help='to which the shorter side is brought for the model (default: 336 of most '
        'models)',
    )
    cli.add_arguments(parser, '--traceback')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> bool:
    """Segment; returns whether all images could be."""
    args = parse_args(argv)
    cli.check_source(args.source)
    if args.heat_maps < 0 or not 0 <= args.opacity <= 1:
        raise ValueError('--heat-maps is 0 or more, and --opacity from 0 to 1.')
    if args.threshold is not None and not 0 <= args.threshold <= 1:
        raise ValueError(f'--threshold is from 0 to 1, not {args.threshold:g}.')
    from pacl_mmseg import Segmenter
    from pacl_mmseg.apis.files import (
        VIDEOS,
        find_images,
        printable,
        segment_images,
        segment_video,
    )
    from pacl_mmseg.prompts.words import read_words

    read_words(args.words)  # before weights are fetched
    is_folder = args.source.is_dir()
    images, others = [args.source], 0
    if is_folder:
        images, others = find_images(args.source, args.out)
        if not images:
            raise ValueError(
                f'There is no image in {args.source}; videos are segmented one by one.'
            )
    cli.make_folder(args.out)
    method = args.method or ('pacl' if args.small_world else 'naclip')
    options = dict(
        checkpoint=args.checkpoint,
        encoder=args.encoder,
        pretrained=args.pretrained,
        world='small' if args.small_world else None,
    )
    segmenter = Segmenter(method, device=args.device, **options)
    given = (segmenter, args.words)
    settings = all_settings(method, options, segmenter.checkpoint)
    drawing = (args.heat_maps, args.opacity, args.threshold, args.short_side)
    if not is_folder and args.source.suffix.lower() in VIDEOS:
        place, areas = segment_video(*given, args.source, args.out, settings, *drawing)
        report(place, areas)
        return True
    root = args.source if is_folder else args.source.parent
    done, failures = segment_images(*given, images, root, args.out, settings, *drawing)
    if args.small_world:
        warn_of_photos(done)
    if not is_folder:
        for reason in failures.values():
            raise ValueError(reason)
        report(*next(iter(done.items())))
        return True
    kept = sum(areas is None for areas in done.values())
    print(
        f'{len(done)} of {len(images)} images are segmented in {printable(args.out)}, '
        f'{kept} of them before.'
    )
    if others:
        print(f'Files left out, since their names are not of images: {others}.')
    for reason in failures.values():
        print(f'Not segmented: {printable(reason)}', file=sys.stderr)
    return not failures


def all_settings(
    method: str, options: Mapping[str, Any], checkpoint: str | None
) -> dict[str, Any]:
    """What results are made by; of files also what tells them from later ones."""
    from pacl_mmseg import __version__
    from pacl_mmseg.apis.export import HUB
    from pacl_mmseg.apis.files import stamp

    settings = dict(options, method=method, version=__version__)
    for name in ('method', 'checkpoint', 'pretrained'):
        if settings[name] is not None and os.path.exists(settings[name]):
            settings[name] = stamp(settings[name])
    if method.startswith(HUB):  # in its cache a folder is named by the commit
        settings['method'] = [method, Path(checkpoint).parent.name]
    return settings


def warn_of_photos(places: Iterable[Path]) -> None:
    """Say of results in the small world if they are of no scenes, by their sizes."""
    for place in places:
        found = json.loads((place / 'areas.json').read_text(encoding='utf-8'))
        if (found['width'], found['height']) != (64, 64):
            print(
                'The small world knows scenes alone, such as pacl scene writes: of '
                'photos this means nothing.',
                file=sys.stderr,
            )
            return


def report(place: Path, areas: Mapping[str, float] | None) -> None:
    """Say where the result is, and what has which share of it."""
    from pacl_mmseg.apis.files import printable

    if areas is None:
        print(f'Finished before, by the same settings: {printable(place)}')
        return
    for word, share in sorted(areas.items(), key=lambda item: -item[1]):
        print(f'{share:6.1%}  {word}')
    print(printable(place))


if __name__ == '__main__':
    cli.run(lambda: main() or sys.exit(1))
