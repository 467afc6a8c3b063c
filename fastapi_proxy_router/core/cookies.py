"""Cookies of a request, in bytes.

* HTTP/2 clients may send ``Cookie`` in several lines, which mean the same as one (RFC 9113, 8.2.3).
* A name that comes more than once is no mistake: clients send the cookies of longer paths first
  (RFC 6265, 5.4), so the first is the one that was set for just these pages.
* Nothing is decoded and nothing is refused: pairs that cannot be read are not there.
"""

from __future__ import annotations

from collections.abc import Iterable

from .headers import field_values
from .names import Header

__all__ = ["LONGEST", "cookie_values"]

#: A request with a longer line is refused before it is forwarded; it is not worth reading.
LONGEST = 64 * 1024


def cookie_values(headers: Iterable[Header], name: bytes) -> list[bytes]:
    """Return the value of every cookie of this *name*, in the order of the client."""
    values: list[bytes] = []
    for line in field_values(headers, b"cookie"):
        if name in line and len(line) <= LONGEST:
            pairs = [pair.strip(b" \t").partition(b"=") for pair in line.split(b";")]
            values += [value for key, equals, value in pairs if equals and key == name]
    return values
