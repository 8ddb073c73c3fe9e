"""The page in a real browser: Chromium, driven by Playwright.

One server, in this process, and one visitor's tab for all tests, a second one where two
visitors are needed: loading the page takes the browser seconds.
"""

from __future__ import annotations

import io
import json
import os
import re
import runpy
import shutil
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

import numpy as np
import pytest
import torch
from PIL import Image
from programs import need

from pacl_mmseg.apis.segmenter import Segmenter
from pacl_mmseg.datasets.small_world import render_scene

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 1000 * 240  # of patience with a busy machine, as Playwright counts them
SCENE = 3  # the page's first example
# Of the server's own connections, while the page is served.
_connections: list | None = None


def _need() -> None:
    need('chromium', modules=('gradio', 'playwright'))


def _watch(event: str, arguments: tuple) -> None:
    if event == 'socket.connect' and _connections is not None:
        _connections.append(arguments[1])


@pytest.fixture(scope='module')
def models() -> dict:
    """The segmenters that the page made, and how often they computed."""
    return dict(calls=0)


@pytest.fixture(scope='module')
def address(models):
    """Of the page, with tight limits."""
    global _connections
    _need()
    from pacl_mmseg.app import Limits, serving

    compute = Segmenter.__call__

    def counted(self, *arguments, **options):
        models['calls'] += 1
        return compute(self, *arguments, **options)

    sys.addaudithook(_watch)
    _connections = []
    with (
        mock.patch.object(Segmenter, '__call__', counted),
        serving(small_world=True, limits=Limits(megabytes=1, megapixels=1)) as where,
    ):
        folder = os.environ['GRADIO_TEMP_DIR']
        yield where
        assert os.listdir(folder)
    _connections = None
    assert not os.path.exists(folder)


@pytest.fixture(scope='module')
def browser(address):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=shutil.which('chromium'),
            args=['--no-sandbox', '--disable-dev-shm-usage'],
        )
        context = chromium.new_context(accept_downloads=True)
        context.set_default_timeout(SECONDS)
        context.requested = []
        context.on('request', lambda request: context.requested.append(request.url))
        context.wrong = []
        context.on('weberror', lambda error: context.wrong.append(str(error.error)))
        context.on('dialog', lambda dialog: context.wrong.append(dialog.message))
        yield context
        chromium.close()


class Visitor:
    """Someone at the page."""

    def __init__(self, browser, address: str) -> None:
        self.tab = browser.new_page()
        self.tab.goto(address)
        self.tab.locator('#segment').wait_for()

    def upload(self, path: Path) -> None:
        self.tab.locator('#photo input[type=file]').set_input_files(str(path))

    def write(self, *words: str) -> None:
        self.tab.locator('#words textarea').fill('\n'.join(words))

    def press(self) -> None:
        self.tab.locator('#segment').click()

    def slide(self, name: str, value: float) -> None:
        number = self.tab.locator(f'#{name} input[type=number]')
        number.fill(str(value))
        number.press('Enter')

    def shares(self, *words: str, number: int = 0) -> dict[str, str]:
        """What the table says, once it has these words and no others."""
        rows = f"""[...document.querySelectorAll('#areas-{number} tr')]
            .map(row => [row.cells[1].innerText, row.cells[3].innerText])"""
        same = (
            f'words => `${{{rows}.map(row => row[0]).sort()}}` === `${{words.sort()}}`'
        )
        self.tab.wait_for_function(same, arg=[*words])
        return dict(self.tab.evaluate(rows))

    def overlay(self, number: int = 0) -> str:
        """Address of the picture."""
        return self.tab.locator(f'#overlay-{number} img').get_attribute('src')

    def changed(self, before: str) -> np.ndarray:
        """The picture, once it is another one."""
        picture = self.tab.locator(f'#overlay-0 img:not([src="{before}"])')
        return pixels(picture.get_attribute('src'))

    def complaint(self) -> str:
        """What a box says, which is closed then."""
        box = self.tab.get_by_test_id('toast-body').first
        text = box.inner_text()
        self.tab.get_by_test_id('toast-close').first.click()
        box.wait_for(state='detached')
        return text


@pytest.fixture(scope='module')
def visitor(browser, address) -> Visitor:
    return Visitor(browser, address)


def pixels(address: str) -> np.ndarray:
    with urlopen(address) as answer:
        return np.asarray(Image.open(io.BytesIO(answer.read())).convert('RGB'))


