"""What is on the page, and what happens when one uses it."""

from __future__ import annotations

import html
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from pacl_mmseg.apis.segmentation import Segmentation
from pacl_mmseg.app import work
from pacl_mmseg.app.work import Limits

try:
    import gradio as gr
except ImportError as error:
    raise ImportError(
        "The page needs Gradio: pip install 'pacl-mmseg[demo]'."
    ) from error

# What a visitor can do something about; anything else is a mistake in the program.
_EXPECTED = (ValueError, OSError, RuntimeError)
_NONE = 'none'
_TITLE = 'Segment a photo by your own words'
_HEAD = f"""
# {_TITLE}
Every pixel gets the word that fits it best: name what you look for, and what is around
it.
"""
_STYLE = """
.gradio-container { max-width: 1400px !important; margin: 0 auto !important }
#photo img { width: 100%; height: 100% }
#photo img, .overlay img { object-fit: contain }
.overlay img { max-height: 34rem }
.heat .grid-wrap { min-height: 0 !important; max-height: none !important;
    padding-top: 2rem !important }
.heat .grid-container {
    grid-template-columns: repeat(auto-fill, minmax(110px, 1fr)) !important }
.areas { width: 100%; border: 0 !important; font-variant-numeric: tabular-nums }
.areas tr { border: 0 !important }
.areas td { padding: .1em .4em; border: 0 !important; background: none !important }
.areas td:nth-child(1) { width: 1em }
.areas td:nth-child(2) { overflow-wrap: anywhere; text-align: left }
.areas td:nth-child(3) { width: 30% }
.areas td:nth-child(4) { width: 4em; text-align: right }
.areas i { display: block; width: 1em; height: 1em; border-radius: .2em }
.areas b { display: block; height: .5em; border-radius: .25em;
    background: var(--neutral-400) }
.scrolls { max-height: 22em; overflow-y: auto }
"""
LOOKS = dict(css=_STYLE, theme=gr.themes.Default(primary_hue='indigo'))


