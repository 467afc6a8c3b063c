"""WebSocket: who may open one, the headers that cross, and the close codes that may be sent.

Facts (RFC 6455):

* ``Sec-WebSocket-Key``, ``-Accept``, ``-Version`` and ``-Extensions`` belong to one connection;
  each side of a proxy has its own (4.1, 9.1). Subprotocols are negotiated end to end (1.9); each is
  a token (4.1).
* 1005, 1006 and 1015 describe the end of a connection and are never sent; 1004 and 1016 to 2999 are
  reserved; 3000 to 4999 belong to libraries and applications (7.4).
* A reason has at most 123 bytes of UTF-8, so that the close frame fits in 125 (5.5).
* Browsers let any page open a WebSocket to anywhere, with cookies; only ``Origin`` tells (10.2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..exceptions import RequestRefused
from .headers import end_to_end, field_values
from .names import Header, Shape, is_name

__all__ = [
    "ABNORMAL",
    "CLIENT_LOST",
    "UPSTREAM_LOST",
    "accept_headers",
    "check_origin",
    "close_frame",
    "disconnection",
    "handshake_headers",
    "offered",
    "refusal_headers",
]

#: What is reported when a side vanished without a close frame.
ABNORMAL = 1006
#: The upstream is told so when the client vanished.
CLIENT_LOST = 1001
#: "Bad Gateway" in the IANA registry: the client is told so when the upstream vanished.
UPSTREAM_LOST = 1014
_NO_STATUS = 1005
_TLS_FAILED = 1015
_PER_HOP = b"sec-websocket-"


def check_origin(headers: Sequence[Header], allowed: Sequence[str] | None) -> None:
    """Refuse a page of an origin that is not allowed; whoever sends no ``Origin`` is no page.

    Raises:
        RequestRefused: 403.
    """
    if allowed is None:
        return
    origins = field_values(headers, b"origin")
    if origins and (len(origins) > 1 or origins[0].decode("latin-1") not in allowed):
        raise RequestRefused("The origin is not allowed", status=403)


def offered(subprotocols: Sequence[str]) -> list[str]:
    """Return the subprotocols that a client offers, without empty elements of its list.

    Raises:
        RequestRefused: One is not a token.
    """
    offers = [name for name in subprotocols if name]
    if not all(name.isascii() and is_name(name.encode()) for name in offers):
        raise RequestRefused("A subprotocol is not a token")
    return offers


def handshake_headers(headers: Sequence[Header], shape: Shape | None = None) -> list[Header]:
    """Return the client's headers that cross to the upstream, without ``Host``."""
    return _without(end_to_end(headers, shape), b"host", b"content-length", b"expect")


def accept_headers(headers: Sequence[Header]) -> list[Header]:
    """Return the headers of the upstream's 101 that cross to the client, such as Set-Cookie."""
    return _without(end_to_end(headers), b"content-length", b"date", b"server")


def refusal_headers(headers: Sequence[Header]) -> list[Header]:
    """Return the headers of a refusal, but those that answer the handshake of ours."""
    return _without(headers)


def _without(headers: Sequence[Header], *names: bytes) -> list[Header]:
    return [
        (name, value)
        for name, value in headers
        if (key := name.lower()) not in names and not key.startswith(_PER_HOP)
    ]


def disconnection(message: Mapping[str, Any]) -> tuple[int, str]:
    """Return the code and reason of an ASGI ``websocket.disconnect``; 1006 if the client vanished.

    uvicorn says 1005 of that, too, and only leaves out the reason, which it gives for a close frame
    without a code. Servers that never give one (granian) do not say which it was: vanished, then.
    """
    code, reason = message.get("code"), message.get("reason")
    if code is None or (code == _NO_STATUS and reason is None):
        return ABNORMAL, ""
    return int(code), reason or ""


def close_frame(code: int, reason: str, *, lost: int) -> tuple[int | None, str]:
    """Return the code and reason that pass on an end which the other side reported.

    No code stays no code (``None``: a close frame without one). A side that vanished becomes
    *lost*. Anything else that may not be sent becomes 1002: the other side broke the rules.
    """
    if code == _NO_STATUS:
        return None, ""
    if code in (ABNORMAL, _TLS_FAILED):
        return lost, ""
    if code in (1000, 1001, 1002, 1003) or 1007 <= code <= 1014 or 3000 <= code <= 4999:
        return code, reason.encode(errors="replace")[:123].decode(errors="ignore")
    return 1002, ""
