"""Does an encoder's semantic coherence predict how well PACL aligns it?

    python benchmarks/coherence.py

In the small world, for docs/analyses.md: image encoders are trained from several seeds,
which decide weights and scenes, stopped early and late, and taken at every layer;
beside them are one from another world, the birds', and the shipped one, trained
longest. Of each, coherence is measured, and the mIoU of PACL's embedder on it, both on
the validation scenes. The text encoder is the shipped one throughout: image encoders
alone differ. What is trained is kept. Printed are a table and rank correlations;
``scatter.png`` is drawn.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from mmengine.config import Config
from safetensors.torch import load_file, save_file
from scipy.stats import spearmanr

from pacl_mmseg.apis import load_config
from pacl_mmseg.apis.analyses import LayerReader
from pacl_mmseg.benchmark.grid import Cell, Launcher, Training, run_cells
from pacl_mmseg.benchmark.results import write_text
from pacl_mmseg.benchmark.tables import markdown_table
from pacl_mmseg.engine.checkpoint import load_checkpoint_file
from pacl_mmseg.evaluation.semantic_coherence import semantic_coherence
from pacl_mmseg.models.open_clip_model import build_open_clip
from pacl_mmseg.paths import CONFIGS
from pacl_mmseg.utils import whole_file

FOLDER = CONFIGS / 'small_world'
STOPS = (0, 20, 60)  # iterations; the last is that of all layers
LAYERS = 3
SHIPPED = 'shipped'
BIRDS = 'birds'  # trained on single objects on land and water, by captions of birds
DRAWS = (0, 1, 2)  # seeds of the draws of patches and pairs


class Encoder(NamedTuple):
    """An image encoder, and the layer that PACL is trained on.

    Args:
        seed: Of its training; or ``SHIPPED``, or ``BIRDS``.
        iterations: Of it.
        layer: From 1.
    """

    seed: int | str
    iterations: int
    layer: int

    @property
    def name(self) -> str:
        return f'{self.seed}_{self.iterations}_layer{self.layer}'


def encoders(seeds: Sequence[int]) -> list[Encoder]:
    """All that are compared."""
    longest = STOPS[-1]
    others = ((SHIPPED, 400), (BIRDS, longest))
    found = [Encoder(*o, layer) for o in others for layer in range(1, LAYERS + 1)]
    for seed in seeds:
        found += [Encoder(seed, stop, LAYERS) for stop in STOPS]
        found += [Encoder(seed, longest, layer) for layer in range(1, LAYERS)]
    return found


def pretraining(seed: int | str, work_dir: Path) -> Training:
    """The training of a tiny CLIP on scenes that no other seed has."""
    cfg = load_config(str(FOLDER / 'clip_pretrain.py'))
    draws = cfg.train_dataloader.dataset
    if seed == BIRDS:
        birds = load_config(str(FOLDER / 'birds' / 'unbiased.py'))
        draws.dataset = birds.train_dataloader.dataset.dataset
        cfg.randomness, draws.seed = dict(seed=0), 0
    else:
        cfg.randomness, draws.seed = dict(seed=seed), seed
        draws.dataset.seed = 1 + seed  # 0 is the shipped one's
    cfg.train_cfg.update(max_iters=STOPS[-1], val_begin=STOPS[-1] + 1)
    cfg.param_scheduler[0].end = cfg.param_scheduler[1].begin = STOPS[1] // 2
    cfg.default_hooks.checkpoint.update(interval=STOPS[1], max_keep_ckpts=-1)
    return Training(cfg, work_dir / 'clip' / f'seed{seed}')


def write_weights(encoder: Encoder, work_dir: Path) -> Path:
    """An open_clip file of its image encoder and the shipped text encoder."""
    shipped = FOLDER / 'clip.safetensors'
    if encoder.seed == SHIPPED:
        return shipped
    training = pretraining(encoder.seed, work_dir)
    if encoder.iterations:
        path = training.folder / f'iter_{encoder.iterations}.pth'
        state = load_checkpoint_file(str(path))['state_dict']
        start = 'backbone.visual.'
        visual = {k[len(start) :]: v for k, v in state.items() if k.startswith(start)}
    else:
        model = training.config.model.encoder.model
        visual = build_open_clip(model, None, encoder.seed).visual.state_dict()
    weights = load_file(shipped)
    weights |= {f'visual.{k}': v.half().contiguous() for k, v in visual.items()}
    path = work_dir / 'clip' / f'seed{encoder.seed}_{encoder.iterations}.safetensors'
    if not path.exists():
        with whole_file(path) as part:
            save_file(weights, part)
    return path


def pacl(weights: Path, layer: int) -> Config:
    """PACL on a layer of an encoder: batches of 64, which are as good, and quick."""
    cfg = load_config(str(FOLDER / 'ablations' / 'batch_64_short.py'))
    cfg.model.encoder.pretrained = str(weights)
    cfg.model.backbone.out_indices = layer - 1
    cfg.train_cfg.val_begin = cfg.train_cfg.max_iters + 1
    cfg.default_hooks.checkpoint.interval = cfg.train_cfg.max_iters
    cfg.test_dataloader = cfg.val_dataloader  # nothing is chosen on the test split
    return cfg


def coherence(cfg: Config) -> list[list[float]]:
    """AUROC of each layer on all images, for each of ``DRAWS``."""
    reader = LayerReader(cfg)
    found = []
    for seed in DRAWS:
        generator = torch.Generator().manual_seed(seed)
        sample = reader.sample(len(reader.dataset), 16, generator)
        layers = semantic_coherence(sample, 300_000, 0, generator)
        found.append([layer.auroc for layer in layers])
    return found


def table(rows: Sequence[Mapping]) -> str:
    """The encoders and what was measured of them, as Markdown."""
    lines = [
        [
            str(row['encoder'].seed),
            str(row['encoder'].iterations),
            str(row['encoder'].layer),
            ' ± '.join(f'{of(row["auroc"]):.3f}' for of in (fmean, stdev)),
            f'{row["mIoU"]:.1f}',
        ]
        for row in rows
    ]
    header = ['encoder', 'iterations', 'layer', 'coherence (AUROC)', "PACL's mIoU"]
    return markdown_table(header, lines, left=1)


def correlations(rows: Sequence[Mapping]) -> str:
    """Spearman's rank correlation, of all encoders and of parts of them."""

    def last(row: Mapping) -> bool:
        return row['encoder'].layer == LAYERS

    parts = {
        'all encoders': rows,
        'the last layer alone': [row for row in rows if last(row)],
        'without untrained ones': [row for row in rows if row['encoder'].iterations],
    }
    for seed in dict.fromkeys(row['encoder'].seed for row in rows):
        parts[f'encoder {seed}'] = [r for r in rows if r['encoder'].seed == seed]
    lines = []
    for name, part in parts.items():
        values = [fmean(r['auroc']) for r in part], [r['mIoU'] for r in part]
        lines.append([name, str(len(part)), f'{spearmanr(*values).statistic:+.2f}'])
    return markdown_table(
        ['of', 'encoders', "Spearman's rank correlation"], lines, left=1
    )


