"""Session affinity: a client stays with the upstream that it was given first.

Rules (YARP's and Caddy's, which agree):

* The client is given a key that stands for its upstream, and sends it back. The key is an
  HMAC-SHA256 of what the upstream is, so it reveals no address and nobody can make one without the
  secret. It holds nothing about the client.
* A key is issued with the first response and whenever the upstream has changed, and not otherwise.
* Of several keys the first that an upstream of the pool has counts. Cookies come with the longest
  path first, so that is the one which was set for just these pages; and an old one, which a longer
  path or another domain keeps from being replaced, does not hide the one that replaced it.
  (Starlette's parser takes the last, and so may read a cookie of a wider path.)
* A key that no upstream of the pool has is as good as none: it may be forged, or of an upstream
  that has left.
* An upstream that takes no new clients, because its weight is 0, keeps those that are bound to it.
  That is what draining means where there are sessions.
"""

from __future__ import annotations

import hmac
import re
from abc import ABC, abstractmethod
from base64 import urlsafe_b64encode
from collections.abc import Callable, Sequence
from typing import Any, Literal
from weakref import WeakKeyDictionary

from starlette.requests import HTTPConnection

from ..exceptions import NoUpstreamAvailable
from ..sources import new_secret
from .names import Header
from .upstream import Upstream

__all__ = ["Affinity", "Failure", "Keys", "affinity_headers", "secret_bytes"]

Failure = Literal["redistribute", "refuse"]

#: 16 of the 32 bytes of an HMAC-SHA256: more than enough, and short (RFC 2104, 5).
_KEY_BYTES = 16
_KEY = re.compile(rb"[A-Za-z0-9_-]{22}")
#: How many tuples of upstreams are remembered: each pool has one, and another when it changes.
_MOST_INDEXES = 32


def secret_bytes(secret: str | bytes) -> bytes:
    """Return *secret* in bytes, also one that an environment variable holds as it likes."""
    return secret.encode("utf-8", "surrogatepass") if isinstance(secret, str) else secret


class Keys:
    """The key of every upstream, and the upstream of every key."""

    def __init__(self, secret: str | bytes | None) -> None:
        self._secret = new_secret() if secret is None else secret_bytes(secret)
        self._keys: WeakKeyDictionary[Upstream, str] = WeakKeyDictionary()
        self._indexes: dict[int, tuple[Sequence[Upstream], dict[str, Upstream]]] = {}

    def of(self, upstream: Upstream) -> str:
        """Return the key of *upstream*."""
        key = self._keys.get(upstream)
        if key is None:
            digest = hmac.digest(self._secret, _identity(upstream), "sha256")[:_KEY_BYTES]
            key = self._keys[upstream] = urlsafe_b64encode(digest).rstrip(b"=").decode()
        return key

    def index(self, upstreams: Sequence[Upstream]) -> dict[str, Upstream]:
        """Return the upstreams by their keys; that of a tuple is kept, for a tuple cannot change.

        A key is looked up by its hash, which takes no longer for one that is nearly right.
        """
        known, index = self._indexes.get(id(upstreams), ((), {}))
        if known is not upstreams:
            # The first of two that are the same wins.
            index = {self.of(upstream): upstream for upstream in reversed(upstreams)}
            if isinstance(upstreams, tuple):
                if len(self._indexes) >= _MOST_INDEXES:
                    self._indexes.clear()
                # Holding the tuple keeps another from getting its id.
                self._indexes[id(upstreams)] = (upstreams, index)
        return index


def _identity(upstream: Upstream) -> bytes:
    """Return what makes *upstream* itself, in every process and after a restart."""
    address = "\n".join(map(str, upstream.address)).encode()
    own = (upstream.authority, upstream.base_path, upstream.base_query, address)
    return b"fastapi-proxy-router affinity\n" + b"\n".join(own)


