"""The recipe's open questions, answered in the small world: docs/ablations.md.

    python benchmarks/ablations.py
    python benchmarks/ablations.py --only pacl weight_scale_1 --seeds 0

Trains every config of ``configs/small_world/ablations`` once per seed, without
validation on the way, and evaluates what it ends with on the validation and on the test
split. A finished run is kept as ``<work-dir>/<name>/seed<n>/result.json`` and not
repeated: delete it to have it again. A run that fails is reported and does not stop the
others. The table of all finished runs is printed and written to ``table.md``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mmengine.config import Config

from pacl_mmseg.apis import load_config
from pacl_mmseg.benchmark.results import write_json, write_text
from pacl_mmseg.registry import RUNNERS
from pacl_mmseg.utils.names import check_name

CONFIGS = Path(__file__).resolve().parents[1] / 'configs' / 'small_world'
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
    'token stride at test (8)': {'stride_4': '4', 'stride_2': '2'},
}
ROWS = {
    name: (question, answer)
    for question, answers in QUESTIONS.items()
    for name, answer in answers.items()
}
# Rows that test the baseline's weights in another way.
TEST_ONLY = ('stride_4', 'stride_2')
# Column: split and metric. The first is what may be chosen by.
COLUMNS = {
    'val: mIoU': ('val', 'mIoU'),
    'mIoU': ('test', 'mIoU'),
    'seen': ('test', 'mIoU/seen'),
    'held-out': ('test', 'mIoU/held_out'),
    'present classes': ('test', 'present_classes/mIoU'),
    'patch accuracy': ('test', 'patch_accuracy'),
    'batch accuracy': ('train', 'decode.acc_i2t'),
}
LAST = 10  # iterations that training figures are averaged over


def config_of(name: str, seed: int) -> Config:
    """The config of a row; ``seed`` is that of weights, draws and transforms."""
    path = CONFIGS / 'ablations' / f'{name}.py'
    cfg = load_config(str(CONFIGS / 'pacl.py' if name == BASELINE else path))
    # MMEngine keeps a logger and a history of scalars for every name.
    cfg.experiment_name = f'{name}_{seed}_{time.time_ns()}'
    cfg.randomness = dict(seed=seed)
    cfg.train_dataloader.dataset.seed = seed
    return cfg


def run(name: str, seed: int, work_dir: Path) -> None:
    """Train a row, evaluate it on both splits, and keep its record."""
    start = time.time()
    folder = work_dir / name / f'seed{seed}'
    record: dict = dict(name=name, seed=seed)
    cfg = config_of(name, seed)
    cfg.work_dir = str(folder)
    cfg.train_cfg.val_begin = cfg.train_cfg.max_iters + 1
    cfg.default_hooks.checkpoint.interval = cfg.train_cfg.max_iters
    runner = RUNNERS.build(cfg)
    if name in TEST_ONLY:
        trained = work_dir / BASELINE / f'seed{seed}'
    else:
        trained = folder
        runner.train()
        record['train'] = {
            key.removeprefix('train/'): float(values.mean(LAST))
            for key, values in runner.message_hub.log_scalars.items()
            if key.startswith('train/') and 'time' not in key
        }
    runner.load_checkpoint(str(trained / f'iter_{cfg.train_cfg.max_iters}.pth'))
    for split, test in dict(val=runner.val, test=runner.test).items():
        record[split] = {k: float(v) for k, v in test().items() if 'time' not in k}
    record['seconds'] = round(time.time() - start)
    write_json(folder / 'result.json', record)


def records(work_dir: Path) -> Iterator[dict]:
    """What is finished, in the order of the table."""
    for name in ROWS:
        for file in sorted((work_dir / name).glob('seed*/result.json')):
            yield json.loads(file.read_text())


def table(results: Sequence[Mapping]) -> str:
    """Mean and sample standard deviation over the seeds, as Markdown."""
    lines = [
        f'| question (baseline) | answer | seeds | {" | ".join(COLUMNS)} |',
        f'|---|---|--:|{"--:|" * len(COLUMNS)}',
    ]
    for name, (question, answer) in ROWS.items():
        runs = [result for result in results if result['name'] == name]
        if not runs:
            continue
        cells = [
            mean_and_deviation([r[split][key] for r in runs if key in r.get(split, {})])
            for split, key in COLUMNS.values()
        ]
        lines.append(f'| {question} | {answer} | {len(runs)} | {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'


def mean_and_deviation(values: Sequence[float]) -> str:
    """Mean ± sample standard deviation, without the latter for a single value."""
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
    failures = []
    for name, seed in [(name, seed) for name in args.only for seed in args.seeds]:
        if (args.work_dir / name / f'seed{seed}' / 'result.json').exists():
            continue
        print(f'{name}, seed {seed}', flush=True)
        try:
            run(name, seed, args.work_dir)
        except Exception as error:
            traceback.print_exc()
            failures.append(f'{name}, seed {seed}: {type(error).__name__}: {error}')
    text = table(list(records(args.work_dir)))
    if text:
        args.work_dir.mkdir(parents=True, exist_ok=True)
        write_text(args.work_dir / 'table.md', text)
    print(f'\n{text}')
    if failures:
        sys.exit('\n'.join(['Failed; run again to retry:', *failures]))


if __name__ == '__main__':
    main()
