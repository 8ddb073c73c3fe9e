"""Segment an image by a config's classes, or by words: with MMSeg's arguments.

python demo/image_demo.py photo.jpg configs/pacl_voc20.py CHECKPOINT --out-file out.png

As MMSeg's, but nothing in the checkpoint is executed, and a method that has no trained
part needs none. `pacl segment` needs neither config nor checkpoint.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mmseg.apis import inference_model, show_result_pyplot

from pacl_mmseg.apis import init_model, set_vocabulary


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('img', help='image file')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', nargs='?', help='of what was trained')
    parser.add_argument('--words', nargs='+', help="default: the config's classes")
    parser.add_argument('--out-file', help='default: show it')
    parser.add_argument('--device', help='default: a GPU if there is one')
    parser.add_argument('--opacity', type=float, default=0.5, help='above 0, up to 1')
    parser.add_argument('--with-labels', action='store_true', help='write names, too')
    parser.add_argument('--title', default='result')
    args = parser.parse_args(argv)
    model = init_model(args.config, args.checkpoint, args.device)
    if args.words:
        set_vocabulary(model, args.words)
    show_result_pyplot(
        model,
        args.img,
        inference_model(model, args.img),
        title=args.title,
        opacity=args.opacity,
        with_labels=args.with_labels,
        draw_gt=False,
        show=args.out_file is None,
        out_file=args.out_file,
    )


if __name__ == '__main__':
    main()
