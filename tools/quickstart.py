"""PACL from start to end in the small world, in minutes on two cores.

Freezes a tiny CLIP, trains PACL's embedder on captions alone, and compares it, through
tools/test.py, with the frozen CLIP's own patch tokens and with a linear probe that was
trained with masks.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import matplotlib

matplotlib.use('Agg')

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Patch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / 'configs' / 'small_world'
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


def call(tool: str, *arguments: str, log: Path) -> None:
    """Run a tool, its output to a log file and its progress to the screen."""
    command = [sys.executable, str(ROOT / 'tools' / tool), *arguments]
    with log.open('a') as file:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for line in process.stdout:
            file.write(line)
            if 'Iter(train)' in line or ('Iter(val)' in line and 'mIoU' in line):
                print('   ', line.split('INFO - ')[-1].rstrip(), flush=True)
    if process.wait() != 0:
        tail = log.read_text().strip().splitlines()[-3:]
        sys.exit('\n'.join([f'tools/{tool} failed; the end of {log}:', *tail]))


def evaluate(method: str, work_dir: Path) -> dict[str, float]:
    """Train a method if it needs to be, test it, return its metrics in percent."""
    title, trained = METHODS[method]
    config, folder = str(CONFIGS / f'{method}.py'), work_dir / method
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / 'log.txt'
    log.unlink(missing_ok=True)
    checkpoint = []
    if trained:
        print(f'\nTraining: {title}', flush=True)
        call('train.py', config, '--work-dir', str(folder), log=log)
        checkpoint = [(folder / 'last_checkpoint').read_text()]
    print(f'Testing: {title}', flush=True)
    arguments = ['--work-dir', str(folder / 'test'), '--out', str(folder / 'masks')]
    call('test.py', config, *checkpoint, *arguments, log=log)
    newest = max(folder.glob('test/*/*.json'), key=lambda p: p.stat().st_mtime_ns)
    return json.loads(newest.read_text())


def table(results: dict[str, dict[str, float]]) -> str:
    """The results as a Markdown table."""
    width = max(len(title) for title, _ in METHODS.values())
    rows = [f'| {"":{width}} | {" | ".join(COLUMNS.values())} |']
    rule = '|'.join('-' * (len(c) + 1) + ':' for c in COLUMNS.values())
    rows.append(f'|{"-" * (width + 2)}|{rule}|')
    for method, metrics in results.items():
        cells = (f'{metrics[k]:{len(c)}.1f}' for k, c in COLUMNS.items())
        rows.append(f'| {METHODS[method][0]:{width}} | {" | ".join(cells)} |')
    return '\n'.join(rows)


def draw_grid(work_dir: Path, scenes: int = 6) -> Path:
    """Image, ground truth, CLIP and PACL of some test scenes, with a legend."""
    from pacl_mmseg.datasets.small_world import (
        CLASSES,
        HELD_OUT,
        IGNORE_INDEX,
        PALETTE,
        render_scene,
    )

    colours = np.array(PALETTE, dtype=np.uint8)
    columns = ('image', 'ground truth', 'CLIP', 'PACL')
    figure, axes = plt.subplots(scenes, 5, figsize=(10, 2 * scenes))
    for index, row in enumerate(axes):
        scene = render_scene(index, split='test')
        background = scene.mask == IGNORE_INDEX
        pictures, labels = [scene.image], [scene.mask]
        for method in ('clip', 'pacl'):
            file = work_dir / method / 'masks' / f'{index:06d}.png'
            labels.append(np.asarray(Image.open(file)))
        for label in labels:
            painted = colours[np.minimum(label, len(CLASSES) - 1)]
            painted[background] = 255  # not scored
            pictures.append(painted)
        for axis, picture, title in zip(row, pictures, columns, strict=False):
            axis.imshow(picture)
            axis.set_axis_off()
            if index == 0:
                axis.set_title(title)
        present = [c for c in np.unique(scene.mask) if c != IGNORE_INDEX]
        row[4].set_axis_off()
        row[4].legend(
            handles=[
                Patch(
                    color=colours[c] / 255,
                    label=CLASSES[c] + ('*' if CLASSES[c] in HELD_OUT else ''),
                )
                for c in present
            ],
            loc='center left',
            frameon=False,
        )
    figure.suptitle('* never named in training. White: background, not scored.')
    figure.tight_layout()
    path = work_dir / 'grid.png'
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/quickstart'))
    work_dir = parser.parse_args().work_dir
    start = time.time()
    results = {method: evaluate(method, work_dir) for method in METHODS}
    picture = draw_grid(work_dir)
    seconds = round(time.time() - start)
    report = dict(seconds=seconds, metrics=results)
    (work_dir / 'results.json').write_text(json.dumps(report, indent=2))
    print(f'\n{table(results)}\n')
    print('500 test scenes, 36 classes, all of which compete; background not scored;')
    print('the 6 held-out classes were never named, nor shown, while PACL trained.')
    print(f'\n{seconds} s. Results: {work_dir / "results.json"}, pictures: {picture}')


if __name__ == '__main__':
    main()
