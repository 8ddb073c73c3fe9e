"""Where in an image texts are: a picture of the activation of its patches for prompts.

python tools/analysis_tools/activation_map.py configs/small_world/maskclip.py \
    scene.png 'a striped red shape' 'a photo of the large dotted blue.'

A checkpoint goes after the config, where the model has trained parts. In place of an
image, --pointing measures how often the most active patch for a class is of it, on the
config's test data (docs/analyses.md).
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
        'words',
        nargs='*',
        metavar='[CHECKPOINT.pth] IMAGE PROMPT',
        help='checkpoint with the trained parts, if there are any; image file; prompts',
    )
    parser.add_argument(
        '--pointing', action='store_true', help='measure in place of drawing'
    )
    parser.add_argument(
        '--mode',
        default='cosine',
        choices=('cosine', 'softmax', 'sigmoid'),
        help="cosine; PACL's softmax weights; NMS05's sigmoid (default: cosine)",
    )
    parser.add_argument(
        '--weight-scale',
        type=float,
        help="factor on cosines; default: the model's, else 1 (softmax), 10 (sigmoid)",
    )
    parser.add_argument(
        '--blur',
        type=float,
        default=0,
        help='deviation, in patches, of a Gaussian of 3 x 3 patches (default: none)',
    )
    parser.add_argument('--out', default='activation.png', help='picture to write')
    cli.add_arguments(parser, '--data-root', '--cfg-options', '--traceback')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> dict[str, float] | None:
    """Draw, or measure and return that."""
    args = parse_args(argv)
    checkpoint, words = cli.checkpoint_first(args.words)
    if args.pointing == bool(words) or len(words) == 1:
        raise ValueError('Give an image and at least one prompt, or --pointing alone.')
    from pacl_mmseg.apis import init_model
    from pacl_mmseg.apis.analyses import activate, pointing_accuracy

    config = cli.config_to_analyse(args, args.pointing)
    if words and not Path(words[0]).is_file():
        raise FileNotFoundError(f'There is no image file {words[0]}.')
    model = init_model(config, checkpoint)
    options = dict(mode=args.mode, weight_scale=args.weight_scale, blur=args.blur)
    if args.pointing:
        measured = pointing_accuracy(model, **options)
        print(
            f'Pointing accuracy {measured["accuracy"]:.1f} %, by chance '
            f'{measured["chance"]:.1f} %, of {measured["pairs"]:,} classes in images.'
        )
        return measured
    image, *prompts = words
    maps, picture = activate(model, image, prompts, **options)
    draw(Path(args.out), maps.cpu(), picture, prompts, args.mode)
    for prompt, values in zip(prompts, maps, strict=True):
        print(f'{prompt}: from {float(values.min()):.3f} to {float(values.max()):.3f}')
    print(f'Picture: {args.out}')
    return None


def draw(
    path: Path, maps: Tensor, picture: Tensor, prompts: Sequence[str], mode: str
) -> None:
    """The image, and a map beside it for each prompt, all on one scale."""
    from matplotlib.figure import Figure

    from pacl_mmseg.utils import whole_file

    count = len(prompts) + 1
    figure = Figure(figsize=(2.6 * count + 0.8, 3), layout='constrained')
    axes = figure.subplots(1, count)
    for axis, title in zip(axes, ('image', *prompts), strict=True):
        axis.set_axis_off()
        axis.set_title(title, fontsize=9, wrap=True, parse_math=False)  # a prompt
    height, width = picture.shape[:2]
    extent = (0, width, height, 0)  # patches as large as they are
    axes[0].imshow(picture, extent=extent)
    low, high = float(maps.min()), float(maps.max())
    for axis, values in zip(axes[1:], maps, strict=True):
        heat = axis.imshow(values, vmin=low, vmax=high, extent=extent)
    figure.colorbar(heat, ax=axes[1:], label=mode)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        figure.savefig(part, dpi=100)


if __name__ == '__main__':
    cli.run(main)
