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
from .names import Header, shape_of
from .policy import ForwardPolicy
from .target import Location, check_path, check_query, join, locate
from .upstream import Upstream

__all__ = ["Outbound", "outbound"]


class Outbound(NamedTuple):
    """What is sent to the upstream before the body."""

    method: str
    target: bytes
    headers: list[Header]


def outbound(
    scope: Any,
    upstream: Upstream,
    *,
    location: Location | None,
    changes: Changes,
    policy: ForwardPolicy,
    crossing: Callable[[Sequence[Header]], list[Header]],
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
    check_request(method, http_version, received)
    location = location or locate(scope)
    path = location.rest if changes.path is None else changes.path
    query = scope["query_string"] if changes.query is None else changes.query
    check_path(path)
    check_query(query)
    peer = Peer.of(scope, received)
    headers = forwarding_headers(
        crossing(received),
        peer,
        trusted=policy.trusted_proxies,
        prefix=location.root + location.prefix,
        forwarded=policy.forwarded,
        claims=shape_of(received).grants_trust,
    )
    headers = edit(via_headers(headers, policy.via, http_version), changes.request)
    host = changes.host or (peer.host if policy.preserve_host else b"")
    return Outbound(
        changes.method or method,
        join(upstream.base_path, path, upstream.base_query, query),
        [(b"host", host or upstream.authority), *headers],
    )
