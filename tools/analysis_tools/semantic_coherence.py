"""How well the tokens of an image encoder tell classes apart between images.

python tools/analysis_tools/semantic_coherence.py configs/small_world/pacl.py

Of pairs of patches from different test images, the area under the ROC curve of the
cosine of their tokens, for one class against two; for each layer, with its interval
(docs/analyses.md). Written are coherence.json, roc.png and similarity.png: one marked
patch, and how alike all others are, of the same and of other images.
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
    import torch
    from matplotlib.figure import Figure

    from pacl_mmseg.apis.analyses import LayerReader
    from pacl_mmseg.evaluation.semantic_coherence import Coherence, PatchSample

# What is drawn: how many, and of what.
DRAWN = dict(
    images=(300, 'test images'),
    patches=(16, 'patches of each that have a class'),
    pairs=(500_000, 'pairs of these'),
    bootstrap=(200, 'times that images are drawn again, for the interval of 95 %%'),
)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config of a segmentor, with test data')
    parser.add_argument(
        'checkpoint',
        type=cli.find_shipped,
        nargs='?',
        help='what a training wrote: its encoder, and its embedder as one layer more',
    )
    for name, (default, what) in DRAWN.items():
        parser.add_argument(
            f'--{name}',
            type=int,
            default=default,
            metavar='N',
            help=f'{what} (default: {default:,})',
        )
    parser.add_argument('--seed', type=int, default=0, help='of all draws (default: 0)')
    cli.add_arguments(
        parser, '--work-dir', '--data-root', '--cfg-options', '--traceback'
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Measure; returns what is written of each layer."""
    args = parse_args(argv)
    drawn = {name: getattr(args, name) for name in DRAWN}
    for name, number in drawn.items():
        if number < 1:
            raise ValueError(f'--{name} must be at least 1, not {number}.')
    import torch

    from pacl_mmseg.apis.analyses import LayerReader
    from pacl_mmseg.benchmark.results import write_json
    from pacl_mmseg.benchmark.tables import markdown_table
    from pacl_mmseg.evaluation.semantic_coherence import semantic_coherence

    config = cli.config_to_analyse(args)
    reader = LayerReader(config, checkpoint=args.checkpoint)
    generator = torch.Generator().manual_seed(args.seed)
    sample = reader.sample(args.images, args.patches, generator)
    size = sum(tokens.nbytes for tokens in sample.tokens) / 1e6
    print(
        f'{len(sample.classes):,} patches of {len(sample.images.unique()):,} images; '
        f'their tokens of {len(sample.tokens)} layers take {size:,.0f} MB.'
    )
    layers = semantic_coherence(sample, args.pairs, args.bootstrap, generator)
    rows = [
        dict(layer=index, auroc=layer.auroc, low=layer.low, high=layer.high)
        for index, layer in enumerate(layers, 1)
    ]
    folder = Path(
        args.work_dir or Path('work_dirs/semantic_coherence', Path(args.config).stem)
    )
    folder.mkdir(parents=True, exist_ok=True)
    pairs = dict(same_class=layers[0].same, two_classes=layers[0].different)
    write_json(
        folder / 'coherence.json',
        dict(config=args.config, seed=args.seed, drawn=drawn, pairs=pairs, layers=rows),
    )
    draw_curves(folder / 'roc.png', layers)
    draw_similarity(folder / 'similarity.png', reader, sample, generator)
    print(
        f'{pairs["same_class"]:,} pairs of one class, {pairs["two_classes"]:,} of two.'
    )
    lines = [
        [str(r['layer']), *(f'{r[key]:.3f}' for key in ('auroc', 'low', 'high'))]
        for r in rows
    ]
    print('\n' + markdown_table(['layer', 'AUROC', '95 % from', 'to'], lines))
    print(f'In {folder}: coherence.json, roc.png, similarity.png')
    return rows


def draw_curves(path: Path, layers: Sequence[Coherence]) -> None:
    """The ROC curves of all layers."""
    import matplotlib
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 4.5), layout='constrained')
    axes = figure.subplots()
    colours = matplotlib.colormaps['viridis'](np.linspace(0, 0.9, len(layers)))
    for index, (layer, colour) in enumerate(zip(layers, colours, strict=True), 1):
        rates = layer.false_positive_rate, layer.true_positive_rate
        shown = np.linspace(0, len(rates[0]) - 1, 1000).astype(int)  # enough for a line
        label = f'layer {index}: {layer.auroc:.3f}'
        axes.plot(*(rate[shown] for rate in rates), color=colour, label=label)
    axes.plot([0, 1], [0, 1], color='grey', linestyle=':')
    axes.set(
        xlabel='share of pairs of two classes above a threshold',
        ylabel='share of pairs of one class',
        title='Cosine of tokens of different images',
        aspect='equal',
    )
    axes.legend(loc='lower right', fontsize=8, title='AUROC')
    save(figure, path)


def draw_similarity(
    path: Path, reader: LayerReader, sample: PatchSample, generator: torch.Generator
) -> None:
    """A marked patch, and the cosine of its token, of the last layer, with all others.

    Beside its own image three others that have its class, as far as there are any.
    """
    import torch
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
    from torch.nn import functional

    from pacl_mmseg.evaluation.semantic_coherence import unit

    drawn = int(torch.randint(len(sample.classes), (1,), generator=generator))
    own, its_class = int(sample.images[drawn]), int(sample.classes[drawn])
    of_class = sample.images[sample.classes == its_class].unique()
    indices = [own, *(int(image) for image in of_class if image != own)][:4]
    items = [next(reader.read([index])) for index in indices]
    # Of the image's patches of that class the one most within it.
    same = (items[0].classes == its_class).float()
    around = functional.avg_pool2d(same[None], 3, stride=1, padding=1)[0]
    top, left = divmod(int((same * around).argmax()), same.shape[1])
    token = unit(items[0].maps[-1][:, top, left])
    maps = [(unit(i.maps[-1].permute(1, 2, 0)) @ token).cpu() for i in items]

    figure = Figure(figsize=(2.3 * len(items) + 0.9, 4.8), layout='constrained')
    axes = figure.subplots(2, len(items), squeeze=False)
    low = min(float(values.min()) for values in maps)
    for column, item, values in zip(axes.T, items, maps, strict=True):
        rows, columns = values.shape
        extent = (0, columns, rows, 0)
        column[0].imshow(item.picture, extent=extent)
        heat = column[1].imshow(values, vmin=low, vmax=1, extent=extent)
        for axis in column:
            axis.set_axis_off()
    for axis in axes[:, 0]:
        for colour, width in (('black', 4), ('white', 2)):  # seen on any image
            frame = dict(fill=False, color=colour, linewidth=width)
            axis.add_patch(Rectangle((left, top), 1, 1, **frame))
    axes[0, 0].set_title('marked patch')
    for axis in axes[0, 1:]:
        axis.set_title('has the class too')
    figure.colorbar(heat, ax=axes[1], label='cosine')
    figure.suptitle(f'{reader.dataset.metainfo["classes"][its_class]}, last layer')
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, as a whole or not at all."""
    from pacl_mmseg.utils import whole_file

    with whole_file(path) as part:
        figure.savefig(part, dpi=100)


if __name__ == '__main__':
    cli.run(main)