class Affinity(ABC):
    """What all kinds of affinity have in common; take ``CookieAffinity`` or ``HeaderAffinity``.

    Attributes:
        failure: What happens when the upstream that a client is bound to cannot serve.
        place: Where the client keeps its key. Two pools with the same place and different upstreams
            take each other's clients away.
    """

    __slots__ = ()

    failure: Failure
    _keys: Keys

    @property
    @abstractmethod
    def place(self) -> tuple[str, ...]:
        """Where the client keeps its key."""

    def key_of(self, upstream: Upstream) -> str:
        """Return the key that stands for *upstream*: 22 characters."""
        return self._keys.of(upstream)

    def sent(self, connection: HTTPConnection) -> str | None:
        """Return the key that the client sent, which may be forged or stale.

        The first one, if there are several. What cannot be a key is none.
        """
        return next(iter(self._sent(connection.scope)), None)

    def bound(self, connection: HTTPConnection, upstreams: Sequence[Upstream]) -> Upstream | None:
        """Return which of *upstreams* the client is bound to, or ``None``.

        Args:
            connection: The client's request or WebSocket.
            upstreams: All members of the pool, those too that cannot serve now or are drained.
        """
        return next(iter(self._bound(connection, upstreams)), None)

    def keep(
        self,
        connection: HTTPConnection,
        upstreams: Sequence[Upstream],
        can_serve: Callable[[Upstream], bool],
    ) -> Upstream | None:
        """Return the upstream that the client has to stay with; ``None``: the balancer picks.

        Args:
            connection: The client's request or WebSocket.
            upstreams: All members of the pool, those too that cannot serve now or are drained.
            can_serve: Tells whether a member can take this request. Its weight is no reason
                against it: who is bound to a drained upstream stays there.

        Raises:
            NoUpstreamAvailable: The client is bound to a member that cannot serve, and ``failure``
                is ``"refuse"``.
        """
        members = self._bound(connection, upstreams)
        for upstream in members:
            if can_serve(upstream):
                return upstream
        if members and self.failure == "refuse":
            reason = "the upstream that the client is bound to cannot serve"
            raise NoUpstreamAvailable(reason, upstream=members[0], stage="pick")
        return None

    def response_headers(self, scope: Any, upstream: Upstream) -> list[Header]:
        """Return what to add to the response of *upstream*: its key, unless the client sent that.

        Args:
            scope: The client's ASGI scope, HTTP or WebSocket.
            upstream: The upstream that has answered.
        """
        key = self._keys.of(upstream)
        return [] if key in self._sent(scope) else [self._issued(key, scope, upstream)]

    def indistinct(self, upstreams: Sequence[Upstream]) -> list[str]:
        """Return the URLs of *upstreams* that cannot be told from one before, so have its key."""
        index = self._keys.index(upstreams)
        return [
            upstream.url for upstream in upstreams if index[self._keys.of(upstream)] is not upstream
        ]

    def _bound(self, connection: HTTPConnection, upstreams: Sequence[Upstream]) -> list[Upstream]:
        sent = self._sent(connection.scope)
        if not sent:
            return []
        index = self._keys.index(upstreams)
        return [index[key] for key in sent if key in index]

    def _sent(self, scope: Any) -> list[str]:
        values = self._values(scope.get("headers", ()))
        return [value.decode() for value in values if _KEY.fullmatch(value)]

    @abstractmethod
    def _values(self, headers: Sequence[Header]) -> list[bytes]:
        """Return what *headers* have where the client keeps its key."""

    @abstractmethod
    def _issued(self, key: str, scope: Any, upstream: Upstream) -> Header:
        """Return the header that gives the client the key of *upstream*."""


def affinity_headers(scope: Any, upstream: Upstream) -> list[Header]:
    """Return what the affinity of the pool of *upstream*, if there is one, adds to its response."""
    affinity = upstream.pool.affinity if upstream.pool is not None else None
    return [] if affinity is None else affinity.response_headers(scope, upstream)
