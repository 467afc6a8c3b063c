"""What the names in a list of headers say, whatever their values are.

Every request and response is asked the same: are the names legal, which lines end at this hop, does
one imitate a header of ours? The answers depend on the names alone, and clients and upstreams send
the same names in the same order again and again, so the answers are remembered.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

__all__ = ["HOP_BY_HOP", "Header", "Shape", "grants_trust", "is_name", "shape_of", "spelled"]

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
#: Headers of a request that are consumed here. CGI turns ``Proxy`` into HTTP_PROXY (httpoxy).
_CONSUMED = frozenset({b"host", b"expect", b"proxy"})
#: Headers that ASGI servers add to a response themselves; a response may carry one of each.
_SERVERS_OWN = frozenset({b"date", b"server"})
#: A ``Content_Length`` beside ours is a second length to an upstream that cannot tell them apart.
_IMITATED = HOP_BY_HOP | {b"content-length", b"host"}
#: Longer lists of names are not remembered, so that nobody can fill the memory with them.
_REMEMBERED = 2048


class Shape(NamedTuple):
    """What the names say.

    Attributes:
        names: The names, in lower case.
        size: Their length in all.
        legal: Every one is a token.
        repeats: One comes more than once.
        grants_trust: One says who the client is.
        crossing: For each line, whether it may cross this hop.
        to_upstream: Likewise, in a request.
        to_client: Likewise, in a response to a client of a server that has its own ``Date``.
    """

    names: frozenset[bytes]
    size: int
    legal: bool
    repeats: bool
    grants_trust: bool
    crossing: tuple[bool, ...]
    to_upstream: tuple[bool, ...]
    to_client: tuple[bool, ...]


def shape_of(headers: Sequence[Header]) -> Shape:
    """Return what the names of *headers* say."""
    names = tuple([name for name, _ in headers])
    return _remembered(names) if sum(map(len, names)) <= _REMEMBERED else _shape(names)


def _shape(names: tuple[bytes, ...]) -> Shape:
    lowered = [name.lower() for name in names]
    crossing = [_may_cross(name) for name in lowered]
    return Shape(
        names=frozenset(lowered),
        size=sum(map(len, names)),
        legal=all(map(is_name, names)),
        repeats=len(set(lowered)) < len(lowered),
        grants_trust=any(map(grants_trust, lowered)),
        crossing=tuple(crossing),
        to_upstream=tuple(
            may and name not in _CONSUMED for may, name in zip(crossing, lowered, strict=True)
        ),
        to_client=tuple(
            may and name not in _SERVERS_OWN for may, name in zip(crossing, lowered, strict=True)
        ),
    )


_remembered = lru_cache(maxsize=1024)(_shape)


def _may_cross(name: bytes) -> bool:
    imitates = b"_" in name and spelled(name) in _IMITATED
    return name not in HOP_BY_HOP and not imitates and not name.startswith(b":")


def grants_trust(name: bytes) -> bool:
    """Tell whether upstreams believe a header of this name about the client."""
    key = spelled(name)
    return key.startswith(b"x-forwarded-") or key in (b"forwarded", b"x-real-ip")


def spelled(name: bytes) -> bytes:
    """Return a name as a lenient upstream may read it: many cannot tell ``_`` from ``-``."""
    return name.lower().replace(b"_", b"-")


def is_name(name: bytes) -> bool:
    """Tell whether *name* is a token (RFC 9110, 5.1)."""
    return _NAME.fullmatch(name) is not None