def image_file(path: Path, width: int = 64, height: int = 48) -> Path:
    Image.new('RGB', (width, height), 'red').save(path)
    return path


def test_an_example_and_the_sliders(visitor, models):
    scene = render_scene(SCENE, split='test')
    expected = Segmenter('pacl', world='small')(scene.image, list(scene.nouns))
    models['calls'] = 0
    visitor.tab.locator('.gallery-item').first.click()
    visitor.tab.locator('#photo img').wait_for()
    visitor.press()
    shares = {word: f'{share:.1%}' for word, share in expected.areas.items()}
    assert visitor.shares(*scene.nouns) == shares
    captions = visitor.tab.locator('#heat-0 .caption-label')
    assert sorted(captions.all_inner_texts()) == sorted(scene.nouns)

    first = visitor.overlay()
    visitor.slide('opacity', 0)
    bare = visitor.changed(first)  # the photo, in pixels of 6 x 6, compressed
    plain = scene.image.repeat(6, 0).repeat(6, 1)
    assert abs(bare - plain.astype(float)).mean() < 5
    second = visitor.overlay()
    visitor.slide('opacity', 1)
    full = visitor.changed(second)
    colours = expected.palette[expected.labels].repeat(6, 0).repeat(6, 1)
    assert abs(full - colours.astype(float)).mean() < 5
    with visitor.tab.expect_download() as download:
        visitor.tab.locator('#masks-0').click()
    with zipfile.ZipFile(download.value.path()) as archive:
        labels = np.asarray(Image.open(io.BytesIO(archive.read('labels.png'))))
        words = json.loads(archive.read('words.json'))['words']
    assert (labels == expected.labels).all()
    assert [entry['word'] for entry in words] == list(scene.nouns)

    visitor.slide('threshold', 1)
    hidden = visitor.shares(*scene.nouns, 'below the threshold')
    expected_hidden = float((expected.scores.best < 1).mean())
    assert hidden['below the threshold'] == f'{expected_hidden:.1%}'
    visitor.slide('threshold', 0)
    assert visitor.shares(*scene.nouns) == shares
    assert models['calls'] == 1


def test_two_visitors_and_two_methods(visitor, browser, address):
    other = Visitor(browser, address)
    other.press()
    assert 'Choose a photo' in other.complaint()
    other.tab.locator('.gallery-item').nth(1).click()
    other.tab.locator('#photo img').wait_for()
    visitor.write('red', 'not red')
    other.write('green', 'yellow', 'purple')
    other.tab.locator('#second input').click()
    other.tab.get_by_role('option', name='MaskCLIP').click()
    visitor.press()
    other.press()
    visitor.shares('red', 'not red')
    shares = [other.shares('green', 'yellow', 'purple', number=n) for n in range(2)]
    assert shares[0] != shares[1]  # of another method
    before = visitor.overlay()
    visitor.slide('opacity', 0.5)
    visitor.changed(before)
    visitor.shares('red', 'not red')
    # Everyone gets the same page, without anyone's words.
    with urlopen(f'{address}config') as answer:
        assert 'not red' not in answer.read().decode()
    other.tab.close()


def test_a_hundred_words_of_any_kind(visitor):
    words = [
        '<img src=x onerror=alert(1)>',
        '<b>bold</b> & ${1 + 1} {{1}} `x`',
        '\N{CAT}\N{ZERO WIDTH JOINER}\N{BLACK LARGE SQUARE}',
        'כלב חום',
        *(f'word {number}' for number in range(96)),
    ]
    visitor.write(*words)
    visitor.press()
    visitor.shares(*words)
    assert visitor.tab.locator('#heat-0 .caption-label').count() == 20
    visitor.write(*words, 'one more')
    visitor.press()
    assert 'There are 101 words' in visitor.complaint()
    visitor.write('<b>bold</b>', '<b>bold</b>')
    visitor.press()
    assert '<b>bold</b>' in visitor.complaint()
    visitor.write('cat, dog, grass')
    visitor.press()
    assert 'a line of its own' in visitor.complaint()


