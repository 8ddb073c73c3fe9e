"""The recipe's open questions, and what the paper leaves to the future, answered in
the small world: docs/ablations.md.

    python benchmarks/ablations.py
    python benchmarks/ablations.py --only pacl weight_scale_1 --seeds 0

Trains every config of ``configs/small_world/ablations``, ``future`` and ``birds`` once
per seed, without validation on the way, and evaluates what it ends with on the
validation and on the test split; towers trained from scratch also on whole images, as
classifiers and by retrieval. What is finished is kept in the work directory and not
repeated; what fails is reported and does not stop the rest. The tables are printed and
written to ``table.md``.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmengine.config import ConfigDict

from pacl_mmseg.apis import load_config
from pacl_mmseg.benchmark.grid import Cell, Launcher, Training, run_cells
from pacl_mmseg.benchmark.results import write_text
from pacl_mmseg.benchmark.tables import markdown_table
from pacl_mmseg.paths import CONFIGS
from pacl_mmseg.utils.names import check_name

BASELINE = 'pacl'
# Question, with the baseline's answer; config: the row's answer.
QUESTIONS = {
    'none: the baseline': {BASELINE: ''},
    'weight scale of the softmax (10)': {
        'weight_scale_1': '1',
        'weight_scale_100': '100',
        'weight_scale_learnt': 'learnt, from 10',
        'weight_scale_learnt_from_1': 'learnt, from 1',
    },
    'unit tokens first (no)': {'normalize_first': 'yes'},
    'pooled vector re-normalised (yes)': {
        'no_renormalize': 'no',
        'normalize_first_only': 'no, but unit tokens first',
    },
    'temperature of the loss (0.07)': {
        'temperature_003': '0.03',
        'temperature_01': '0.1',
        'temperature_learnt': 'learnt, from 0.07',
    },
    'batch size (256)': {
        'batch_64': '64, equal samples',
        'batch_64_short': '64, equal iterations',
        'batch_1024': '1024, equal samples',
        'batch_1024_long': '1024, equal iterations',
        'batch_4096': '4096, equal samples',
    },
    'pooling (for each text)': {
        'own_caption': 'for its own text only',
        'own_caption_captions': 'likewise, captions alone',
    },
    'texts (noun prompts)': {
        'captions': 'captions',
        'captions_and_nouns': 'half and half',
    },
    'embedder (residual block)': {
        'embedder_linear': 'linear',
        'embedder_4_layers': '4 layers beside the skip',
    },
    'vision tower (CLIP), batches of 64': {
        'pacl_selfsup': 'MAE, trained without texts',
        'random_tower': 'random weights',
    },
    'token stride at test (8)': {'stride_4': '4', 'stride_2': '2'},
}
# What the paper leaves to the future.
FUTURE = {
    'alignment, batches of 16 (PACL)': {
        'batch_16': 'PACL',
        'cross_attention': 'cross-attention',
    },
    'self-supervised loss beside it, batches of 16 (none)': {
        'neighbours': 'neighbours alike',
    },
    'both towers from scratch, by': {
        'scratch_cls': 'class token',
        'scratch_phi': 'φ',
        'scratch_both': 'both',
        'clippy_exact': 'maximum over tokens (CLIPpy)',
        'scratch_phi_neighbours': 'φ, neighbours alike',
    },
}
VIDEO = {
    'video: scores averaged over time': {
        'video': 'no',
        'video_average': 'in place',
        'video_flow': 'along optical flow',
        'video_exact_flow': 'along the exact flow',
    },
}
BIRDS = {
    'birds, by φ; trained': {'unbiased': 'without bias', 'biased': 'with bias'},
    'birds, by the maximum over tokens; trained': {
        'unbiased_max': 'without bias',
        'biased_max': 'with bias',
    },
}
# Rows that test the baseline's weights in another way.
TEST_ONLY = ('stride_4', 'stride_2', *VIDEO['video: scores averaged over time'])
# Column: split and metric. The first is what may be chosen by.
COLUMNS = {
    'val: mIoU': ('val', 'mIoU'),
    'mIoU': ('test', 'mIoU'),
    'seen': ('test', 'mIoU/seen'),
    'held-out': ('test', 'mIoU/held_out'),
    'present classes': ('test', 'present_classes/mIoU'),
    'patch accuracy': ('test', 'patch_accuracy'),
}
VIDEO_COLUMNS = {
    'val: mIoU': ('val', 'mIoU'),
    'val: flicker': ('val', 'flicker'),
    'mIoU': ('test', 'mIoU'),
    'seen': ('test', 'mIoU/seen'),
    'held-out': ('test', 'mIoU/held_out'),
    'patch accuracy': ('test', 'patch_accuracy'),
    'flicker': ('test', 'flicker'),
}
BIRD_COLUMNS = {
    'val: all': ('val', 'accuracy'),
    'all': ('test', 'accuracy'),
    'worst group': ('test', 'worst_group'),
    'gap': ('test', 'gap'),
    **{
        f'{bird} on {place}': ('test', f'group/{bird} on {place}')
        for bird in ('landbird', 'waterbird')
        for place in ('land', 'water')
    },
}
TABLES = (
    (QUESTIONS, COLUMNS),
    (FUTURE, COLUMNS),
    (VIDEO, VIDEO_COLUMNS),
    (BIRDS, BIRD_COLUMNS),
)
# Compatibilities by which rows are tested on whole images.
WHOLE_IMAGES = {
    'scratch_cls': ('cls',),
    'scratch_phi': ('softmax',),
    'scratch_both': ('softmax', 'cls'),
    'clippy_exact': ('max',),
}
COMPATIBILITIES = {'cls': 'class token', 'softmax': 'φ', 'max': 'maximum over tokens'}
ROWS = {
    name: (question, answer)
    for questions, _ in TABLES
    for question, answers in questions.items()
    for name, answer in answers.items()
}


def training(name: str, seed: int, work_dir: Path) -> Training:
    """The training of a row; ``seed`` is that of weights, draws and transforms."""
    world = CONFIGS / 'small_world'
    folders = world, *(world / name for name in ('ablations', 'future', 'birds'))
    paths = (folder / f'{name}.py' for folder in folders)
    cfg = load_config(str(next(path for path in paths if path.is_file())))
    cfg.randomness = dict(seed=seed)
    cfg.train_dataloader.dataset.seed = seed
    cfg.train_cfg.val_begin = cfg.train_cfg.max_iters + 1
    cfg.default_hooks.checkpoint.interval = cfg.train_cfg.max_iters
    return Training(cfg, work_dir / name / f'seed{seed}')


def cells(name: str, seed: int, work_dir: Path) -> list[Cell]:
    """A row's measurements with one seed: on both splits, and on whole images."""
    own = training(name, seed, work_dir)
    weights = training(BASELINE, seed, work_dir) if name in TEST_ONLY else own
    found = []
    for split in ('val', 'test'):
        cfg = copy.deepcopy(own.config)
        cfg.test_dataloader = cfg[f'{split}_dataloader']
        found.append(Cell(f'{name}/seed{seed}/{split}', cfg, work_dir, weights))
    for mode in WHOLE_IMAGES.get(name, ()):
        for kind in ('classification', 'retrieval'):
            cfg = load_config(str(CONFIGS / kind / 'pacl_small_world.py'))
            cfg.model = classifier(own.config.model, mode)
            cell = f'{name}/seed{seed}/{kind}_{mode}'
            found.append(Cell(cell, cfg, work_dir, own))
    return found


