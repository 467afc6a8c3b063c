"""Raw path and query bytes: from the client's request line to the upstream's.

The path that reaches an upstream is cut out of ``raw_path`` and joined to the upstream's base path.
It is never built from a decoded path parameter, so ``%2F``, ``%252F``, ``//`` inside a path and
bytes that are not UTF-8 arrive as they came.

Refused with 400, because one of the two sides would read another path than the other:

=========================  =====================================================================
no leading ``/``           absolute-form ``http://evil/``, authority-form, ``@evil``: only a server
                           or a forward proxy has a use for them (RFC 9112, 3.2)
leading ``//``             a network-path reference: ``//evil/x`` names a host (RFC 3986, 4.2)
dot segments               ``.`` and ``..``, also as ``%2e``, double encoded, overlong UTF-8
                           (``%c0%ae``), ``%u002e``, with a matrix parameter (``..;x``), a trailing
                           space or a backslash: they leave the base path once the upstream
                           resolves them
backslash                  literal or ``%5c``: some servers take it for a slash
control bytes              below 0x20 and 0x7f, literal or encoded: NUL ends a C string, CR and LF
                           end a line
other bytes                a literal space, ``#``, a ``?`` that delimits nothing or a byte above
                           0x7e is not legal in a target
encoded prefix boundary    ``/api%2fx`` for the prefix ``/api``: the router saw a slash that the
                           upstream would not
=========================  =====================================================================

A query that ASGI gives as empty is sent without its ``?``: ASGI cannot tell ``/x?`` from ``/x``.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple
from urllib.parse import quote, unquote_to_bytes

from ..exceptions import RequestRefused

__all__ = ["Location", "check_path", "check_query", "join", "locate", "quote_path", "raw_groups"]

#: A longer target is refused with 414 (nginx and Apache allow 8 KiB for the whole request line).
MAX_TARGET = 16 * 1024
#: A path that still changes when it has been decoded this often is an attack on the decoder.
_MAX_ENCODINGS = 8

_ILLEGAL = re.compile(rb"[^\x21-\x7e]|#")
_ILLEGAL_IN_PATH = re.compile(rb"[^\x21-\x7e]|[#?]")
_SUSPECT = re.compile(rb"[%\\]|/\.")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f\\]")
# What a decoder without checks takes for ASCII: sequences longer than need be, and a lead byte
# before a byte that cannot follow it.
_OVERLONG = re.compile(
    rb"[\xc0\xc1][\x80-\xbf]|\xe0[\x80-\x9f][\x80-\xbf]|\xf0[\x80-\x8f][\x80-\xbf]{2}"
    rb"|[\xc0\xc1][./\\]"
)
_WIDE = re.compile(rb"%u00([0-9a-f]{2})", re.IGNORECASE)
_ENCODED = re.compile(rb"%[0-9a-fA-F]{2}")


class Location(NamedTuple):
    """Where a request was found: raw bytes, in the order of the request line.

    Attributes:
        root: The application's ``root_path``, with the paths of mounts.
        prefix: What the including calls, the router and the mapping matched.
        rest: What is left: empty, or with a leading slash.
    """

    root: bytes
    prefix: bytes
    rest: bytes


def locate(scope: Any, slashes: int | None = None) -> Location:
    """Split the scope's raw path where the route's own part begins.

    Args:
        scope: The ASGI scope of a matched route.
        slashes: How many slashes, decoded ones included, the route's own part has. Counting from
            the end works for any nesting of routers, which a route cannot see. ``None``: the whole
            path below ``root_path`` is the route's own.

    Raises:
        RequestRefused: The raw path does not show the prefix that the router matched on.
    """
    path: str = scope["path"]
    raw: bytes = (scope.get("raw_path") or quote_path(path)).partition(b"?")[0]
    root_path: str = scope.get("root_path", "").rstrip("/")
    below = 0
    if root_path and (path + "/").startswith(root_path + "/"):
        below = _consumed(raw, root_path)
        path = path[len(root_path) :]
    prefix = "" if slashes is None else path.rsplit("/", slashes)[0] if slashes else path
    if prefix and not prefix.startswith("/"):
        raise RequestRefused("The request target is not a path")
    end = below + _consumed(raw[below:], prefix)
    return Location(quote_path(root_path), raw[below:end], raw[end:])


def _consumed(raw: bytes, decoded: str) -> int:
    """Return how many bytes of *raw* spell *decoded*."""
    wanted = decoded.encode()
    if b"%" not in wanted and raw.startswith(wanted):
        return len(wanted)
    position = 0
    for byte in wanted:
        length = 3 if _ENCODED.match(raw, position) else 1
        if unquote_to_bytes(raw[position : position + length]) != bytes([byte]):
            raise RequestRefused("The path does not match its own encoding")
        position += length
    return position


def check_path(rest: bytes) -> None:
    """Refuse a path that the upstream could read as another one; see the table above."""
    if _ILLEGAL_IN_PATH.search(rest):
        raise RequestRefused("The path has an illegal character")
    if rest and not rest.startswith(b"/"):
        raise RequestRefused("The request target is not a path below the prefix")
    if rest.startswith(b"//"):
        raise RequestRefused("The path begins with two slashes")
    if len(rest) > MAX_TARGET:
        raise RequestRefused("The request target is too long", status=414)
    if _SUSPECT.search(rest):
        _check_encodings(rest)


def _check_encodings(rest: bytes) -> None:
    if _CONTROL.search(unquote_to_bytes(rest)):
        raise RequestRefused("The path has an illegal character")
    for segment in re.split(rb"[/\\]", _fully_decoded(rest)):
        if segment.partition(b";")[0].rstrip(b" ") in (b".", b".."):
            raise RequestRefused("The path has a dot segment")


def _fully_decoded(raw: bytes) -> bytes:
    """Decode until nothing changes, in every encoding that a lenient server may know."""
    for _ in range(_MAX_ENCODINGS):
        decoded = _OVERLONG.sub(_plain, unquote_to_bytes(_WIDE.sub(rb"%\1", raw)))
        if decoded == raw:
            return decoded
        raw = decoded
    raise RequestRefused("The path is encoded too often")


def _plain(overlong: re.Match[bytes]) -> bytes:
    """Return the ASCII byte that the sequence stands for, or the sequence if it stands for none."""
    sequence = overlong[0]
    if sequence[-1] < 0x80:
        return sequence[-1:]
    value = sequence[0] & (0xFF >> (len(sequence) + 1))
    for byte in sequence[1:]:
        value = value << 6 | byte & 0x3F
    return bytes([value]) if value < 0x80 else sequence


def check_query(query: bytes) -> None:
    """Refuse a query that is not legal on a request line; any legal one is left as it is."""
    if _ILLEGAL.search(query):
        raise RequestRefused("The query has an illegal character")
    if len(query) > MAX_TARGET:
        raise RequestRefused("The request target is too long", status=414)


def join(base: bytes, rest: bytes, base_query: bytes, query: bytes) -> bytes:
    """Return the target for the upstream, without losing or doubling a slash.

    An empty *rest* (the bare prefix) is the base path itself; an empty query leaves no ``?``.
    """
    path = (base.removesuffix(b"/") + rest if rest else base) or b"/"
    both = b"&".join(part for part in (base_query, query) if part)
    return path + b"?" + both if both else path


def quote_path(path: str) -> bytes:
    """Percent-encode a decoded path. ``%``, ``?`` and ``#`` are text here, so they are encoded."""
    if not path:
        return b""
    return quote(path, safe="/:@!$&'()*+,;=~").encode()


def raw_groups(pattern: re.Pattern[bytes], raw: bytes) -> dict[str, bytes] | None:
    """Match *pattern* against the decoded path and return its groups as they stand in *raw*.

    So a pattern matches what FastAPI would match, and a captured ``a%2Fb`` stays ``a%2Fb``.
    """
    match = pattern.match(unquote_to_bytes(raw))
    if match is None:
        return None
    offsets, position = [], 0
    while position < len(raw):
        offsets.append(position)
        position += 3 if _ENCODED.match(raw, position) else 1
    offsets.append(len(raw))
    return {
        name: raw[offsets[match.start(name)] : offsets[match.end(name)]]
        for name in pattern.groupindex
    }
