"""How the page is served, and by which models."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from PIL import Image

from pacl_mmseg.apis.segmenter import Segmenter
from pacl_mmseg.app.page import LOOKS, create_page
from pacl_mmseg.app.work import Limits
from pacl_mmseg.benchmark.methods import HAVE, METHODS
from pacl_mmseg.datasets.small_world import render_scene
from pacl_mmseg.utils import check_name

SMALL_WORLD = 'small world'
ENCODERS = {'vitb16': 'ViT-B/16', 'vitl14': 'ViT-L/14', 'rn50': 'ResNet-50'}
RESOLUTIONS = (224, 336, 448, 672)
_MODELS = 4  # kept in memory
_SCENES = (3, 8, 11)  # of the small world's test split


@contextmanager
def serving(
    small_world: bool = False,
    encoder: str | None = None,
    checkpoint: str | None = None,
    pretrained: str | None = None,
    host: str = '127.0.0.1',
    port: int | None = None,
    limits: Limits | None = None,
) -> Iterator[str]:
    """Serve the page while the block runs.

    Nothing is served but the page and what visitors sent and got, which lies in a
    folder that is removed in the end. Nothing is sent to the internet, and a browser is
    sent nowhere else: Gradio brings its scripts and fonts along.

    Args:
        small_world: Offer the small world's encoder alone: nothing is downloaded.
        encoder: Offer this one alone, besides the small world's.
        checkpoint: For PACL; of ``encoder``, by default ``vitb16``, as is the next.
        pretrained: Weights in place of OpenAI's, a file or tag.
        host: Address to listen at; ``0.0.0.0`` lets other machines in.
        port: By default the first free one from 7860 on.
        limits: What a visitor may ask for.

    Yields:
        The page's address.

    Raises:
        ValueError: There is no such encoder, or it comes with ``small_world``.
        OSError: Nothing can listen at host and port, which may be taken; or see
            :class:`~pacl_mmseg.apis.Segmenter`.
    """
    limits = limits or Limits()
    _check_address(host, port)

    @lru_cache(_MODELS)
    def segmenter(method: str, name: str) -> Segmenter:
        if name == SMALL_WORLD:
            return Segmenter(method, world='small')
        trained = METHODS[method].trained
        return Segmenter(
            method,
            encoder=name,
            checkpoint=checkpoint if trained else None,
            pretrained=pretrained,
        )

    encoders = {} if small_world else ENCODERS
    names = ['naclip', 'sclip', 'clearclip', 'maskclip', 'clip']
    if encoder or checkpoint or pretrained:
        if small_world:
            raise ValueError('The small world has its own encoder: leave others out.')
        encoder = encoder or 'vitb16'
        check_name('encoder', encoder, ENCODERS)
        encoders = {encoder: ENCODERS[encoder]}
        if checkpoint or pretrained:  # what is wrong with them is said at once
            able = (name for name in names if encoder in HAVE[METHODS[name].takes])
            segmenter('pacl' if checkpoint else next(able), encoder)
    names.insert(0 if small_world or checkpoint else len(names), 'pacl')
    with tempfile.TemporaryDirectory(prefix='pacl_demo_') as folder:
        # Gradio asks for it whenever it makes a part of a page.
        os.environ['GRADIO_TEMP_DIR'] = folder
        try:
            page = create_page(
                segmenter,
                {name: METHODS[name].title for name in names},
                {**encoders, SMALL_WORLD: SMALL_WORLD},
                () if small_world else RESOLUTIONS,
                _examples(Path(folder)),
                limits,
            )
            _, address, _ = page.queue(max_size=limits.queue).launch(
                server_name=host,
                server_port=port,
                share=False,
                max_file_size=limits.megabytes * 2**20,
                state_session_capacity=limits.sessions,
                ssr_mode=False,
                run_history=False,
                enable_monitoring=False,
                footer_links=[],
                **LOOKS,
                quiet=True,
                prevent_thread_lock=True,
            )
            try:
                yield address
            finally:
                page.close(verbose=False)
        finally:
            del os.environ['GRADIO_TEMP_DIR']


def _check_address(host: str, port: int | None) -> None:
    """Take it for a moment: Gradio tries a hundred ports of a host that is not here."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        family, *_, (address, _, *rest) = found[0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port or 0, *rest))
    except (OSError, OverflowError) as error:
        reason = getattr(error, 'strerror', None) or error
        where = host if port is None else f'{host}, port {port}'
        raise OSError(
            f'The page cannot be at {where} ({reason}): give another --host or --port.'
        ) from error


def _examples(folder: Path) -> list[list[str]]:
    """Scenes of the small world: image, words, method and encoder."""
    examples = []
    for index in _SCENES:
        scene = render_scene(index, split='test')
        path = folder / f'scene_{index}.png'
        Image.fromarray(scene.image).save(path)
        examples.append([str(path), '\n'.join(scene.nouns), 'pacl', SMALL_WORLD])
    return examples
