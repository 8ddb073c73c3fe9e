"""What a tool says of an error."""

from __future__ import annotations


def reason_of(error: Exception) -> str:
    """An error's message; of one from a data worker, without the worker's traceback."""
    message = str(error)
    if 'Original Traceback' in message:  # its last line says it
        message = message.strip().splitlines()[-1].partition(': ')[2]
    return message
