"""PACL from start to end in the small world, in minutes on two cores.

Freezes a tiny CLIP, trains PACL's embedder on captions alone, and compares it with the
frozen CLIP's own patch tokens and with a linear probe that was trained with masks. What
is finished is kept in the work directory and not repeated: remove it to start afresh.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cli

if TYPE_CHECKING:
    from pacl_mmseg.benchmark.grid import Cell

# Name in the table, config, and whether it is trained.
METHODS = {
    'clip': ('frozen CLIP, patch tokens', False),
    'maskclip': ('frozen CLIP, MaskCLIP', False),
    'pacl': ('PACL (captions only)', True),
    'probe': ('linear probe (masks), the ceiling', True),
}
COLUMNS = {
    'mIoU/seen': 'mIoU seen',
    'mIoU/held_out': 'mIoU held-out',
    'patch_accuracy': 'patch accuracy',
}


def cells(work_dir: Path) -> list[Cell]:
    """The four measurements; test scenes are painted into ``masks/<method>``."""
    from pacl_mmseg.apis import load_config
    from pacl_mmseg.benchmark.grid import Cell, Training
    from pacl_mmseg.paths import CONFIGS

    found = []
    for method, (_, trained) in METHODS.items():
        config = load_config(str(CONFIGS / 'small_world' / f'{method}.py'))
        training = Training(config, work_dir / method) if trained else None
        out = ('--out', str(work_dir / 'masks' / method))
        found.append(Cell(method, config, work_dir, training, out))
    return found


def table(records: Mapping[str, Mapping[str, Any]]) -> str:
    """The results as a Markdown table, in percent."""
    from pacl_mmseg.benchmark.tables import markdown_table

    rows = [
        [METHODS[method][0], *(f'{record["metrics"][key]:.1f}' for key in COLUMNS)]
        for method, record in records.items()
    ]
    return markdown_table(['', *COLUMNS.values()], rows, left=1)


def draw_grid(work_dir: Path, scenes: int = 6) -> Path:
    """Image, ground truth, CLIP and PACL of some test scenes, with a legend."""
    import matplotlib

    matplotlib.use('Agg')
    import numpy as np
    from matplotlib import pyplot
    from matplotlib.patches import Patch
    from PIL import Image

    from pacl_mmseg.datasets.small_world import (
        CLASSES,
        HELD_OUT,
        IGNORE_INDEX,
        PALETTE,
        render_scene,
    )
    from pacl_mmseg.utils import whole_file

    colours = np.full((256, 3), 255, dtype=np.uint8)  # white: not scored
    colours[: len(PALETTE)] = PALETTE
    figure, axes = pyplot.subplots(scenes, 5, figsize=(10, 2 * scenes))
    for index, row in enumerate(axes):
        scene, name = render_scene(index, split='test'), f'{index:06d}.png'
        files = [work_dir / 'masks' / method / name for method in ('clip', 'pacl')]
        labels = [scene.mask, *(np.asarray(Image.open(file)) for file in files)]
        scored = scene.mask != IGNORE_INDEX
        painted = [colours[np.where(scored, label, IGNORE_INDEX)] for label in labels]
        for axis, picture in zip(row, [scene.image, *painted], strict=False):
            axis.imshow(picture)
        row[4].legend(
            handles=[
                Patch(
                    color=colours[c] / 255,
                    label=CLASSES[c] + ('*' if CLASSES[c] in HELD_OUT else ''),
                )
                for c in np.unique(scene.mask[scored])
            ],
            loc='center left',
            frameon=False,
        )
    for axis in axes.flat:
        axis.set_axis_off()
    titles = ('image', 'ground truth', 'CLIP', 'PACL')
    for axis, title in zip(axes[0], titles, strict=False):
        axis.set_title(title)
    figure.suptitle('* never named in training. White: background, not scored.')
    figure.tight_layout()
    path = work_dir / 'grid.png'
    with whole_file(path) as part:
        figure.savefig(part, dpi=110)
    pyplot.close(figure)
    return path


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/quickstart'))
    cli.add_arguments(parser, '--traceback')
    work_dir = parser.parse_args(argv).work_dir
    from pacl_mmseg.benchmark.grid import Launcher, run_cells

    todo = cells(work_dir)
    failures = run_cells(todo, work_dir, Launcher())
    if failures:
        sys.exit('\n'.join(f'{cell.name}: {why}' for cell, why in failures.items()))
    records = {cell.name: cell.record() for cell in todo}
    print(f'\n{table(records)}')
    print('500 test scenes, 36 classes, all of which compete; background not scored;')
    print('the 6 held-out classes were never named, nor shown, while PACL trained.')
    print(f'\nPictures: {draw_grid(work_dir)}')


if __name__ == '__main__':
    cli.run(main)