def create_page(
    segmenter: Callable[[str, str], Callable[..., Segmentation]],
    methods: Mapping[str, str],
    encoders: Mapping[str, str],
    resolutions: Sequence[int],
    examples: Sequence[Sequence[str]],
    limits: Limits,
) -> gr.Blocks:
    """The page.

    What visitors send and get is theirs: it lies in Gradio's state of their session.

    Args:
        segmenter: Gives the :class:`~pacl_mmseg.apis.Segmenter` of a method and an
            encoder.
        methods: Their names and titles; the first is chosen at first.
        encoders: Their names and titles; likewise.
        resolutions: Short sides to choose from, besides the default.
        examples: The path of an image, words for it, a method and an encoder, each.
        limits: What a visitor may ask for.
    """
    sides = {'default': None, **{str(side): side for side in resolutions}}

    def compute(
        photo: Mapping[str, Any] | None,
        text: str,
        first: str,
        second: str,
        encoder: str,
        resolution: str,
        opacity: float,
        threshold: float,
    ) -> list:
        """All there is to see, and what the sliders need, of both methods."""
        with _sentences():
            if not photo:
                raise ValueError('Choose a photo or an example first.')
            if first not in methods or second not in (*methods, _NONE):
                raise ValueError('There is no such method.')
            if encoder not in encoders:
                raise ValueError('There is no such encoder.')
            if resolution not in sides:
                raise ValueError('There is no such resolution.')
            words = work.read_lines(text or '', limits)
            # Gradio looks after paths only where a request says that they are files.
            path = os.path.realpath(photo['path'])
            if not path.startswith(os.path.realpath(page.GRADIO_CACHE) + os.sep):
                raise ValueError('Send a photo, not where one lies.')
            image = work.read_photo(path, limits)
            kept, maps = [], []
            for method in dict.fromkeys((first, second)):
                if method != _NONE:
                    model = segmenter(method, encoder)
                    with work.deadline(limits.seconds):
                        result = model(image, words, short_side=sides[resolution])
                    kept.append((f'{methods[method]} · {encoders[encoder]}', result))
                    maps.append(work.heat_maps(result, limits.heat_maps))
        columns = [gr.update(visible=number < len(kept)) for number in range(2)]
        maps += [[]] * (2 - len(maps))
        return [kept, *columns, *maps, *show(kept, opacity, threshold)]

    def show(
        kept: Sequence[tuple[str, Segmentation]] | None,
        opacity: float,
        threshold: float,
    ) -> list:
        """Pictures, tables and files, of what is kept of a computation."""
        if kept is None:
            return [gr.skip()] * 6
        shown = []
        for title, result in kept:
            labels = work.label_map(result, threshold)
            picture = work.enlarge(result.overlay(opacity, threshold))
            file = Path(tempfile.mkdtemp(dir=page.GRADIO_CACHE), 'masks.zip')
            file.write_bytes(work.archive(result, labels, title))
            table = work.table(result, labels)
            shown.append((gr.update(value=picture, label=title), table, str(file)))
        shown += [(None, '', None)] * (2 - len(shown))
        return [*chain(*zip(*shown, strict=True))]

    with _Page(
        title=_TITLE,
        fill_width=True,
        analytics_enabled=False,
        delete_cache=(60, round(60 * limits.minutes)),
    ) as page:
        kept = gr.State(time_to_live=60 * limits.minutes)
        gr.Markdown(_HEAD)
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                photo = gr.Image(
                    label='Photo',
                    type='filepath',
                    image_mode=None,
                    sources=['upload', 'clipboard'],
                    height=280,
                    elem_id='photo',
                )
                text = gr.Textbox(
                    label='Words',
                    info='One in each line; commas join names of the same thing',
                    placeholder='cat, kitten\nsofa\nwooden floor',
                    lines=4,
                    max_lines=10,
                    elem_id='words',
                )
                choices = [(title, name) for name, title in methods.items()]
                with gr.Row():
                    first = gr.Dropdown(choices, label='Method', min_width=100)
                    second = gr.Dropdown(
                        [(_NONE, _NONE), *choices],
                        label='Compare with',
                        min_width=100,
                        elem_id='second',
                    )
                with gr.Row():
                    encoder = gr.Dropdown(
                        [(title, name) for name, title in encoders.items()],
                        label='Encoder',
                        min_width=100,
                    )
                    resolution = gr.Dropdown(
                        [*sides], label='Short side (pixels)', min_width=100
                    )
                button = gr.Button('Segment', variant='primary', elem_id='segment')
                gr.Examples(
                    [list(example) for example in examples],
                    [photo, text, first, encoder],
                    visible_columns=[0],
                    api_visibility='private',
                )
            with gr.Column(scale=3, min_width=300):
                with gr.Row():
                    opacity, threshold = (
                        gr.Slider(
                            *(0, 1, value),
                            step=0.01,
                            label=label,
                            info=info,
                            min_width=100,
                            elem_id=label.lower(),
                        )
                        for label, value, info in (
                            ('Opacity', 0.6, 'of the colours'),
                            ('Threshold', 0, 'less sure pixels stay bare'),
                        )
                    )
                with gr.Row():
                    panels = [_panel(number, limits) for number in range(2)]
        columns, pictures, tables, files, galleries = zip(*panels, strict=True)
        shown = [*pictures, *tables, *files]
        button.click(
            compute,
            [photo, text, first, second, encoder, resolution, opacity, threshold],
            [kept, *columns, *galleries, *shown],
            # Gradio would decode a photo of any size, and not say what is wrong.
            preprocess=False,
            concurrency_limit=1,
            api_visibility='private',
            show_progress_on=pictures,
        )
        for slider in (opacity, threshold):
            slider.change(
                show,
                [kept, opacity, threshold],
                shown,
                trigger_mode='always_last',
                concurrency_limit=2,
                show_progress='hidden',
                api_visibility='private',
            )
    return page


def _panel(number: int, limits: Limits) -> tuple[Any, ...]:
    """What there is of one method, the first or the second."""
    buttons = ['download', 'fullscreen']
    with gr.Column(visible=number == 0, min_width=280) as column:
        picture = gr.Image(
            label='Segmentation',
            interactive=False,
            buttons=buttons,
            elem_id=f'overlay-{number}',
            elem_classes='overlay',
        )
        table = gr.HTML(elem_id=f'areas-{number}', elem_classes='scrolls')
        file = gr.DownloadButton('Download masks', size='sm', elem_id=f'masks-{number}')
        gallery = gr.Gallery(
            label=f'Heat maps (at most {limits.heat_maps}): blue 0, red the highest',
            object_fit='contain',
            height='auto',
            interactive=False,
            buttons=buttons,
            elem_id=f'heat-{number}',
            elem_classes='heat',
        )
    return column, picture, table, file, gallery


class _Page(gr.Blocks):
    """Fetches nothing; Gradio would, if an address is sent in place of a file."""

    def validate_inputs(self, block_fn: Any, inputs: list[Any]) -> None:
        super().validate_inputs(block_fn, inputs)
        if re.search(r'"path": *"\s*https?:', json.dumps(inputs), re.IGNORECASE):
            raise gr.Error('Send a photo, not its address.', print_exception=False)


@contextmanager
def _sentences() -> Iterator[None]:
    """Say what went wrong in a box on the page, which shows HTML."""
    try:
        yield
    except _EXPECTED as error:
        raise gr.Error(html.escape(str(error)), print_exception=False) from error