def test_files_that_are_refused(visitor, tmp_path):
    large = tmp_path / 'large.png'
    large.write_bytes(os.urandom(2**20 + 1))
    visitor.upload(large)
    assert 'maximum' in visitor.complaint()
    broken = tmp_path / 'broken.png'
    broken.write_bytes(image_file(tmp_path / 'whole.png').read_bytes()[:60])
    many = image_file(tmp_path / 'many.png', 1001, 1000)
    visitor.write('red', 'blue')
    for path, reason in ((broken, 'broken.png is damaged'), (many, '1001 x 1000')):
        with visitor.tab.expect_response(re.compile('/upload')):
            visitor.upload(path)
        visitor.tab.locator('#photo img').wait_for(state='attached')
        visitor.press()
        complaint = visitor.complaint()
        assert reason in complaint and str(tmp_path.anchor + 'tmp') not in complaint


def test_a_computation_ends_in_time():
    _need()
    from pacl_mmseg.app.work import deadline

    module, threads = torch.nn.Identity(), ThreadPoolExecutor(1)
    with deadline(0):
        with pytest.raises(TimeoutError, match='longer than 0 s'):
            module(1)
        assert threads.submit(module, 1).result() == 1  # another visitor's
    assert module(1) == 1


def test_what_cannot_be_served(tmp_path):
    _need()
    from pacl_mmseg.app import serving

    missing = str(tmp_path / 'no.pth')
    for options, reason in (
        (dict(small_world=True, encoder='rn50'), 'leave others out'),
        (dict(encoder='vitb61'), "mean 'vitb16'"),
        (dict(pretrained=missing), 'no.pth'),
        (dict(encoder='rn50', pretrained=missing), 'no.pth'),
        (dict(host='192.0.2.1'), r'cannot be at 192\.0\.2\.1 \('),
        (dict(port=99_999), r'cannot be at 127\.0\.0\.1, port 99999 \('),
    ):
        with pytest.raises((ValueError, OSError, RuntimeError), match=reason):
            serving(**options).__enter__()


def test_without_gradio(monkeypatch):
    monkeypatch.setitem(sys.modules, 'gradio', None)
    with pytest.raises(ImportError, match=r"pip install 'pacl-mmseg\[demo\]'"):
        runpy.run_path(str(ROOT / 'pacl_mmseg' / 'app' / 'page.py'))


def test_only_its_own_folder_is_served(address):
    for path in ('/etc/hostname', ROOT / 'setup.py', '/proc/self/environ'):
        with pytest.raises(HTTPError) as refused:
            urlopen(f'{address}gradio_api/file={path}')
        assert refused.value.code in (403, 404)
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
    body += bytes(2**20 + 1) + b'\r\n--x--\r\n'
    kind = {'Content-Type': 'multipart/form-data; boundary=x'}
    with pytest.raises(HTTPError) as refused:
        urlopen(Request(f'{address}gradio_api/upload', body, kind))
    assert refused.value.code == 413


@pytest.mark.parametrize('kind', ['address', 'file', 'file without a type'])
def test_a_visitor_sends_photos_alone(address, tmp_path, kind):
    path = str(image_file(tmp_path / 'secret.png'))
    if kind == 'address':
        path = 'https://example.com/a.png'
    typed = dict(meta={'_type': 'gradio.FileData'})
    photo = dict(path=path, **({} if kind == 'file without a type' else typed))
    with urlopen(f'{address}config') as answer:
        config = json.load(answer)
    (compute,) = (f for f in config['dependencies'] if len(f['inputs']) == 8)
    values = [photo, 'red\nblue', 'pacl', 'none', 'small world', 'default', 0.5, 0]
    event = dict(data=values, fn_index=compute['id'], session_hash=kind)
    header = {'Content-Type': 'application/json'}
    request = Request(
        f'{address}gradio_api/queue/join', json.dumps(event).encode(), header
    )
    urlopen(request).close()
    with urlopen(
        f'{address}gradio_api/queue/data?session_hash={quote(kind)}'
    ) as answer:
        completed = next(line for line in answer if b'process_completed' in line)
    assert b'"success":false' in completed
    reasons = {'address': b'not its address', 'file without a type': b'not where one'}
    assert reasons.get(kind, b'') in completed


def test_no_request_leaves_the_host(visitor, browser, address):
    # The last test: of everything that visitors did.
    elsewhere = [
        url
        for url in browser.requested
        if not url.startswith((address, 'data:', f'blob:{address}'))
    ]
    assert elsewhere == [] and len(browser.requested) > 50
    assert browser.wrong == []
    hosts = {where[0] for where in _connections if isinstance(where, tuple)}
    assert hosts <= {'127.0.0.1', '::1', 'localhost', '0.0.0.0'}
