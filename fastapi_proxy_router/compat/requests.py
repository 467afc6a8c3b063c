"""What the arguments of fastapi-reverse-proxy mean in bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

from starlette.requests import HTTPConnection

from ..core.headers import Edits, field_values, is_value
from ..core.names import HOP_BY_HOP, Header, is_name, spelled
from ..core.policy import Timeout
from ..core.target import locate

__all__ = [
    "Body",
    "GivenHeaders",
    "HeaderChanges",
    "body_of",
    "deadlines",
    "header_changes",
    "quoted",
    "target_of",
]

#: Headers as a program gives them.
GivenHeaders = Mapping[Any, Any]

#: What belongs to the connection or to the body, whoever gives it.
_NOT_TO_GIVE = HOP_BY_HOP | {b"content-length", b"expect", b"host", b"proxy", b"trailers"}
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
#: What is added to the client's headers on the way.
_ADDED = frozenset(
    {
        b"forwarded",
        b"via",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"x-forwarded-prefix",
        b"x-forwarded-proto",
    }
)
_LONE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_IN_PATH = "/:@!$&'()*+,;=~%"
_IN_QUERY = _IN_PATH + "?[]"


# --- Path and query ------------------------------------------------------------------------------


def target_of(
    connection: HTTPConnection, path: str | None, *, forward_query: bool
) -> tuple[bytes | None, bytes | None]:
    """Return the path and the query to send, raw; ``None`` is the client's.

    Args:
        connection: The client's request.
        path: Text of a URL, percent-encoded where it is not yet, perhaps with a query. One that was
            made from a path parameter is taken as the client wrote it.
        forward_query: Whether the client's query is sent, behind that of *path*.

    Raises:
        RequestRefused: The parameter cannot be found in what the client wrote.
    """
    own, target = "", None
    if path is not None:
        target = _as_received(connection, path)
        if target is None:
            text, _, own = path.partition("?")
            target = quoted(text if text[:1] in ("/", "") else f"/{text}", _IN_PATH)
    if forward_query and not own:
        return target, None
    parts = [quoted(own)]
    if forward_query:
        parts.append(connection.scope["query_string"])
    return target, b"&".join(part for part in parts if part)


def _as_received(connection: HTTPConnection, path: str) -> bytes | None:
    """Return the bytes that *path* was decoded from, if it is the request's or the end of it.

    ``{path:path}`` has lost whether a slash or a question mark was encoded.
    """
    scope = connection.scope
    decoded: str = scope["path"]
    tail = path.removeprefix("/")
    if tail in map(str, scope.get("path_params", {}).values()) and decoded.endswith(f"/{tail}"):
        return locate(scope, tail.count("/") + 1).rest
    if path in (decoded, connection.url.path):
        return locate({**scope, "root_path": ""}).rest
    return None


def quoted(text: str, safe: str = _IN_QUERY) -> bytes:
    """Percent-encode what is not yet in *text* and has to be."""
    return quote(_LONE_PERCENT.sub("%25", text), safe=safe).encode()


# --- Headers -------------------------------------------------------------------------------------


class HeaderChanges(NamedTuple):
    """Edits of the client's headers, and the ``Host`` among them."""

    edits: Edits
    host: str | None


def header_changes(
    received: list[Header],
    additional: GivenHeaders | None,
    override: GivenHeaders | None,
    *,
    json_body: bool = False,
) -> HeaderChanges:
    """Return what *additional* and *override* make of the client's headers.

    Args:
        received: The client's headers.
        additional: Each replaces the lines of its name. A ``Host`` among them is sent.
        override: Sent instead of the client's; nothing is added to them but the framing.
        json_body: The body is new, and JSON unless something else is said of it.

    Raises:
        TypeError: A header is neither text nor bytes.
        ValueError: A header cannot be sent.
    """
    added, instead = _pairs(additional), _pairs(override)
    host = added.get(b"host")
    given = {
        name: value
        for name, value in {**instead, **added}.items()
        if spelled(name) not in _NOT_TO_GIVE and not name.startswith(b"sec-websocket-")
    }
    untyped = override is not None or not field_values(received, b"content-type")
    if json_body and untyped:
        given.setdefault(b"content-type", b"application/json")
    removed: frozenset[bytes] = frozenset()
    if override is not None:
        names = {name.lower() for name, _ in received if spelled(name) not in _FRAMING}
        removed = _ADDED | names
    edits = Edits(set=tuple(given.items()), remove=removed)
    return HeaderChanges(edits, None if host is None else host.decode("latin-1"))


def _pairs(headers: GivenHeaders | None) -> dict[bytes, bytes]:
    pairs = {}
    for name, value in dict(headers or {}).items():
        key, line = _encoded(name).lower(), _encoded(value).strip()
        if not is_name(key) or not is_value(line):
            raise ValueError(f"header {name!r} cannot be sent")
        pairs[key] = line
    return pairs


def _encoded(text: object) -> bytes:
    """Return *text* as bytes: as Starlette has decoded it, if that is possible."""
    if isinstance(text, bytes):
        return text
    if not isinstance(text, str):
        raise TypeError(f"a header is text or bytes, not {text!r}")
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode()


# --- Body and deadlines --------------------------------------------------------------------------


class Body(NamedTuple):
    """A body to send instead of the client's, and whether it is JSON."""

    content: bytes | None
    is_json: bool = False


def body_of(given: object) -> Body:
    """Return the body that *given* stands for.

    Raises:
        TypeError: It is nothing that can be sent.
    """
    match given:
        case None:
            return Body(None)
        case list() | dict():
            return Body(json.dumps(given).encode(), is_json=True)
        case str():
            return Body(given.encode())
        case bytes() | bytearray() | memoryview():
            return Body(bytes(given))
    raise TypeError(f"override_body may be bytes, str, list or dict, not {type(given).__name__}")


def deadlines(timeout: float | Timeout | None) -> Timeout:
    """Return the deadlines of one number of seconds; a body may pause for longer.

    Else an event stream would end as soon as nothing happens for a minute.
    """
    if isinstance(timeout, Timeout):
        return timeout
    pause = Timeout().idle
    if timeout is None or pause is None:
        return Timeout(connect=timeout, response=timeout, idle=None, pool=timeout)
    return Timeout(connect=timeout, response=timeout, idle=max(timeout, pause), pool=timeout)
