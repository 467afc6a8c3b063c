"""What an override changes in one exchange, compiled to bytes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from .forwarded import ForwardedMode
from .headers import Edits
from .messages import MessageHook
from .names import Header
from .policy import ForwardPolicy, Timeout
from .query import QueryChange
from .retry import Retry
from .setcookie import CookieRules
from .upstream import Upstream
from .websocket import WebSocketOptions

if TYPE_CHECKING:
    from .outbound import Outbound

__all__ = ["NO_CHANGES", "Answer", "Changes", "Page", "ResponseChange", "Sender", "Transform"]

#: Reads the chunks of a body and yields those that are sent instead.
Transform = Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]]

#: Sees what is about to be sent to an upstream, and returns what is sent.
Sender = Callable[["Outbound", Upstream], Awaitable["Outbound"]]


class Answer(NamedTuple):
    """A whole response of ours."""

    status: int
    headers: tuple[Header, ...]
    body: bytes


class Page(NamedTuple):
    """What is served in place of a response; ``status`` of the answer 0 keeps the one it had."""

    statuses: frozenset[int]
    answer: Answer


@dataclass(frozen=True, slots=True)
class ResponseChange:
    """Changes to one response, in the order of the fields; nothing by default.

    Attributes:
        public: Turn the upstream's URLs in the headers round to the public side.
        inverse: Turns a path of the upstream back to the client's, where an override rewrote it.
        cookies: Edits of the cookies that are set.
        edits: Edits of the headers. Whether one applies is a matter of the upstream's status.
        status: The status, or another for some of the upstream's.
    """

    public: bool = False
    inverse: Callable[[bytes], bytes | None] | None = None
    cookies: tuple[CookieRules, ...] = ()
    edits: tuple[Edits, ...] = ()
    status: int | Mapping[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes to one exchange; ``None`` leaves what the client sent.

    Attributes:
        path: The path below the upstream's base path, raw.
        above: The public path above that which an override was matched with, raw: there begins what
            the inverse of its rewrite finds. ``None``: the public path that is not sent.
        query: The query, raw.
        query_changes: Edits of the query, in order.
        method: The method.
        host: The ``Host``.
        preserve_host: Whether the client's ``Host`` is sent, instead of what the pool says.
        forwarded: Which forwarding headers are sent, likewise.
        body: The body. An empty one is sent as ``Content-Length: 0``.
        body_limit: The most bytes that are forwarded of the client's body.
        transforms: See the chunks of the request's body, in order.
        request: Edits of the request's headers, in order, after hop-by-hop ones are gone and ours
            are set.
        senders: See the request when all of this is done, in order.
        response: Changes to the response, in order.
        reads_response: A hook reads the response's body, so that it has to be in a coding we know.
        pages: What is served in place of some responses and failures; the first that fits.
        timeout: The deadlines.
        retry: What is tried again, instead of what the pool says.
        websocket: The limits of a WebSocket.
        on_client_message: Sees every message of a WebSocket's client.
        on_upstream_message: Sees every message of its upstream.
    """

    path: bytes | None = None
    above: bytes | None = None
    query: bytes | None = None
    query_changes: tuple[QueryChange, ...] = ()
    method: str | None = None
    host: bytes | None = None
    preserve_host: bool | None = None
    forwarded: ForwardedMode | None = None
    body: bytes | None = None
    body_limit: int | None = None
    transforms: tuple[Transform, ...] = ()
    request: tuple[Edits, ...] = ()
    senders: tuple[Sender, ...] = ()
    response: tuple[ResponseChange, ...] = ()
    reads_response: bool = False
    pages: tuple[Page, ...] = ()
    timeout: Timeout | None = None
    retry: Retry | None = None
    websocket: WebSocketOptions | None = None
    on_client_message: MessageHook | None = None
    on_upstream_message: MessageHook | None = None

    @property
    def own_body(self) -> bytes | None:
        """What is sent in place of the client's body; ``None`` if nothing is."""
        # Where the client's request had one, GET and HEAD drop it.
        return b"" if self.body is None and self.method in ("GET", "HEAD") else self.body

    def of_handshake(self) -> Changes:
        """Return these changes for a WebSocket, whose handshake has no method and no body."""
        if self.body is None and self.method is None:
            return self
        edits = tuple(one for one in self.request if not one.of_body)
        return replace(self, method=None, body=None, request=edits)

    def policy(self, policy: ForwardPolicy) -> ForwardPolicy:
        """Return *policy* with what these changes say instead."""
        if self.preserve_host is not None:
            policy = replace(policy, preserve_host=self.preserve_host)
        if self.forwarded is not None:
            policy = replace(policy, forwarded=self.forwarded)
        return policy

    def retry_at(self, upstream: Upstream) -> Retry | None:
        """Return what is tried again if *upstream* fails; its pool says so by default."""
        pool = upstream.pool
        return self.retry or (pool.retry if pool is not None else None)

    def then(self, later: Changes) -> Changes:
        """Return these changes followed by *later* ones."""
        if self is NO_CHANGES or later is NO_CHANGES:
            return self if later is NO_CHANGES else later
        values = {name: getattr(later, name) for name in _SINGLE}
        both = {name: value for name, value in values.items() if value is not None}
        both.update({name: getattr(self, name) + getattr(later, name) for name in _MANY})
        # What is given anew has none of the earlier edits.
        if later.query is not None:
            both["query_changes"] = later.query_changes
        if later.body is not None:
            both["transforms"] = later.transforms
        both["reads_response"] = self.reads_response or later.reads_response
        # Of pages, the first that fits is served.
        both["pages"] = later.pages + self.pages
        return replace(self, **both)


_MANY = ("query_changes", "transforms", "request", "senders", "response", "pages")
_SINGLE = tuple(name for name in Changes.__dataclass_fields__ if name not in _MANY)

NO_CHANGES = Changes()
