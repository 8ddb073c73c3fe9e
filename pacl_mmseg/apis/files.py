"""Folders of photos, and videos, segmented into folders of results."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from filelock import FileLock
from PIL import Image
from tqdm import tqdm

from pacl_mmseg.apis.segmenter import Segmenter
from pacl_mmseg.utils import whole_file
from pacl_mmseg.visualization import with_legend

IMAGES = ('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.gif', '.tif', '.tiff')
VIDEOS = ('.mp4', '.m4v', '.mov', '.avi', '.mkv', '.webm', '.mpg', '.mpeg')
# Written last: what a result was made of and how. A folder that has it is a result.
RECORD = 'segmentation.json'
LOCK = '.lock'


def find_images(folder: Path, out: Path) -> tuple[list[Path], int]:
    """The image files of a folder and those within, by their endings.

    Left out are what is hidden, results of earlier runs, and folders that are links,
    which may lead in circles.

    Args:
        folder: Where to look.
        out: Where results will be, which is left out too.

    Returns:
        The files, sorted, and how many others there are that are not hidden.

    Raises:
        OSError: A folder cannot be read.
    """

    def fail(error: OSError) -> None:
        raise error

    images, others = [], 0
    for place, folders, files in os.walk(folder, onerror=fail):
        is_result = RECORD in files and _read_record(Path(place)) is not None
        if is_result or os.path.realpath(place) == os.path.realpath(out):
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith('.')]
        for name in files:
            if name.startswith('.'):
                continue
            if name.lower().endswith(IMAGES):
                images.append(Path(place, name))
            else:
                others += 1
    return sorted(images), others


def segment_images(
    segmenter: Segmenter,
    words: Sequence[str | Sequence[str]],
    images: Sequence[Path],
    root: Path,
    out: Path,
    settings: Mapping[str, Any],
    heat_maps: int = 20,
    opacity: float = 0.6,
    threshold: float | None = None,
    short_side: int | None = None,
) -> tuple[dict[Path, dict[str, float] | None], dict[Path, str]]:
    """Segment image files; those that are damaged do not stop the others.

    The results of ``root/a/b.jpg`` are in the folder ``out/a/b.jpg``, so that
    ``b.jpg`` and ``b.png`` have one each: see
    :meth:`~pacl_mmseg.apis.Segmentation.save`. A result that was finished before, by
    the same settings of a file that has not changed since, is kept.

    Args:
        segmenter: The model.
        words: See :meth:`Segmenter.__call__`.
        images: The files, somewhere below ``root``.
        root: A folder.
        out: The folder of the results.
        settings: All else that decides the results; JSON.
        heat_maps, opacity, threshold: See
            :meth:`~pacl_mmseg.apis.Segmentation.save`.
        short_side: See :meth:`Segmenter.__call__`.

    Returns:
        By the folders of results the share of the pixels that each word has, or None
        of what was finished before; and by image, why it has none, in a sentence.

    Raises:
        ValueError: ``out`` is where the images are.
    """
    settings = dict(
        settings,
        words=list(words),
        heat_maps=heat_maps,
        opacity=opacity,
        threshold=threshold,
        short_side=short_side,
    )
    places = {image: out / image.relative_to(root) for image in images}
    for image, place in places.items():
        _check_place(image, place)
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / LOCK)
    done: dict[Path, dict[str, float] | None] = {}
    failures: dict[Path, str] = {}
    todo = []
    for image, place in places.items():
        if _is_finished(place, settings, image):
            done[place] = None
        else:
            todo.append(image)

    with tqdm(
        total=len(todo), unit=' images', disable=len(images) == 1 or not todo
    ) as bar:

        def skip(image: Path, error: Exception) -> None:
            failures[image] = str(error)
            bar.update()

        for image, result in segmenter.stream(todo, words, short_side, on_error=skip):
            place = places[image]
            with lock:  # another run may be writing there, too
                _begin(place)
                files = result.save(place, heat_maps, opacity, threshold)
                _finish(place, settings, image, files)
            done[place] = result.areas
            bar.update()
    return done, failures


def segment_video(
    segmenter: Segmenter,
    words: Sequence[str | Sequence[str]],
    video: Path,
    out: Path,
    settings: Mapping[str, Any],
    heat_maps: int = 20,
    opacity: float = 0.6,
    threshold: float | None = None,
    short_side: int | None = None,
) -> tuple[Path, dict[str, float] | None]:
    """Segment the frames of a video, each for itself.

    Args:
        segmenter, words, settings, opacity, threshold, short_side: See
            :func:`segment_images`.
        video: A file that OpenCV reads.
        out: The results are in a folder in it that is named as the video.
        heat_maps: Of how many words, the first ones.

    Returns:
        The folder: ``overlay.mp4`` with a legend, a video of each word's heat map,
        ``labels/000000.png``, ... and ``areas.json``, the shares of each word in all
        frames; and these shares, or None if this was finished before.

    Raises:
        ValueError: The video cannot be read or written, or ``out`` is where it is.
    """
    settings = dict(
        settings,
        words=list(words),
        heat_maps=heat_maps,
        opacity=opacity,
        threshold=threshold,
        short_side=short_side,
    )
    place = out / video.name
    _check_place(video, place)
    if _is_finished(place, settings, video):
        return place, None
    frames = _Frames(video)
    _begin(place)
    (place / 'labels').mkdir(exist_ok=True)
    files, totals, count = [], 0, 0
    with (
        closing(frames),
        ExitStack() as stack,
        tqdm(total=frames.stated, unit=' frames') as bar,
    ):
        writers: dict[str, _Writer] = {}

        def write(name: str, picture: np.ndarray) -> None:
            if name not in writers:
                part = stack.enter_context(whole_file(place / name))
                size = picture.shape[:2]
                writers[name] = _Writer(part, name, frames.rate, size)
                stack.callback(writers[name].close)
                files.append(place / name)
            writers[name].write(picture)

        for _, result in segmenter.stream(frames, words, short_side):
            drawn = result.overlay(opacity, threshold)
            # As wide as with the longest words: the legend of a frame has those in it.
            if count == 0:
                longest = sorted(result.words, key=len, reverse=True)
                shares = dict.fromkeys(longest, 1.0)
                frame_size = with_legend(drawn, shares, result.palette).size
            canvas = Image.new('RGB', frame_size, 'white')
            canvas.paste(with_legend(drawn, result.areas, result.palette))
            write('overlay.mp4', np.asarray(canvas))
            for word, heat_map in result.heat_maps(result.words[:heat_maps], opacity):
                write(f'heat_maps/{result.file_stem(word)}.mp4', heat_map)
            files.append(place / 'labels' / f'{count:06}.png')
            result.label_image().save(files[-1])
            totals = totals + np.array([*result.areas.values()])
            count += 1
            bar.update()
        if count < (frames.stated or 0):
            bar.write(
                f'{printable(video)} states {frames.stated} frames, of which {count} '
                'could be read.'
            )
    areas = dict(zip(result.words, (totals / count).tolist(), strict=True))
    summary = dict(frames=count, frames_per_second=frames.rate, areas=areas)
    _write_json(place / 'areas.json', summary)
    _finish(place, settings, video, [*files, place / 'areas.json'])
    return place, areas


class _Frames:
    """The frames of a video, one after the other, RGB."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.capture = cv2.VideoCapture(str(path))
        if not self.capture.isOpened():
            raise ValueError(f'{path} is damaged, or no video that OpenCV reads.')
        rate = self.capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if 0 < rate < 1000 else 25.0
        stated = self.capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.stated = int(stated) if 0 < stated < 1e9 else None

    def __iter__(self) -> Iterator[np.ndarray]:
        some = False
        while True:
            there, frame = self.capture.read()
            if not there:
                break
            some = True
            yield np.ascontiguousarray(frame[..., ::-1])
        if not some:
            raise ValueError(f'{self.path} has no frame that OpenCV reads.')

    def close(self) -> None:
        self.capture.release()


