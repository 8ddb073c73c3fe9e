"""Pictures of several methods side by side, and the images of a benchmark by mIoU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.evaluation import IoUMetric
from torch import Tensor
from tqdm import tqdm

from pacl_mmseg.apis.inference import init_model
from pacl_mmseg.registry import DATASETS
from pacl_mmseg.utils import whole_file
from pacl_mmseg.visualization.drawing import shorten

SUFFIXES = ('.png', '.pdf', '.svg')
_LINES = 6  # of a legend, in an inch


@dataclass(frozen=True)
class Prediction:
    """What a method makes of an image of a benchmark.

    Attributes:
        index: Its place in the data set.
        image: As the model gets it, RGB, uint8, ``(H, W, 3)``.
        truth: Classes, ``(h, w)``.
        labels: What is predicted, likewise.
        iou: mIoU of this image in percent; NaN where no pixel is scored.
    """

    index: int
    image: np.ndarray
    truth: np.ndarray
    labels: np.ndarray
    iou: float


@dataclass(frozen=True)
class Row:
    """A row of a picture.

    Attributes:
        panels: Titles and pictures, RGB, uint8, ``(H, W, 3)``.
        legend: Names and their colours, RGB from 0 to 255.
    """

    panels: Sequence[tuple[str, np.ndarray]]
    legend: Mapping[str, Sequence[int]]


def check_suffix(path: str | Path) -> None:
    """Raise ValueError for a file that :func:`draw` does not write."""
    if Path(path).suffix.lower() not in SUFFIXES:
        raise ValueError(
            f'{path} ends in none of {", ".join(SUFFIXES)}, which say what is written.'
        )


def test_data(config: Config) -> BaseDataset:
    """The data set that a config tests on."""
    init_default_scope(config.get('default_scope', 'mmseg'))
    return DATASETS.build(config.test_dataloader.dataset)


def predict(
    config: Config,
    checkpoint: str | None = None,
    indices: Sequence[int] | None = None,
    device: str | None = None,
    progress: str | None = None,
) -> Iterator[Prediction]:
    """Segment images of the data that a config tests on.

    Args:
        config: Of a segmentor.
        checkpoint: See :func:`~pacl_mmseg.apis.init_model`.
        indices: Places in the data set; all by default.
        device: By default a GPU, where there is one.
        progress: Title of a progress bar; none by default.
    """
    dataset = test_data(config)
    indices = range(len(dataset)) if indices is None else indices
    model = init_model(config, checkpoint, device)
    loader = dict(
        config.test_dataloader,
        dataset=dataset.get_subset(list(indices)),
        sampler=dict(type='DefaultSampler', shuffle=False),
        num_workers=min(config.test_dataloader.num_workers, len(indices) // 8),
    )
    if not loader['num_workers']:
        loader.update(persistent_workers=False)
    places = iter(indices)
    hidden = dict(disable=progress is None, desc=progress, unit=' images')
    with tqdm(total=len(indices), **hidden) as bar, torch.no_grad():
        for batch in Runner.build_dataloader(loader):
            samples = model.test_step(batch)
            for image, sample in zip(batch['inputs'], samples, strict=True):
                truth = sample.gt_sem_seg.data[0].cpu()
                labels = sample.pred_sem_seg.data[0].cpu()
                yield Prediction(
                    next(places),
                    image.flip(0).permute(1, 2, 0).numpy(),
                    truth.numpy(),
                    labels.numpy(),
                    image_iou(labels, truth, model.num_classes, dataset.ignore_index),
                )
                bar.update()


def image_iou(labels: Tensor, truth: Tensor, classes: int, ignore_index: int) -> float:
    """mIoU of one image in percent, as MMSeg's ``IoUMetric`` has it.

    The mean is over the classes that the ground truth or the prediction has at a pixel
    that is scored; without any such pixel it is NaN.

    Args:
        labels, truth: ``(H, W)``.
        classes: How many there are.
        ignore_index: Of pixels that are not scored.
    """
    intersection, union, *_ = IoUMetric.intersect_and_union(
        labels, truth.to(labels), classes, ignore_index
    )
    return float(100 * (intersection / union).nanmean())


def paint(
    labels: np.ndarray, palette: Sequence[Sequence[int]], scored: np.ndarray
) -> np.ndarray:
    """Labels in colours; white where no pixel is scored.

    Args:
        labels: ``(H, W)``.
        palette: RGB of each class.
        scored: Bool, ``(H, W)``.

    Returns:
        RGB, uint8, ``(H, W, 3)``.
    """
    colours = np.array([*palette, (255, 255, 255)], dtype=np.uint8)
    return colours[np.where(scored, labels, len(palette))]


def benchmark_row(dataset: BaseDataset, predictions: Mapping[str, Prediction]) -> Row:
    """Image, ground truth and predictions of an image of a benchmark.

    Args:
        dataset: Names the classes.
        predictions: Of the same image, by the titles of methods.
    """
    first = next(iter(predictions.values()))
    scored = first.truth != dataset.ignore_index
    palette = dataset.metainfo['palette']
    panels = [(f'image {first.index}', first.image)]
    panels += [('ground truth', paint(first.truth, palette, scored))]
    pixels = np.bincount(first.truth[scored], minlength=len(palette)) * scored.size
    for title, prediction in predictions.items():
        painted = paint(prediction.labels, palette, scored)
        panels.append((f'{title}, mIoU {prediction.iou:.1f}', painted))
        pixels += np.bincount(prediction.labels[scored], minlength=len(palette))
    # First the classes that are there, then those that are wrongly found.
    order = [c for c in np.argsort(-pixels, kind='stable') if pixels[c]]
    names = dataset.metainfo['classes']
    return Row(panels, {names[c]: palette[c] for c in order})


def draw(rows: Sequence[Row], path: str | Path) -> None:
    """Write rows of pictures with a legend each.

    Args:
        rows: With equally many panels.
        path: A file that ends in one of :data:`SUFFIXES`; its folder is made.
    """
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    path = Path(path)
    columns = len(rows[0].panels)
    sizes = [picture.shape for row in rows for _, picture in row.panels]
    tall = 2.2 * min(max(max(h / w for h, w, _ in sizes), 0.4), 2.5) + 0.35
    most = max(int(tall * _LINES) - 1, 3)  # names, lest a legend reach into the next
    with pyplot.rc_context({'text.parse_math': False, 'svg.fonttype': 'none'}):
        figure, axes = pyplot.subplots(
            len(rows),
            columns + 1,
            figsize=(2.2 * columns + 1.9, tall * len(rows)),
            squeeze=False,
            layout='constrained',
        )
        for row, line in zip(rows, axes, strict=True):
            for axis, (title, picture) in zip(line, row.panels, strict=False):
                axis.imshow(picture)
                axis.set_title(title, fontsize=9)
            names = list(row.legend.items())
            shown = [
                Patch(
                    facecolor=np.divide(colour, 255),
                    edgecolor='grey',
                    # Matplotlib hides names that begin with an underscore.
                    label=f' {shorten(name, 24)}',
                )
                for name, colour in names[:most]
            ]
            if len(names) > most:
                more = f' and {len(names) - most} more'
                shown.append(Patch(alpha=0, label=more))
            legend = line[-1].legend(
                handles=shown, loc='center left', frameon=False, fontsize=8
            )
            legend.set_in_layout(False)  # it would make the pictures smaller
        for axis in axes.flat:
            axis.set_axis_off()
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part:
            figure.savefig(part, dpi=150)
        pyplot.close(figure)
