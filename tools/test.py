"""Evaluate a checkpoint, zero-shot or not.

python tools/test.py configs/pacl_voc20.py work_dirs/pacl/iter_1000.pth
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import cli
import numpy as np
from mmengine.config import ConfigDict


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Test (and evaluate) a model')
    parser.add_argument('config', help='test config file path')
    parser.add_argument(
        'checkpoint',
        nargs='?',
        type=cli.find_shipped,
        help='checkpoint file; none for models that need no training',
    )
    parser.add_argument('--out', help='directory to save predictions to, as PNG files')
    parser.add_argument('--show', action='store_true', help='show painted images')
    parser.add_argument('--show-dir', help='directory to save painted images to')
    parser.add_argument(
        '--wait-time', type=float, default=2, help='seconds to show an image for'
    )
    parser.add_argument('--tta', action='store_true', help='test time augmentation')
    cli.add_arguments(
        parser,
        *('--protocol', '--subset', '--data-root'),
        *('--work-dir', '--cfg-options', '--launcher', '--local-rank', '--traceback'),
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Test and return the metrics."""
    args = parse_args(argv)
    from mmengine.dist import is_main_process
    from mmengine.runner import Runner
    from mmseg.evaluation import IoUMetric

    from pacl_mmseg.benchmark import (
        apply_augmentation,
        describe_test,
        evaluation_record,
        format_protocol,
    )
    from pacl_mmseg.benchmark.protocols import subset_in_words
    from pacl_mmseg.benchmark.results import write_result
    from pacl_mmseg.registry import METRICS, RUNNERS, kind_of

    cfg = cli.config_from(args, 'test_dataloader')
    cfg.load_from = args.checkpoint
    if kind_of(cfg.model) == 'ZeroShotClassifier':
        drawn = ('tta', 'out', 'show', 'show_dir')
        for option in (name for name in drawn if getattr(args, name)):
            raise ValueError(
                f'--{option.replace("_", "-")} is for segmentations; this config '
                'classifies whole images.'
            )
    retrieval = kind_of(cfg.get('test_cfg')) == 'RetrievalTestLoop'
    if retrieval and args.launcher != 'none':
        raise ValueError(
            'Retrieval compares all images with all captions in one process: leave out '
            '--launcher.'
        )
    if args.tta:
        apply_augmentation(cfg)
    description = describe_test(cfg, args.checkpoint)
    draws = args.show or args.show_dir
    if (draws or args.out) and description['protocol'].get('square'):
        raise ValueError(
            'Squares are scored under this protocol, and files are no squares: for '
            'pictures and masks test without it.'
        )
    if draws:
        hooks = cfg.setdefault('default_hooks', ConfigDict())
        hooks.visualization = dict(
            type='SegVisualizationHook',
            draw=True,
            interval=1,  # upstream's MMSeg goes by it, onedl's draws all anyway
            show=args.show,
            wait_time=args.wait_time,
        )
        if args.show_dir:
            cfg.visualizer.save_dir = args.show_dir
    if args.out:
        metrics = cfg.test_evaluator  # or several
        metrics = metrics if isinstance(metrics, list) else [metrics]
        of_pixels = [m for m in metrics if issubclass(METRICS.get(m.type), IoUMetric)]
        if not of_pixels:
            raise ValueError(
                '--out needs an IoUMetric in test_evaluator, which writes.'
            )
        of_pixels[0].output_dir = args.out
    # Only what testing needs: a config may also say how to train.
    for key in ('train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler'):
        cfg[key] = None
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    if retrieval:
        images = runner.test_loop.dataloader.dataset.img_size
        metrics = runner.test_loop.evaluator.metrics
        largest = max(int(np.max(getattr(metric, 'topk', 1))) for metric in metrics)
        if images < largest:
            raise ValueError(
                f'R@{largest} needs {largest} images, and these are {images}: take '
                'more, or set test_evaluator.topk to smaller numbers.'
            )
    if args.out:
        classes = runner.test_loop.dataloader.dataset.metainfo['classes']
        if len(classes) > 254:
            raise ValueError(
                f'--out writes 8-bit images: too few for {len(classes)} classes.'
            )
    metrics = runner.test()
    if is_main_process():
        path = Path(cfg.work_dir) / 'result.json'
        write_result(path, evaluation_record(runner, metrics, description))
        runner.logger.info(format_protocol(description['protocol']))
        images = subset_in_words(description['protocol'])
        summary = ', '.join(f'{name} {value:.2f}' for name, value in metrics.items())
        runner.logger.info(f'{summary} on {images}; with all that decides it in {path}')
    return metrics


if __name__ == '__main__':
    cli.run(main)
