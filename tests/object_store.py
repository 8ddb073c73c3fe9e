"""An object store with S3's interface on this machine, which fails when it is told to.

python tests/object_store.py FOLDER

serves the files of a folder as s3://bucket/..., and says how to read one.
"""

from __future__ import annotations

import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

# What clients want to know, and a store that is not Amazon's does not.
CLIENT = dict(
    AWS_ACCESS_KEY_ID='any',
    AWS_SECRET_ACCESS_KEY='any',
    AWS_DEFAULT_REGION='us-east-1',
    AWS_CONFIG_FILE='/dev/null',
    AWS_SHARED_CREDENTIALS_FILE='/dev/null',
    AWS_EC2_METADATA_DISABLED='true',
)


class Store:
    """The server of moto (a WSGI application), and faults in what it answers.

    Args:
        application: The server.

    Attributes:
        url: Where it is.
        faults: By object (``/bucket/key``), what is wrong with its next answers:
            ``'error'`` (status 500), ``'cut'`` (two thirds of what was announced), or
            ``'slow'`` (in parts, with pauses). Once these are spent, nothing.
        answers: How often each object was asked for.
    """

    def __init__(self, application: Callable) -> None:
        self.application = application
        self.url = ''
        self.faults: dict[str, Iterator[str]] = {}
        self.answers: dict[str, int] = {}

    def put(self, path: str, data: bytes = b'') -> None:
        """Store an object, or make a bucket."""
        headers = {'Content-Type': 'application/octet-stream'}
        request = urllib.request.Request(
            self.url + path, data=data, method='PUT', headers=headers
        )
        urllib.request.urlopen(request).close()

    def __call__(self, environ: Mapping, start_response: Callable) -> Iterable[bytes]:
        fault = None
        if environ['REQUEST_METHOD'] == 'GET':
            path = environ['PATH_INFO']
            self.answers[path] = self.answers.get(path, 0) + 1
            fault = next(self.faults.get(path, iter(())), None)
        if fault == 'error':
            start_response('500 Internal Server Error', [('Content-Length', '0')])
            return []
        with closing(self.application(environ, start_response)) as answer:
            body = b''.join(answer)
        if fault == 'cut':
            body = body[: len(body) * 2 // 3]
        return slowly(body) if fault == 'slow' else [body]


def slowly(data: bytes, parts: int = 10, pause: float = 0.1) -> Iterator[bytes]:
    """Yield data in so many parts, with so many seconds between them."""
    size = len(data) // parts + 1
    for start in range(0, len(data), size):
        yield data[start : start + size]
        time.sleep(pause)


@contextmanager
def serve() -> Iterator[Store]:
    """A store with an empty bucket, ``/bucket``."""
    from moto.moto_server.werkzeug_app import create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log_request(self, *args: object) -> None:
            pass

    store = Store(create_backend_app('s3'))
    server = make_server('127.0.0.1', 0, store, threaded=True, request_handler=Quiet)
    store.url = f'http://127.0.0.1:{server.server_port}'
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        store.put('/bucket')
        yield store
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


if __name__ == '__main__':
    with serve() as store:
        folder = Path(sys.argv[1])
        for file in (path for path in folder.rglob('*') if path.is_file()):
            store.put(f'/bucket/{file.relative_to(folder)}', file.read_bytes())
        settings = ' '.join(f'{name}={value}' for name, value in CLIENT.items())
        print(f'{settings} \\\naws --endpoint-url {store.url} s3 ls s3://bucket')
        threading.Event().wait()
