"""Whether patch tokens fall into the segments of an image, without any class.

python tools/analysis_tools/grouping.py configs/small_world/pacl.py CHECKPOINT.pth

The tokens of each test image are put into groups by k-means; each segment of its truth
takes the best IoU of any group; printed is the mean over all segments, for several
numbers of groups, beside that of groups of places alone (docs/clippy.md). Written are
grouping.json and grouping.png: image, truth and groups of the first images.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.append(str(Path(__file__).resolve().parents[1]))
import cli

if TYPE_CHECKING:
    from torch import Tensor

    from pacl_mmseg.apis.analyses import EncodedImage

SHOWN = 6  # images in the picture


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    number = dict(type=int, metavar='N')
    parser.add_argument('config', help='config of a segmentor, with test data')
    parser.add_argument(
        'checkpoint',
        nargs='?',
        type=cli.find_shipped,
        help='with the trained parts, if there are any',
    )
    parser.add_argument(
        '--groups',
        nargs='+',
        default=[2, 3, 4, 5, 6, 8],
        **number,
        help='numbers of groups (default: 2 3 4 5 6 8)',
    )
    parser.add_argument(
        '--images', default=200, **number, help='first test images (default: 200)'
    )
    parser.add_argument('--seed', default=0, **number, help='of k-means')
    parser.add_argument(
        '--all-pixels',
        action='store_true',
        help='ignored pixels are a segment too: the background of the small world',
    )
    cli.add_arguments(
        parser, '--work-dir', '--data-root', '--cfg-options', '--traceback'
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Measure; returns what is written for each number of groups."""
    args = parse_args(argv)
    if args.images < 1:
        raise ValueError(f'--images must be at least 1, not {args.images}.')
    if min(args.groups) < 1:
        raise ValueError(f'--groups must be at least 1, not {min(args.groups)}.')
    import torch

    from pacl_mmseg.apis import init_model
    from pacl_mmseg.apis.analyses import read_tokens
    from pacl_mmseg.benchmark.results import write_json
    from pacl_mmseg.benchmark.tables import markdown_table
    from pacl_mmseg.evaluation.grouping import best_ious, group_tokens

    config = cli.config_to_analyse(args)
    model = init_model(config, args.checkpoint)
    kinds = {'tokens': lambda tokens: tokens, 'places alone': places}
    ious = {(kind, groups): [] for kind in kinds for groups in args.groups}
    shown, segments = [], 0
    for item in read_tokens(model, args.images):
        of_image, tokens, labels = {}, item.maps[0].cpu(), item.labels.cpu()
        for kind, groups in ious:
            made = group_tokens(kinds[kind](tokens), groups, args.seed)
            ignored = None if args.all_pixels else item.ignore_index
            ious[kind, groups].append(best_ious(made, labels, ignored))
            of_image[kind, groups] = made
        segments += len(ious[kind, groups][-1])
        if len(shown) < SHOWN:
            shown.append((item, [of_image['tokens', n] for n in args.groups]))
    if not segments:
        raise ValueError('No pixel of these images has a label that counts.')
    rows = [
        dict(groups=groups)
        | {kind: 100 * float(torch.cat(ious[kind, groups]).mean()) for kind in kinds}
        for groups in args.groups
    ]
    folder = Path(args.work_dir or Path('work_dirs/grouping', Path(args.config).stem))
    folder.mkdir(parents=True, exist_ok=True)
    found = dict(images=len(ious[kind, groups]), segments=segments)
    write_json(
        folder / 'grouping.json',
        dict(
            config=args.config,
            seed=args.seed,
            all_pixels=args.all_pixels,
            **found,
            rows=rows,
        ),
    )
    draw(folder / 'grouping.png', shown, args.groups)
    print(f'{found["images"]:,} images with {segments:,} segments.')
    lines = [
        [str(row['groups']), *(f'{row[kind]:.1f}' for kind in kinds)] for row in rows
    ]
    header = ['groups', 'Jaccard index', 'of places alone']
    print('\n' + markdown_table(header, lines, left=0))
    print(f'In {folder}: grouping.json, grouping.png')
    return rows


def places(tokens: Tensor) -> Tensor:
    """In place of tokens, where they are: what k-means makes of no content."""
    import torch

    height, width = tokens.shape[1:]
    rows = (torch.arange(height) + 0.5) / height - 0.5
    columns = (torch.arange(width) + 0.5) / width - 0.5
    rows, columns = torch.meshgrid(rows, columns, indexing='ij')
    # On a sphere so large that directions differ as places do.
    return torch.stack([rows, columns, torch.full_like(rows, 10)])


def draw(
    path: Path, shown: Sequence[tuple[EncodedImage, list[Tensor]]], groups: list[int]
) -> None:
    """A row for each image: it, its truth, and its tokens' groups."""
    import numpy as np
    from matplotlib.figure import Figure

    from pacl_mmseg.utils import whole_file

    figure = Figure(figsize=(1.5 * (len(groups) + 2), 1.6 * len(shown)), dpi=100)
    figure.set_layout_engine('constrained')
    axes = figure.subplots(len(shown), len(groups) + 2, squeeze=False)
    for row, (item, made) in zip(axes, shown, strict=True):
        labels = item.labels.cpu()
        # Segments in the order of their labels; ignored pixels stay white.
        truth = labels.unique(return_inverse=True)[1].numpy()
        truth = np.ma.masked_where(labels.numpy() == item.ignore_index, truth)
        row[0].imshow(item.picture)
        for axis, picture in zip(row[1:], (truth, *made), strict=True):
            axis.imshow(picture, cmap='tab10', vmin=0, vmax=9, interpolation='none')
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, title in zip(axes[0], ('image', 'truth', *groups), strict=True):
        axis.set_title(title, fontsize=9)
    with whole_file(path) as part:
        figure.savefig(part)


if __name__ == '__main__':
    cli.run(main)
