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

A refusal asks the server to close the connection when a body may follow on it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..exceptions import BadGateway, RequestRefused
from .headers import Header, content_length, field_values, is_name, is_value, tokens
from .upstream import Upstream

__all__ = ["announces_body", "check_request", "check_response", "is_bodyless", "is_refusal"]

_REFUSED_METHODS = frozenset({"CONNECT", "TRACE"})
_ALLOWED = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
_MAX_LENGTH = 2**63 - 1
_HOST = re.compile(rb"([0-9A-Za-z._~%-]*|\[[0-9A-Fa-f:.]+\])(:[0-9]{0,5})?")


def announces_body(headers: Sequence[Header]) -> bool:
    """Tell whether the headers of an HTTP/1 request say that a body follows (RFC 9112, 6)."""
    return any(name.lower() in (b"content-length", b"transfer-encoding") for name, _ in headers)


def is_refusal(status: int) -> bool:
    """Tell whether a status may answer a WebSocket handshake: a redirect or an error."""
    return 300 <= status <= 599


def is_bodyless(method: str, status: int) -> bool:
    """Tell whether a response has no body, whatever its headers say (RFC 9112, 6.3)."""
    return method == "HEAD" or status in (204, 205, 304)


def check_request(method: str, http_version: str, headers: Sequence[Header]) -> None:
    """Refuse a request that could mean two things.

    Raises:
        RequestRefused: 405 for a method that is not forwarded, else 400.
    """
    if method.upper() in _REFUSED_METHODS:
        refusal = RequestRefused("Method Not Allowed", status=405, close=http_version == "1.1")
        refusal.headers = {**(refusal.headers or {}), "Allow": _ALLOWED}
        raise refusal
    if (mistake := _mistake(http_version, headers)) is not None:
        close = http_version in ("1.0", "1.1") and announces_body(headers)
        raise RequestRefused(mistake, close=close)


def _mistake(http_version: str, headers: Sequence[Header]) -> str | None:
    if not _legal(headers):
        return "The request has an illegal header"
    hosts = field_values(headers, b"host")
    if len(hosts) > 1 or (http_version == "1.1" and not hosts):
        return "The request needs exactly one Host"
    if hosts and not _HOST.fullmatch(hosts[0]):
        return "The request has an invalid Host"
    if not {b"host", b"content-length"}.isdisjoint(tokens(headers, b"connection")):
        return "Connection names a header that cannot be dropped"
    return _framing_mistake(http_version, headers)


def _framing_mistake(http_version: str, headers: Sequence[Header]) -> str | None:
    codings = field_values(headers, b"transfer-encoding")
    lengths = field_values(headers, b"content-length")
    if codings and (lengths or http_version == "1.0"):
        return "The request has an ambiguous length"
    if codings and [coding.strip().lower() for coding in codings] != [b"chunked"]:
        return "The request has an unknown Transfer-Encoding"
    if lengths and (content_length(headers) is None or int(lengths[0]) > _MAX_LENGTH):
        return "The request has an invalid Content-Length"
    if (codings or lengths not in ([], [b"0"])) and field_values(headers, b"upgrade"):
        return "The request has both a body and an Upgrade"
    return None


def _legal(headers: Sequence[Header]) -> bool:
    return all(is_name(name) and is_value(value) for name, value in headers)


def check_response(upstream: Upstream, status: int, headers: Sequence[Header]) -> None:
    """Refuse a response that an ASGI server could not send, or a client could misread.

    Raises:
        BadGateway: It has an illegal status, header or length.
    """
    mistake = None
    if not 200 <= status <= 599:
        mistake = f"status {status}"
    elif not _legal(headers):
        mistake = "an illegal header"
    elif content_length(headers) is None and field_values(headers, b"content-length"):
        mistake = "an invalid Content-Length"
    if mistake is not None:
        raise BadGateway(f"the upstream sent {mistake}", upstream=upstream, stage="head")