def draw(rows: Sequence[Mapping], path: Path) -> None:
    """Coherence and mIoU of each encoder: a colour for a seed, a shape for a stop."""
    figure = Figure(figsize=(6.4, 4), layout='constrained')
    axes = figure.subplots()
    shapes = dict(zip((*STOPS, 400), 'xs^o', strict=True))
    seeds = list(dict.fromkeys(row['encoder'].seed for row in rows))
    for row in rows:
        encoder = row['encoder']
        point = fmean(row['auroc']), row['mIoU']
        colour = f'C{seeds.index(encoder.seed)}'
        axes.scatter(*point, c=colour, marker=shapes[encoder.iterations], s=45)
        if encoder.layer != LAYERS:
            axes.annotate(
                f'layer {encoder.layer}',
                point,
                (5, -3),
                textcoords='offset points',
                fontsize=7,
            )
    for iterations, shape in shapes.items():
        axes.scatter([], [], c='grey', marker=shape, label=f'{iterations} iterations')
    for seed in seeds:
        name = f'seed {seed}' if isinstance(seed, int) else seed
        axes.scatter([], [], c=f'C{seeds.index(seed)}', marker='.', label=name)
    axes.set(xlabel='semantic coherence (AUROC)', ylabel="PACL's mIoU, %")
    axes.spines[['top', 'right']].set_visible(False)
    figure.legend(loc='outside right center', fontsize=8, frameon=False)
    with whole_file(path) as part:
        figure.savefig(part, dpi=100)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/coherence'))
    args = parser.parse_args(argv)
    launcher = Launcher()
    for seed in (*args.seeds, BIRDS):
        print(f'Encoder of seed {seed}', flush=True)
        if failure := pretraining(seed, args.work_dir).run(launcher):
            sys.exit(failure)
    cells, aurocs = {}, {}
    for encoder in encoders(args.seeds):
        weights = write_weights(encoder, args.work_dir)
        cfg = pacl(weights, encoder.layer)
        training = Training(cfg, args.work_dir / 'pacl' / encoder.name)
        cells[encoder] = Cell(encoder.name, cfg, args.work_dir, training)
        if weights not in aurocs:
            aurocs[weights] = coherence(cfg)
    failures = run_cells(list(cells.values()), args.work_dir, launcher)
    if failures:
        sys.exit('\n'.join(f'{cell.name}: {why}' for cell, why in failures.items()))
    rows = []
    for encoder, cell in cells.items():
        of_seeds = aurocs[write_weights(encoder, args.work_dir)]
        auroc = [layers[encoder.layer - 1] for layers in of_seeds]
        mean_iou = cell.record()['metrics']['mIoU']
        rows.append(dict(encoder=encoder, auroc=auroc, mIoU=mean_iou))
    text = f'{table(rows)}\n{correlations(rows)}'
    write_text(args.work_dir / 'table.md', text)
    draw(rows, args.work_dir / 'scatter.png')
    print(f'\n{text}\nIn {args.work_dir}: table.md, scatter.png')


if __name__ == '__main__':
    main()
