"""The Hugging Face hub without waiting for it in vain."""

from __future__ import annotations

import logging
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants

# Seconds; a name that is not found or a refused connection is known at once.
_PATIENCE = 4
# The settings that are changed here are the whole process'.
_lock = threading.RLock()


@contextmanager
def hub() -> Iterator[None]:
    """Where the hub cannot be reached, files come from its cache alone.

    ``huggingface_hub`` tries again and again for three quarters of a minute for each
    file that is not in its cache. Here one request says whether that is of use.
    """
    with _lock:
        before = constants.HF_HUB_OFFLINE, logging.root.manager.disable
        if not before[0] and _reachable():
            yield
            return
        constants.HF_HUB_OFFLINE = True
        logging.disable(logging.ERROR)  # open_clip logs what it then raises
        try:
            yield
        finally:
            constants.HF_HUB_OFFLINE = before[0]
            logging.disable(before[1])


def _reachable() -> bool:
    """Whether anything answers, through the environment's proxy if it has one."""
    answered = threading.Event()

    def ask() -> None:
        request = urllib.request.Request(constants.ENDPOINT, method='HEAD')
        try:
            urllib.request.urlopen(request, timeout=_PATIENCE).close()
        except urllib.error.HTTPError:
            pass  # an answer, too
        except (OSError, ValueError) as error:
            # The hub's own client brings certificates along, which Python may lack.
            if not isinstance(getattr(error, 'reason', error), ssl.SSLError):
                return
        answered.set()

    # Looking up a name takes its own time, whatever the timeout.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    return answered.is_set()
