"""How the page is served, and by which models."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from PIL import Image

from pacl_mmseg.apis.segmenter import Segmenter
from pacl_mmseg.app.page import LOOKS, create_page
from pacl_mmseg.app.work import Limits
from pacl_mmseg.benchmark.methods import METHODS
from pacl_mmseg.datasets.small_world import render_scene

SMALL_WORLD = 'small world'
ENCODERS = {'vitb16': 'CLIP ViT-B/16', 'vitl14': 'CLIP ViT-L/14'}
RESOLUTIONS = (224, 336, 448, 672)
_MODELS = 4  # kept in memory
_SCENES = (3, 8, 11)  # of the small world's test split


@contextmanager
def serving(
    small_world: bool = False,
    checkpoint: str | None = None,
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
        checkpoint: For PACL with a real encoder.
        host: Address to listen at; ``0.0.0.0`` lets other machines in.
        port: By default the first free one from 7860 on.
        limits: What a visitor may ask for.

    Yields:
        The page's address.

    Raises:
        OSError: The port is taken.
    """
    limits = limits or Limits()

    @lru_cache(_MODELS)
    def segmenter(method: str, encoder: str) -> Segmenter:
        if encoder == SMALL_WORLD:
            return Segmenter(method, world='small')
        trained = METHODS[method].trained
        return Segmenter(
            method, encoder=encoder, checkpoint=checkpoint if trained else None
        )

    encoders = {} if small_world else ENCODERS
    names = ['naclip', 'sclip', 'clearclip', 'maskclip', 'clip']
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


def _examples(folder: Path) -> list[list[str]]:
    """Scenes of the small world: image, words, method and encoder."""
    examples = []
    for index in _SCENES:
        scene = render_scene(index, split='test')
        path = folder / f'scene_{index}.png'
        Image.fromarray(scene.image).save(path)
        examples.append([str(path), '\n'.join(scene.nouns), 'pacl', SMALL_WORLD])
    return examples
