"""Patch tokens as colours: the three principal components of several images' tokens.

python tools/analysis_tools/feature_pca.py configs/small_world/clip.py
python tools/analysis_tools/feature_pca.py configs/pacl_voc20.py a.pth a.jpg b.jpg

Without image files the first test images of the config are painted (--images). Like
colours are like tokens, within one picture: docs/clippy.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.append(str(Path(__file__).resolve().parents[1]))
import cli

if TYPE_CHECKING:
    from torch import Tensor


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config of a segmentor')
    parser.add_argument(
        'files',
        nargs='*',
        metavar='[CHECKPOINT.pth] [IMAGE]',
        help='checkpoint with the trained parts, if there are any; image files',
    )
    parser.add_argument(
        '--images', default=6, type=int, metavar='N', help='test images (default: 6)'
    )
    parser.add_argument('--out', default='feature_pca.png', help='picture to write')
    cli.add_arguments(parser, '--data-root', '--cfg-options', '--traceback')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> list[float]:
    """Draw; returns the share of the variance that each component has."""
    args = parse_args(argv)
    if args.images < 1:
        raise ValueError(f'--images must be at least 1, not {args.images}.')
    checkpoint, files = cli.checkpoint_first(args.files)
    for file in files:
        if not Path(file).is_file():
            raise FileNotFoundError(f'There is no image file {file}.')
    from pacl_mmseg.apis import init_model
    from pacl_mmseg.apis.analyses import file_tokens, read_tokens
    from pacl_mmseg.ops import principal_colours

    config = cli.config_to_analyse(args, not files)
    model = init_model(config, checkpoint)
    if files:
        items = [file_tokens(model, file) for file in files]
    else:
        items = list(read_tokens(model, args.images))
    colours, shares = principal_colours([item.maps[0].cpu() for item in items])
    draw(Path(args.out), [item.picture for item in items], colours)
    told = ', '.join(f'{100 * share:.0f} %' for share in shares)
    print(f'Red, green, blue: {told} of the variance of the tokens.')
    print(f'Picture: {args.out}')
    return shares.tolist()


def draw(path: Path, pictures: Sequence[Tensor], colours: Sequence[Tensor]) -> None:
    """Images, and below each its tokens."""
    from matplotlib.figure import Figure

    from pacl_mmseg.utils import whole_file

    figure = Figure(figsize=(1.8 * len(pictures), 3.8), dpi=100)
    figure.set_layout_engine('constrained')
    axes = figure.subplots(2, len(pictures), squeeze=False)
    for column, picture, painted in zip(axes.T, pictures, colours, strict=True):
        height, width = picture.shape[:2]
        extent = (0, width, height, 0)
        column[0].imshow(picture, extent=extent)
        column[1].imshow(painted, extent=extent, interpolation='none')
    for axis in axes.flat:
        axis.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        figure.savefig(part)


if __name__ == '__main__':
    cli.run(main)
