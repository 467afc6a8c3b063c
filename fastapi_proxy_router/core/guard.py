"""Is this request safe to forward? Is this response safe to relay?

Servers differ in what they let through to ASGI, so the framing is judged here once more:

* No header has a control byte: CR and LF, which HTTP/2 and a careless parser let through, would
  begin another header, and NUL would end one (RFC 9110, 5.5).
* A request has one ``Host`` on HTTP/1.1, of a name or an address and a port (RFC 9112, 3.2).
* Its framing can be read one way only: ``Content-Length`` or ``Transfer-Encoding``, the one a
  single line of digits, the other exactly ``chunked`` (RFC 9112, 6.1 and 6.3).
* It has no ``Upgrade`` together with a body: uvicorn's httptools parser gives up the body and reads
  it as the next request.
* ``Connection`` may not name ``Host`` or ``Content-Length``: without them it is another message.
* ``CONNECT`` asks for a tunnel and ``TRACE`` for an echo of credentials; neither is forwarded.

* A name with an underscore that a lenient upstream reads as a header of ours is dropped elsewhere
  (``headers``); the number and the size of the headers are limited here (RFC 6585, 5).

Whole requests are judged by a few operations on all names and all values at once, because this runs
for every request.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..exceptions import BadGateway, RequestRefused
from .headers import content_length, field_values, tokens
from .names import Header, Shape, shape_of
from .upstream import Upstream

__all__ = [
    "BODYLESS",
    "announces_body",
    "check_request",
    "check_response",
    "is_bodyless",
    "is_host",
    "is_refusal",
    "response_mistake",
]

#: The most header lines of a request, and the most bytes in them (Apache's and Envoy's limits are
#: of this order). What an ASGI server takes is up to the server; more is not forwarded.
MAX_HEADERS = 128
MAX_HEADER_BYTES = 64 * 1024

#: The statuses of responses without a body (RFC 9110, 15.3.5, 15.3.6 and 15.4.5).
BODYLESS = frozenset({204, 205, 304})

_REFUSED_METHODS = frozenset({"CONNECT", "TRACE"})
_ALLOWED = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
_MAX_LENGTH = 2**63 - 1
# granian calls HTTP/1.0 "1".
_VERSIONS = frozenset({"1", "1.0", "1.1", "2", "3"})
_RESPONSE_VERSIONS = frozenset({"1.0", "1.1"})
_CONTROL = bytes([*range(9), *range(10, 32), 127])
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
_KEPT = frozenset({b"host", b"content-length"})
_PORT = rb"[0-5]?[0-9]{0,4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]"
_HOST = re.compile(rb"([0-9A-Za-z._~%-]*|\[[0-9A-Fa-f:.]+\])(:(" + _PORT + rb"))?")


def announces_body(headers: Sequence[Header]) -> bool:
    """Tell whether a request's headers say that a body follows (RFC 9112, 6)."""
    fields = dict(headers)
    return b"content-length" in fields or b"transfer-encoding" in fields


def is_refusal(status: int) -> bool:
    """Tell whether a status may answer a WebSocket handshake: a redirect or an error."""
    return 300 <= status <= 599


def is_bodyless(method: str, status: int) -> bool:
    """Tell whether a response has no body, whatever its headers say (RFC 9112, 6.3)."""
    return method == "HEAD" or status in BODYLESS


def check_request(method: str, http_version: str, headers: Sequence[Header]) -> Shape:
    """Refuse a request that could mean two things; return what the names of its headers say.

    Raises:
        RequestRefused: 405 for a method that is not forwarded, else 400.
    """
    if method.upper() in _REFUSED_METHODS:
        refusal = RequestRefused("Method Not Allowed", status=405)
        refusal.headers = {"Allow": _ALLOWED}
        raise refusal
    shape = shape_of(headers)
    values = b"".join([value for _, value in headers])
    mistake, status = None, 400
    if len(headers) > MAX_HEADERS or shape.size + len(values) > MAX_HEADER_BYTES:
        mistake, status = "The headers are too large", 431
    elif http_version not in _VERSIONS:
        mistake = "The request has an unknown version of HTTP"
    elif not shape.legal or not _is_clean(values):
        mistake = "The request has an illegal header"
    else:
        mistake = (
            _host_mistake(http_version, headers)
            or _connection_mistake(headers, shape)
            or _framing_mistake(http_version, headers, shape)
        )
    if mistake is not None:
        raise RequestRefused(mistake, status=status)
    return shape


def is_host(value: bytes) -> bool:
    """Tell whether *value* may be that of a ``Host``."""
    return _HOST.fullmatch(value) is not None


def _host_mistake(http_version: str, headers: Sequence[Header]) -> str | None:
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1 or (http_version == "1.1" and not hosts):
        return "The request needs exactly one Host"
    if hosts and not is_host(hosts[0]):
        return "The request has an invalid Host"
    return None


def _connection_mistake(headers: Sequence[Header], shape: Shape) -> str | None:
    if b"connection" not in shape.names or _KEPT.isdisjoint(tokens(headers, b"connection")):
        return None
    return "Connection names a header that cannot be dropped"


def _framing_mistake(http_version: str, headers: Sequence[Header], shape: Shape) -> str | None:
    if _FRAMING.isdisjoint(shape.names):
        return None
    codings = field_values(headers, b"transfer-encoding")
    lengths = field_values(headers, b"content-length")
    if codings and (lengths or http_version in ("1", "1.0")):
        return "The request has an ambiguous length"
    if codings and [coding.strip().lower() for coding in codings] != [b"chunked"]:
        return "The request has an unknown Transfer-Encoding"
    if lengths and (content_length(headers) is None or int(lengths[0]) > _MAX_LENGTH):
        return "The request has an invalid Content-Length"
    if (codings or lengths not in ([], [b"0"])) and field_values(headers, b"upgrade"):
        return "The request has both a body and an Upgrade"
    return None


def _is_clean(values: bytes) -> bool:
    """Tell whether there is no control byte in *values* but the tab."""
    return len(values.translate(None, _CONTROL)) == len(values)


def response_mistake(
    status: int, headers: Sequence[Header], http_version: str = "1.1"
) -> str | None:
    """Return what makes a response one that a server could not send or a client could misread.

    Args:
        status: Its status; interim ones (1xx) are none that answer a request.
        headers: Its headers, as they came.
        http_version: Its version of HTTP/1.
    """
    if not 200 <= status <= 599:
        return f"it sent status {status}"
    if http_version not in _RESPONSE_VERSIONS:
        return f"it answered with HTTP/{http_version}"
    shape = shape_of(headers)
    if not shape.legal or not _is_clean(b"".join([value for _, value in headers])):
        return "it sent an illegal header"
    lengths = field_values(headers, b"content-length") if b"content-length" in shape.names else []
    if len(lengths) > 1 or (lengths and not lengths[0].isdigit()):
        return "it sent an ambiguous length"
    if b"transfer-encoding" in shape.names:
        codings = [value.strip().lower() for value in field_values(headers, b"transfer-encoding")]
        if codings != [b"chunked"] or lengths or http_version == "1.0":
            return "it sent an ambiguous or unknown Transfer-Encoding"
    return None


def check_response(upstream: Upstream, status: int, headers: Sequence[Header]) -> None:
    """Refuse a response that an ASGI server could not send, or a client could misread.

    Raises:
        BadGateway: It has an illegal status, header or length.
    """
    if (mistake := response_mistake(status, headers)) is not None:
        raise BadGateway(mistake, upstream=upstream, stage="head")
