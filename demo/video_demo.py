r"""Segment a video by a config's classes, or by words: with MMSeg's arguments.

python demo/video_demo.py video.mp4 configs/pacl_voc20.py CHECKPOINT \
    --output-file out.mp4

As MMSeg's, but nothing in the checkpoint is executed, and a method that has no trained
part needs none. Frames are segmented one by one. `pacl segment` needs neither config
nor checkpoint.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from mmseg.apis import inference_model, show_result_pyplot

from pacl_mmseg.apis import init_model, set_vocabulary


def frames(video: cv2.VideoCapture) -> Iterator[np.ndarray]:
    """The frames of a video, (H, W, 3) BGR, to its end."""
    while (frame := video.read()[1]) is not None:
        yield frame


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('video', help='video file, or the number of a camera')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', nargs='?', help='of what was trained')
    parser.add_argument('--words', nargs='+', help="default: the config's classes")
    parser.add_argument('--device', help='default: a GPU if there is one')
    parser.add_argument('--show', action='store_true', help='show it while it runs')
    parser.add_argument('--show-wait-time', type=int, default=1, help='milliseconds')
    parser.add_argument('--output-file', help='video to write')
    parser.add_argument('--output-fourcc', default='mp4v', help='its codec')
    parser.add_argument('--output-fps', type=float, help="default: the video's")
    parser.add_argument('--output-height', type=int, help='default: likewise')
    parser.add_argument('--output-width', type=int, help='default: likewise')
    parser.add_argument('--opacity', type=float, default=0.5, help='above 0, up to 1')
    args = parser.parse_args(argv)
    if not (args.show or args.output_file):
        parser.error('give --show, --output-file, or both')
    model = init_model(args.config, args.checkpoint, args.device)
    if args.words:
        set_vocabulary(model, args.words)
    video = cv2.VideoCapture(int(args.video) if args.video.isdigit() else args.video)
    if not video.isOpened():
        parser.error(f'{args.video} cannot be opened as a video')
    width = args.output_width or int(video.get(cv2.CAP_PROP_FRAME_WIDTH))
    height = args.output_height or int(video.get(cv2.CAP_PROP_FRAME_HEIGHT))
    writer = None
    if args.output_file:
        fps = args.output_fps or video.get(cv2.CAP_PROP_FPS)
        fourcc = cv2.VideoWriter_fourcc(*args.output_fourcc)
        writer = cv2.VideoWriter(args.output_file, fourcc, fps, (width, height))
        if not writer.isOpened():
            parser.error(f'{args.output_file} cannot be written as a video')
    for frame in frames(video):
        result = inference_model(model, frame)
        drawn = show_result_pyplot(
            model,
            cv2.cvtColor(frame, cv2.COLOR_BGR2RGB),
            result,
            opacity=args.opacity,
            with_labels=False,
            draw_gt=False,
            show=False,
        )
        drawn = cv2.resize(cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR), (width, height))
        if writer:
            writer.write(drawn)
        if args.show:
            cv2.imshow('video', drawn)
            if cv2.waitKey(args.show_wait_time) == 27:  # Esc
                break
    if writer:
        writer.release()
    video.release()


if __name__ == '__main__':
    main()
