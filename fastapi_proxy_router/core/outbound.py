"""What is sent to the upstream before the body: one place for HTTP and WebSocket.

The order is the contract: guard, target, strip, then add ours, then the override's edits. So no
``Connection`` line can remove a header of ours, and no edit is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .changes import Changes
from .forwarded import Peer, forwarding_headers, via_headers
from .guard import check_request
from .headers import edit, lowered
from .names import Header, Shape
from .policy import ForwardPolicy
from .query import edit_query
from .target import Location, check_path, check_query, join, locate
from .upstream import Upstream

__all__ = ["Outbound", "outbound"]


class Outbound(NamedTuple):
    """What is sent to the upstream before the body.

    Attributes:
        method: The method.
        target: The path and the query, with the upstream's own.
        headers: The headers; the first is ``Host``.
        prefix: The path that is not sent but announced.
        above: The public path above that which an override was matched with.
    """

    method: str
    target: bytes
    headers: list[Header]
    prefix: bytes
    above: bytes


def outbound(
    scope: Any,
    upstream: Upstream,
    *,
    location: Location | None,
    changes: Changes,
    policy: ForwardPolicy,
    crossing: Callable[[Sequence[Header], Shape], list[Header]],
) -> Outbound:
    """Build what is sent to *upstream*.

    Args:
        scope: The client's ASGI scope; it is not changed.
        upstream: Where it goes.
        location: The parts of the path. What is in ``prefix`` is announced, not sent. ``None``: all
            below ``root_path`` is sent.
        changes: The override of this exchange.
        policy: The pool's policy.
        crossing: Which of the client's headers cross: HTTP and WebSocket differ.

    Raises:
        RequestRefused: The request is not safe to forward.
    """
    method = scope.get("method", "GET")
    http_version = scope.get("http_version", "1.1")
    received = lowered(scope["headers"])
    shape = check_request(method, http_version, received)
    location = location or locate(scope)
    path = location.rest if changes.path is None else changes.path
    query = scope["query_string"] if changes.query is None else changes.query
    for change in changes.query_changes:
        query = edit_query(query, change)
    check_path(path)
    check_query(query)
    peer = Peer.of(scope, received)
    prefix = location.root + location.prefix
    headers = forwarding_headers(
        crossing(received, shape),
        peer,
        trusted=policy.trusted_proxies,
        prefix=prefix,
        forwarded=policy.forwarded,
        claims=shape.grants_trust,
    )
    headers = via_headers(headers, policy.via, http_version)
    for edits in changes.request:
        headers = edit(headers, edits)
    host = changes.host or (peer.host if policy.preserve_host else b"")
    return Outbound(
        changes.method or method,
        join(upstream.base_path, path, upstream.base_query, query),
        [(b"host", host or upstream.authority), *headers],
        prefix,
        prefix if changes.above is None else changes.above,
    )