def classifier(segmentor: ConfigDict, mode: str) -> ConfigDict:
    """The model that classifies by one of the compatibilities that trained these."""
    model = copy.deepcopy(segmentor)
    model.update(type='ZeroShotClassifier', train_cfg=None, test_cfg=None)
    head = model.decode_head
    second = head.pop('second_compatibility', None)
    if head.compatibility.mode != mode:
        head.compatibility = second
    return model


def tables(measured: Sequence[Cell]) -> str:
    """Mean and sample standard deviation over the seeds, as Markdown."""
    values: dict[str, dict[str, list[dict]]] = {}
    for cell in measured:
        if record := cell.record():
            name, _, what = cell.name.split('/')
            values.setdefault(name, {}).setdefault(what, []).append(record['metrics'])

    def row(name: str, columns: Mapping[str, tuple[str, str]]) -> list[str]:
        of_seeds = [
            [metrics[key] for metrics in values[name].get(what, ())]
            for what, key in columns.values()
        ]
        return [str(max(map(len, of_seeds))), *map(mean_and_deviation, of_seeds)]

    found = []
    for questions, columns in TABLES:
        rows = [
            [*ROWS[name], *row(name, columns)]
            for answers in questions.values()
            for name in answers
            if name in values
        ]
        if rows:
            header = ['question (baseline)', 'answer', 'seeds', *columns]
            found.append(markdown_table(header, rows, left=2))
    rows = [
        [ROWS[name][1], COMPATIBILITIES[mode], *row(name, whole_columns(mode))]
        for name, modes in WHOLE_IMAGES.items()
        for mode in modes
        if name in values
    ]
    if rows:
        header = ['trained by', 'tested by', 'seeds', *whole_columns('')]
        found.append(markdown_table(header, rows, left=2))
    return '\n'.join(found)


def whole_columns(mode: str) -> dict[str, tuple[str, str]]:
    """As :data:`COLUMNS`, of tests on whole images by a compatibility."""
    retrieval = f'retrieval_{mode}'
    return {
        'objects, top-1': (f'classification_{mode}', 'accuracy/top1'),
        'image to text R@1': (retrieval, 'i2t/retrieval/Recall@1'),
        'text to image R@1': (retrieval, 't2i/retrieval/Recall@1'),
    }


def mean_and_deviation(values: Sequence[float | None]) -> str:
    """Mean ± sample standard deviation, without the latter for a single value."""
    values = [value for value in values if value is not None]  # not finite
    if not values:
        return ''
    mean = f'{statistics.fmean(values):.1f}'
    return f'{mean} ± {statistics.stdev(values):.1f}' if len(values) > 1 else mean


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--only', nargs='+', default=list(ROWS), metavar='NAME')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/ablations'))
    args = parser.parse_args(argv)
    for name in args.only:
        check_name('ablation', name, ROWS)
    todo = [
        cell
        for name in sorted(args.only, key=list(ROWS).index)
        for seed in args.seeds
        for cell in cells(name, seed, args.work_dir)
    ]
    failures = run_cells(
        todo,
        args.work_dir,
        Launcher(),
        lambda _: write_text(args.work_dir / 'table.md', tables(todo)),
    )
    print(f'\n{tables(todo)}')
    if failures:
        lines = [f'{cell.name}: {why}' for cell, why in failures.items()]
        sys.exit('\n'.join(['Failed; run again to retry:', *lines]))


if __name__ == '__main__':
    main()
