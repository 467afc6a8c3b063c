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
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import compress
from typing import Literal, NamedTuple

from .names import Header, Shape, grants_trust, shape_of, spelled

__all__ = [
    "Edits",
    "When",
    "applies",
    "content_length",
    "edit",
    "end_to_end",
    "field_values",
    "is_chunked",
    "is_value",
    "lowered",
    "request_headers",
    "response_headers",
    "tokens",
]

#: What says how a message is to be read and where it went, which no allow-list is about.
_OURS = frozenset(
    {
        b"content-length",
        b"transfer-encoding",
        b"te",
        b"via",
        b"content-type",
        b"content-encoding",
    }
)
_VALUE = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]*")


def lowered(headers: Sequence[Header]) -> Sequence[Header]:
    """Return *headers* with their names in lower case, as ASGI has them; mostly they are."""
    if b"".join([name for name, _ in headers]).islower():
        return headers
    return [(name.lower(), value) for name, value in headers]


def field_values(headers: Iterable[Header], name: bytes) -> list[bytes]:
    """Return the value of every line of *name* (given in lower case), in order."""
    return [value for key, value in headers if key.lower() == name]


def tokens(headers: Iterable[Header], name: bytes) -> frozenset[bytes]:
    """Return the comma-separated tokens of all lines of *name*, trimmed and in lower case."""
    value = b",".join(field_values(headers, name))
    return _remembered(value) if len(value) <= _REMEMBERED else _split(value)


def _split(value: bytes) -> frozenset[bytes]:
    return frozenset(token for part in value.lower().split(b",") if (token := part.strip()))


#: There are few values of ``Connection``; long ones are not kept, to be safe from the others.
_REMEMBERED = 64
_remembered = lru_cache(maxsize=256)(_split)


def content_length(headers: Iterable[Header]) -> int | None:
    """Return the declared length, or ``None`` if there is none that can be read."""
    values = field_values(headers, b"content-length")
    return int(values[0]) if len(values) == 1 and values[0].isdigit() else None


def is_chunked(headers: Iterable[Header]) -> bool:
    """Tell whether the message is framed by ``Transfer-Encoding: chunked``."""
    return b"chunked" in tokens(headers, b"transfer-encoding")


def end_to_end(headers: Sequence[Header], shape: Shape | None = None) -> list[Header]:
    """Return *headers* without those that end at this hop (RFC 9110, 7.6.1).

    Names are in lower case, as ASGI has them: middleware compares them. Whoever knows the *shape*
    of the headers may give it.
    """
    shape = shape or shape_of(headers)
    return [(name.lower(), value) for name, value in _crossing(headers, shape, shape.crossing)]


def _crossing(headers: Sequence[Header], shape: Shape, mask: tuple[bool, ...]) -> list[Header]:
    kept = list(compress(headers, mask))
    if b"connection" in shape.names:
        nominated = tokens(headers, b"connection")
        if not nominated.isdisjoint(shape.names):
            kept = [pair for pair in kept if pair[0].lower() not in nominated]
    return kept


def request_headers(headers: Sequence[Header], shape: Shape | None = None) -> list[Header]:
    """Return a client's headers as they may cross to an upstream, without ``Host``.

    ``Transfer-Encoding: chunked`` is kept, because the body is forwarded in the framing it had.
    Whoever knows the *shape* of the headers may give it.
    """
    shape = shape or shape_of(headers)
    kept = _crossing(headers, shape, shape.to_upstream)
    if shape.repeats and len(field_values(kept, b"cookie")) > 1:
        kept = _with_one_cookie(kept)
    if b"te" in shape.names and b"trailers" in tokens(headers, b"te"):
        kept.append((b"te", b"trailers"))
    if b"transfer-encoding" in shape.names and is_chunked(headers):
        kept.append((b"transfer-encoding", b"chunked"))
    return kept


def _with_one_cookie(headers: list[Header]) -> list[Header]:
    """Join the lines of ``Cookie`` in the place of the first."""
    cookie = (b"cookie", b"; ".join(field_values(headers, b"cookie")))
    first = next(index for index, (name, _) in enumerate(headers) if name == b"cookie")
    rest = [pair for pair in headers[first:] if pair[0] != b"cookie"]
    return [*headers[:first], cookie, *rest]


def response_headers(
    headers: Sequence[Header], status: int, *, keep_server_headers: bool
) -> list[Header]:
    """Return an upstream's headers as they may cross to the client.

    ``Date`` and ``Server`` are dropped unless *keep_server_headers*, because ASGI servers add their
    own and a response may carry only one of each. ``Content-Length`` is dropped where there is no
    body: uvicorn waits for the bytes that it promises.
    """
    shape = shape_of(headers)
    kept = _crossing(headers, shape, shape.crossing if keep_server_headers else shape.to_client)
    crossing = [(name.lower(), value) for name, value in kept]
    if status in (204, 205, 304):
        crossing = [pair for pair in crossing if pair[0] != b"content-length"]
    return crossing


#: Which responses an edit is for: any, those with a status below 400, or all others (YARP's rule).
When = Literal["always", "success", "failure"]


def applies(when: When, status: int) -> bool:
    """Tell whether a response of *status* is one of those."""
    return when == "always" or (when == "success") == (status < 400)


class Edits(NamedTuple):
    """Changes to a list of headers. Names are in lower case.

    ``keep`` is what may stay of the sender's headers; ``None`` is all. ``of_body`` says that they
    come with a body, which the handshake of a WebSocket has none of.
    """

    set: tuple[Header, ...] = ()
    add: tuple[Header, ...] = ()
    remove: frozenset[bytes] = frozenset()
    keep: frozenset[bytes] | None = None
    when: When = "always"
    of_body: bool = False

    def applies(self, status: int) -> bool:
        """Tell whether this is for a response of *status*."""
        return applies(self.when, status)


def edit(headers: list[Header], edits: Edits) -> list[Header]:
    """Return *headers* edited: first those removed that are not to be kept, then set, then added.

    What frames the message, and what we say of the client, is kept in any case. A header that is
    set replaces every line of that name, also one spelled with underscores: many upstreams cannot
    tell a client's ``X_User`` from our ``X-User``.
    """
    keep = edits.keep
    if keep is not None:
        headers = [pair for pair in headers if pair[0] in keep or _is_ours(pair[0])]
    gone = {spelled(name) for name in edits.remove}
    gone.update(spelled(name) for name, _ in edits.set)
    return [*(pair for pair in headers if spelled(pair[0]) not in gone), *edits.set, *edits.add]


def _is_ours(name: bytes) -> bool:
    return name in _OURS or grants_trust(name)


def is_value(value: bytes) -> bool:
    """Tell whether *value* has no control byte but the tab (RFC 9110, 5.5)."""
    return _VALUE.fullmatch(value) is not None