class _Writer:
    """A video of the codec that every build of OpenCV has."""

    def __init__(self, path: Path, name: str, rate: float, size: Sequence) -> None:
        # Codecs take even sides.
        self.height, self.width = (side + side % 2 for side in size)
        codec = cv2.VideoWriter_fourcc(*'mp4v')
        shape = (self.width, self.height)
        self.writer = cv2.VideoWriter(str(path), codec, rate, shape)
        if not self.writer.isOpened():
            raise ValueError(f'OpenCV cannot write {name} ({shape} pixels) as a video.')

    def write(self, picture: np.ndarray) -> None:
        height, width = picture.shape[:2]
        edge = ((0, self.height - height), (0, self.width - width), (0, 0))
        self.writer.write(np.pad(picture, edge, mode='edge')[..., ::-1].copy())

    def close(self) -> None:
        self.writer.release()


def stamp(path: str | os.PathLike) -> list:
    """What tells a file, or a folder with its files, from a later one of its name."""
    path = Path(path)
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    stats = [file.stat() for file in files]
    return [
        os.path.abspath(path),
        *((stat.st_size, stat.st_mtime_ns) for stat in stats),
    ]


def printable(text: object) -> str:
    """A text that any console takes; names of files may hold any bytes."""
    return str(text).encode(errors='replace').decode()


def _check_place(source: Path, place: Path) -> None:
    if os.path.realpath(source.parent) == os.path.realpath(place.parent):
        raise ValueError(
            f'The results of {source} would be in a folder of its own name beside it: '
            'give another folder for them.'
        )


def _is_finished(place: Path, settings: Mapping[str, Any], source: Path) -> bool:
    record = _read_record(place)
    if record is None:
        return False
    try:
        wanted = json.loads(json.dumps(dict(settings, source=stamp(source)[1:])))
    except OSError:  # it has no source any more
        return False
    files = record.pop('files')
    return record == wanted and all((place / name).is_file() for name in files)


def _read_record(place: Path) -> dict[str, Any] | None:
    """What :func:`_finish` wrote, if a folder has it: others may use that name."""
    try:
        record = json.loads((place / RECORD).read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not {'source', 'words'} <= record.keys():
        return None
    files = record.get('files')
    own = isinstance(files, list) and all(isinstance(name, str) for name in files)
    return record if own else None


def _begin(place: Path) -> None:
    """Remove an earlier result, lest it be mixed with the next."""
    (place / RECORD).unlink(missing_ok=True)
    for name in ('heat_maps', 'labels'):
        shutil.rmtree(place / name, ignore_errors=True)
    (place / 'heat_maps').mkdir(parents=True)


def _finish(
    place: Path, settings: Mapping[str, Any], source: Path, files: Sequence[Path]
) -> None:
    names = [file.relative_to(place).as_posix() for file in files]
    record = dict(settings, source=stamp(source)[1:], files=names)
    _write_json(place / RECORD, record)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with whole_file(path) as part:
        # ASCII: names of files may hold what is no text.
        part.write_text(json.dumps(content, indent=1) + '\n')
