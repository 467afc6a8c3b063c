"""WebSocket: the headers that cross, and the close codes that may be sent.

Facts (RFC 6455):

* ``Sec-WebSocket-Key``, ``-Accept``, ``-Version`` and ``-Extensions`` belong to one connection;
  each side of a proxy has its own (4.1, 9.1). Subprotocols are negotiated end to end (1.9).
* 1005, 1006 and 1015 describe the end of a connection and are never sent; 1004 and 1016 to 2999 are
  reserved; 3000 to 4999 belong to libraries and applications (7.4).
* A reason has at most 123 bytes of UTF-8, so that the close frame fits in 125 (5.5).
"""

from __future__ import annotations

from collections.abc import Sequence

from .headers import end_to_end
from .names import Header

__all__ = [
    "ABNORMAL",
    "CLIENT_LOST",
    "UPSTREAM_LOST",
    "accept_headers",
    "close_frame",
    "handshake_headers",
]

#: What the server reports when a client vanished without a close frame.
ABNORMAL = 1006
#: The upstream is told so when the client vanished.
CLIENT_LOST = 1001
#: "Bad Gateway" in the IANA registry: the client is told so when the upstream vanished.
UPSTREAM_LOST = 1014
_NO_STATUS = 1005
_TLS_FAILED = 1015
_PER_HOP = b"sec-websocket-"


def handshake_headers(headers: Sequence[Header]) -> list[Header]:
    """Return the client's headers that cross to the upstream, without ``Host``."""
    return _without(end_to_end(headers), b"host", b"content-length", b"expect")


def accept_headers(headers: Sequence[Header]) -> list[Header]:
    """Return the headers of the upstream's 101 that cross to the client, such as Set-Cookie."""
    return _without(end_to_end(headers), b"content-length", b"date", b"server")


def _without(headers: list[Header], *names: bytes) -> list[Header]:
    return [
        (name, value)
        for name, value in headers
        if (key := name.lower()) not in names and not key.startswith(_PER_HOP)
    ]


def close_frame(code: int | None, reason: str, *, lost: int) -> tuple[int | None, str]:
    """Return the code and reason that pass on an end which the other side reported.

    No code stays no code (``None``: a close frame without one). A side that vanished becomes
    *lost*. Anything else that may not be sent becomes 1002: the other side broke the rules.
    """
    if code is None or code == _NO_STATUS:
        return None, ""
    if code in (ABNORMAL, _TLS_FAILED):
        return lost, ""
    if code in (1000, 1001, 1002, 1003) or 1007 <= code <= 1014 or 3000 <= code <= 4999:
        return code, reason.encode()[:123].decode(errors="ignore")
    return 1002, ""
