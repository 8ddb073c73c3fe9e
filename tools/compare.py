"""Draw what several methods make of a photo, or of images of a benchmark.

pacl compare photo.jpg cat sofa --methods clip maskclip naclip -o compare.png
pacl compare --benchmark voc20 --index 17 --methods clip naclip -o compare.pdf
pacl compare --benchmark voc20 --worst 10 --best 10 --methods naclip -o compare.svg
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import cli

METHODS = ['clip', 'maskclip', 'sclip', 'naclip']
MOST_ROWS = 100
OPACITY = 0.75  # colours as in the legend, and the photo still shines through
OF_BENCHMARKS = ('index', 'worst', 'best', 'subset', 'data_root')


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('photo', nargs='?', help='image file')
    parser.add_argument(
        'words', nargs='*', help='what is in it; "cat, kitten" is one thing, two names'
    )
    parser.add_argument(
        '--methods',
        nargs='+',
        default=METHODS,
        help=f'as of tools/benchmark.py (default: {" ".join(METHODS)})',
    )
    parser.add_argument(
        '--checkpoint',
        nargs='+',
        default=[],
        metavar='METHOD=FILE',
        help='checkpoint of each trained method',
    )
    parser.add_argument('--encoder', help='vitb16 (the default), vitl14 or rn50')
    parser.add_argument('--pretrained', help="file or tag of the encoder's weights")
    parser.add_argument('--device', help='default: a GPU if there is one')
    parser.add_argument(
        '--small-world',
        action='store_true',
        help="the tiny encoder of the quickstart's scenes, which needs no download",
    )
    parser.add_argument(
        '-o', '--out', default='compare.png', help='.png, .pdf or .svg file'
    )
    group = parser.add_argument_group('instead of a photo')
    group.add_argument(
        '--benchmark', help="say voc20, by sclip's protocol, or small_world"
    )
    group.add_argument(
        '--index', nargs='+', type=int, help='places of images in it, from 0'
    )
    group.add_argument(
        '--worst', type=int, help='images of the lowest mIoU, on average of the methods'
    )
    group.add_argument('--best', type=int, help='likewise of the highest')
    cli.add_arguments(group, '--subset', '--data-root')
    cli.add_arguments(parser, '--traceback')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if args.photo is not None:
        cli.check_source(Path(args.photo))
    from pacl_mmseg.benchmark.comparison import check_suffix

    check_suffix(args.out)
    cli.make_folder(Path(args.out).parent)
    pairs = [item.partition('=')[::2] for item in args.checkpoint]
    checkpoints = {method: cli.find_shipped(file) for method, file in pairs}
    args.methods = [*dict.fromkeys(args.methods)]
    if len(checkpoints) < len(pairs) or not checkpoints.keys() <= {*args.methods}:
        raise ValueError('--checkpoint METHOD=FILE is once for methods that are drawn.')
    if args.benchmark is None:
        if foreign := [name for name in OF_BENCHMARKS if vars(args)[name] is not None]:
            option = foreign[0].replace('_', '-')
            raise ValueError(f'--{option} is for --benchmark NAME.')
        if args.photo is None:
            raise ValueError('Give a photo and words, or --benchmark NAME.')
        rows = of_photo(args, checkpoints)
    else:
        if args.photo is not None or args.small_world:
            raise ValueError(
                'A benchmark has its own images and classes, and --benchmark '
                'small_world its own encoder: leave photo, words and --small-world out.'
            )
        rows = of_benchmark(args, checkpoints)
    from pacl_mmseg.benchmark.comparison import draw

    draw(rows, args.out)
    print(args.out)


def of_photo(args: argparse.Namespace, checkpoints: dict[str, str]) -> list:
    """The one row of a photo."""
    from pacl_mmseg import Segmenter
    from pacl_mmseg.apis.images import read_image
    from pacl_mmseg.benchmark import METHODS
    from pacl_mmseg.benchmark.comparison import Row
    from pacl_mmseg.prompts.words import read_words
    from pacl_mmseg.utils import check_name

    for method in args.methods:
        check_name('method', method, METHODS)
    read_words(args.words)
    image = read_image(args.photo)
    panels = [(Path(args.photo).name, image)]
    for method in args.methods:
        segmenter = Segmenter(
            method,
            checkpoint=checkpoints.get(method),
            encoder=args.encoder,
            pretrained=args.pretrained,
            world='small' if args.small_world else None,
            device=args.device,
        )
        result = segmenter(image, args.words)
        panels.append((METHODS[method].title, result.overlay(OPACITY)))
    return [Row(panels, dict(zip(result.words, result.palette, strict=True)))]


def of_benchmark(args: argparse.Namespace, checkpoints: dict[str, str]) -> list:
    """Rows of images of a benchmark: those asked for, the worst, the best."""
    import numpy as np
    from mmengine.logging import MMLogger

    from pacl_mmseg.benchmark import METHODS, compose
    from pacl_mmseg.benchmark.comparison import benchmark_row, predict, test_data
    from pacl_mmseg.benchmark.missing import missing_data, missing_weights
    from pacl_mmseg.paths import CONFIGS
    from pacl_mmseg.utils import check_name

    cli.set_data_root(args)
    options = {}
    if args.pretrained is not None:
        options['model.encoder.pretrained'] = args.pretrained
    if args.subset is not None:
        options['test_dataloader.dataset.indices'] = args.subset
    encoder = args.encoder or 'vitb16'
    configs = {}
    # MMEngine remarks on every environment variable in every config; not here.
    MMLogger.get_current_instance().setLevel('WARNING')
    for method in args.methods:
        check_name('method', method, METHODS)
        configs[method] = compose(method, args.benchmark, 'sclip', options, encoder)
        if method in checkpoints and not METHODS[method].trained:
            raise ValueError(f'{METHODS[method].title} takes no checkpoint.')
        if args.benchmark == 'small_world' and method == 'pacl':
            shipped = CONFIGS / 'small_world' / 'pacl.safetensors'
            checkpoints.setdefault(method, str(shipped))
        if METHODS[method].trained and method not in checkpoints:
            raise ValueError(f'Give --checkpoint {method}=FILE: {method} is trained.')
        config = configs[method]
        if lacking := missing_data(config) or missing_weights(config, fetch=True):
            raise ValueError(lacking)
    dataset = test_data(next(iter(configs.values())))
    chosen = list(args.index or [])
    for index in chosen:
        if not 0 <= index < len(dataset):
            raise ValueError(
                f'{args.benchmark} has images 0 to {len(dataset) - 1}, not {index}.'
            )
    worst, best = args.worst or 0, args.best or 0
    if min(worst, best) < 0 or not 1 <= len(chosen) + worst + best <= MOST_ROWS:
        raise ValueError(
            f'Give --index, --worst or --best, of 1 to {MOST_ROWS} images in all.'
        )

    def predictions(method: str, *places: Sequence[int], **options: str) -> Iterator:
        weights = checkpoints.get(method)
        return predict(configs[method], weights, *places, device=args.device, **options)

    if worst or best:
        of_methods = [[p.iou for p in predictions(m, progress=m)] for m in configs]
        ious = np.mean(of_methods, axis=0)
        order = np.argsort(ious)  # NaN, of images without scored pixels, comes last
        order = order[: np.isfinite(ious).sum()].tolist()
        chosen += order[:worst] + order[max(len(order) - best, 0) :]
    chosen = [*dict.fromkeys(chosen)]
    found = {METHODS[m].title: [*predictions(m, chosen)] for m in configs}
    return [
        benchmark_row(dataset, {title: of[row] for title, of in found.items()})
        for row in range(len(chosen))
    ]


if __name__ == '__main__':
    cli.run(main)
