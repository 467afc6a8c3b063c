"""Reading from a socket, where the event loop is not enough."""

from __future__ import annotations

import os
import select
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

__all__ = ["arrivals", "is_tls_ended", "read_buffer", "read_rest"]

#: The most that one read takes.
_READ_SIZE = 128 * 1024


class _Memory(threading.local):
    def __init__(self) -> None:
        self.view = memoryview(bytearray(_READ_SIZE))


_memory = _Memory()


def read_buffer() -> memoryview:
    """Return the one buffer of all connections of a thread.

    What is read is parsed, and so copied, before anything else runs.
    """
    return _memory.view


def arrivals(descriptor: int) -> Callable[[], bool]:
    """Return what tells whether something has arrived that the event loop has not come to read.

    The end of the connection counts as well.
    """
    if not hasattr(select, "poll"):  # Windows
        return lambda: bool(select.select([descriptor], [], [], 0)[0])
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return lambda: bool(poll.poll(0))


def read_rest(descriptor: int) -> Iterator[bytes]:
    """Yield what has arrived on a socket that the event loop has given up."""
    with suppress(OSError):
        while data := os.read(descriptor, _READ_SIZE):
            yield data


def is_tls_ended(tls: ssl.SSLObject) -> bool:
    """Tell whether TLS itself has ended, with ``close_notify``, and not only TCP (RFC 8446, 6.1).

    Whoever sits in between can end the one, and make a body look complete, but not the other.
    """
    try:
        return tls.read(1) == b""
    except ssl.SSLZeroReturnError:
        return True
    except ssl.SSLError:
        return False
