"""Raw header pairs: what crosses a proxy, and how headers are edited.

Facts:

* A header is a pair of bytes; order and repetition carry meaning. Names reach us in lower case
  from ASGI and in any case from an upstream, so every comparison here lowers first.
* ``Connection`` names further headers that end at this hop, over all its lines, and an empty first
  line does not hide a later one (RFC 9110, 7.6.1).
* ``TE: trailers`` is the one TE value a proxy may pass on (RFC 9110, 10.1.4).
* HTTP/2 clients may split ``Cookie`` into several lines; towards HTTP/1.1 they are joined with
  ``"; "``, never with a comma (RFC 9113, 8.2.3). ``Set-Cookie`` is never joined (RFC 9110, 5.3).
* ``Expect`` is consumed here: the ASGI server says ``100 Continue`` itself when the body is first
  read, and that happens after the upstream is connected.
* CGI turns a request's ``Proxy`` into the variable HTTP_PROXY, so it does not cross (httpoxy).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

__all__ = [
    "HOP_BY_HOP",
    "NO_EDITS",
    "Edits",
    "Header",
    "content_length",
    "edit",
    "end_to_end",
    "field_values",
    "is_chunked",
    "is_name",
    "is_value",
    "request_headers",
    "response_headers",
    "spelled",
    "tokens",
]

Header = tuple[bytes, bytes]

#: Headers that end at this hop, whether ``Connection`` names them or not. The first nine are
#: RFC 9110's and RFC 2616's; the rest describe this connection or this server and not the next
#: one (the list is YARP's).
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"alpn",
        b"alt-svc",
        b"close",
        b"http2-settings",
        b"proxy-authentication-info",
        b"proxy-features",
        b"proxy-instruction",
        b"security-scheme",
        b"upgrade-insecure-requests",
    }
)


_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]*")
#: A ``Content_Length`` beside ours is a second length to an upstream that cannot tell them apart.
_IMITATED = HOP_BY_HOP | {b"content-length", b"host"}


def field_values(headers: Iterable[Header], name: bytes) -> list[bytes]:
    """Return the value of every line of *name* (given in lower case), in order."""
    return [value for key, value in headers if key.lower() == name]


def tokens(headers: Iterable[Header], name: bytes) -> Iterator[bytes]:
    """Yield the comma-separated tokens of all lines of *name*, trimmed and in lower case."""
    for value in field_values(headers, name):
        for token in value.split(b","):
            if stripped := token.strip().lower():
                yield stripped


def content_length(headers: Iterable[Header]) -> int | None:
    """Return the declared length, or ``None`` if there is none that can be read."""
    values = field_values(headers, b"content-length")
    return int(values[0]) if len(values) == 1 and values[0].isdigit() else None


def is_chunked(headers: Iterable[Header]) -> bool:
    """Tell whether the message is framed by ``Transfer-Encoding: chunked``."""
    return b"chunked" in tokens(headers, b"transfer-encoding")


def end_to_end(headers: Sequence[Header]) -> list[Header]:
    """Return *headers* without those that end at this hop (RFC 9110, 7.6.1)."""
    nominated = set(tokens(headers, b"connection"))
    return [
        (name, value)
        for name, value in headers
        if (key := name.lower()) not in nominated
        and key not in HOP_BY_HOP
        and not (b"_" in key and spelled(key) in _IMITATED)
        and not key.startswith(b":")
    ]


def request_headers(headers: Sequence[Header]) -> list[Header]:
    """Return a client's headers as they may cross to an upstream, without ``Host``.

    ``Transfer-Encoding: chunked`` is kept, because the body is forwarded in the framing it had.
    """
    kept: list[Header] = []
    cookie: int | None = None
    for name, value in end_to_end(headers):
        key = name.lower()
        if key in (b"host", b"expect", b"proxy"):
            continue
        if key == b"cookie":
            if cookie is not None:
                kept[cookie] = (name, kept[cookie][1] + b"; " + value)
                continue
            cookie = len(kept)
        kept.append((name, value))
    if b"trailers" in tokens(headers, b"te"):
        kept.append((b"te", b"trailers"))
    if is_chunked(headers):
        kept.append((b"transfer-encoding", b"chunked"))
    return kept


def response_headers(
    headers: Sequence[Header], status: int, *, keep_server_headers: bool
) -> list[Header]:
    """Return an upstream's headers as they may cross to the client.

    ``Date`` and ``Server`` are dropped unless *keep_server_headers*, because ASGI servers add their
    own and a response may carry only one of each. ``Content-Length`` gives way to
    ``Transfer-Encoding`` when a response has both (RFC 9112, 6.3), and is no use on 204 and 205.
    """
    dropped = set() if keep_server_headers else {b"date", b"server"}
    if is_chunked(headers) or status in (204, 205):
        dropped.add(b"content-length")
    return [pair for pair in end_to_end(headers) if pair[0].lower() not in dropped]


class Edits(NamedTuple):
    """Changes to a list of headers. Names are in lower case."""

    set: tuple[Header, ...] = ()
    add: tuple[Header, ...] = ()
    remove: frozenset[bytes] = frozenset()


NO_EDITS = Edits()


def edit(headers: list[Header], edits: Edits) -> list[Header]:
    """Return *headers* edited: first removed, then set, then added.

    A header that is set replaces every line of that name, also one spelled with underscores: many
    upstreams cannot tell a client's ``X_User`` from our ``X-User``.
    """
    if edits == NO_EDITS:
        return headers
    gone = {spelled(name) for name in edits.remove}
    gone.update(spelled(name) for name, _ in edits.set)
    return [*(pair for pair in headers if spelled(pair[0]) not in gone), *edits.set, *edits.add]


def spelled(name: bytes) -> bytes:
    """Return a name as a lenient upstream may read it: many cannot tell ``_`` from ``-``."""
    return name.lower().replace(b"_", b"-")


def is_name(name: bytes) -> bool:
    """Tell whether *name* is a token (RFC 9110, 5.1)."""
    return _NAME.fullmatch(name) is not None


def is_value(value: bytes) -> bool:
    """Tell whether *value* has no control byte but the tab (RFC 9110, 5.5)."""
    return _VALUE.fullmatch(value) is not None
