"""A policy that sends what belongs together to the same upstream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import blake2b
from math import log
from struct import Struct

from starlette.requests import HTTPConnection

from ..exceptions import ConfigurationError
from .balancer import Balancer
from .drawing import TwoChoices
from .forwarded import client_address
from .names import is_name
from .policy import DEFAULT_POLICY
from .upstream import Upstream

__all__ = ["HASH_KEYS", "ConsistentHash"]

#: What can be hashed, as it is spelled.
HASH_KEYS = ("client", "path", "header:<name>", "cookie:<name>", "query:<name>")
#: Hashes are below this prime, the largest one with which Python's arithmetic is at its fastest.
_PRIME = 2**30 - 35
_HIGHEST = log(_PRIME)
_number = Struct(">I").unpack_from
_two_numbers = Struct(">QQ").unpack_from


class ConsistentHash:
    """Pick by a property of the request: what has the same one goes to the same upstream.

    Rendezvous hashing (Thaler and Ravishankar, 1998), weighted: every upstream has a hash together
    with the property, and the highest one wins. So when an upstream leaves, only what it had moves,
    and it moves to all the others; when one joins, only what it gets moves; and a larger weight
    takes from the others just what is its due. The hashes depend on the property and on the URLs of
    the upstreams, so they are the same in every process, and stay so when it is started again.

    Args:
        on: The property. ``"client"`` is the client's address, for which the pool's
            ``trusted_proxies`` are believed; ``"path"`` is the path without the query;
            ``"header:x-user"``, ``"cookie:sid"`` and ``"query:user"`` have the name of what they
            look at. Of a header or cookie that comes more than once the first line counts, of a
            query parameter the last.
        fallback: Picks for a request that has no such property, or an empty one. Default:
            ``TwoChoices()``.

    Raises:
        ConfigurationError: *on* is none of these.
    """

    def __init__(self, on: str, *, fallback: Balancer | None = None) -> None:
        self.on = on
        self._property = _reader(on)
        self._fallback: Balancer = fallback or TwoChoices()
        self._upstreams: Sequence[Upstream] = ()
        self._lines: list[tuple[int, int]] = []
        #: Empty if all are the same, which saves the logarithms.
        self._weights: list[float] = []

    def __call__(self, upstreams: Sequence[Upstream], connection: HTTPConnection) -> Upstream:
        """Return the upstream that goes with the property of *connection*."""
        if len(upstreams) == 1:
            return upstreams[0]
        value = self._property(connection, upstreams[0])
        if not value:
            return self._fallback(upstreams, connection)
        if upstreams is not self._upstreams:
            self._follow(upstreams)
        # Hashed once: what each upstream makes of it then costs much less than a hash.
        point = _number(blake2b(value).digest())[0] % _PRIME
        if self._weights:
            lines = zip(self._lines, self._weights, strict=True)
            marks = [
                (log((slope * point + start) % _PRIME + 1) - _HIGHEST) / weight
                for (slope, start), weight in lines
            ]
            return upstreams[marks.index(max(marks))]
        hashes = [(slope * point + start) % _PRIME for slope, start in self._lines]
        return upstreams[hashes.index(max(hashes))]

    def _follow(self, upstreams: Sequence[Upstream]) -> None:
        # A copy, unless it is a tuple already: a list may change under us.
        self._upstreams = tuple(upstreams)
        self._lines = [_line(name) for name in _names(upstreams)]
        weights = [upstream.effective_weight for upstream in upstreams]
        self._weights = [] if weights.count(weights[0]) == len(weights) else weights


def _names(upstreams: Sequence[Upstream]) -> list[str]:
    """Return what each upstream is known by: its URL, and its address if that is another."""
    names, seen = [], Counter[str]()
    for upstream in upstreams:
        name = upstream.origin + upstream.base_path.decode().rstrip("/")
        # The same server twice in a pool has two shares.
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} {seen[name]}")
    return names


@lru_cache(maxsize=4096)
def _line(name: str) -> tuple[int, int]:
    """Return the slope and the start of an upstream's line, that turns hashes into its own.

    Universal hashing (Carter and Wegman, 1979): lines modulo a prime, drawn at random. Here it is
    a hash of the name that draws.
    """
    slope, start = _two_numbers(blake2b(name.encode()).digest())
    return slope % (_PRIME - 1) + 1, start % _PRIME


_Reader = Callable[[HTTPConnection, Upstream], bytes]


def _reader(on: str) -> _Reader:
    """Return what reads the property *on* from a connection."""
    kind, colon, name = on.partition(":")
    if not colon and kind in _WHOLE:
        return _WHOLE[kind]
    if kind in _NAMED and name and (kind == "query" or is_name(name.encode())):
        return _NAMED[kind](name)
    raise ConfigurationError([f"a hash is on {', '.join(HASH_KEYS)}, and not on {on!r}"])


def _client(connection: HTTPConnection, upstream: Upstream) -> bytes:
    policy = upstream.policy or DEFAULT_POLICY
    return client_address(connection.scope, policy.trusted_proxies)


def _bytes(text: str) -> bytes:
    """Encode what a server may have decoded in any way."""
    return text.encode(errors="surrogatepass")


def _path(connection: HTTPConnection, upstream: Upstream) -> bytes:
    path: str = connection.scope["path"]
    return _bytes(path)


def _header(name: str) -> _Reader:
    wanted = name.lower().encode()

    def read(connection: HTTPConnection, upstream: Upstream) -> bytes:
        headers: list[tuple[bytes, bytes]] = connection.scope["headers"]
        for key, value in headers:
            if key == wanted:
                return value
        return b""

    return read


def _cookie(name: str) -> _Reader:
    def read(connection: HTTPConnection, upstream: Upstream) -> bytes:
        return _bytes(connection.cookies.get(name, ""))

    return read


def _query(name: str) -> _Reader:
    def read(connection: HTTPConnection, upstream: Upstream) -> bytes:
        return _bytes(connection.query_params.get(name, ""))

    return read


_WHOLE: dict[str, _Reader] = {"client": _client, "path": _path}
_NAMED: dict[str, Callable[[str], _Reader]] = {
    "header": _header,
    "cookie": _cookie,
    "query": _query,
}
