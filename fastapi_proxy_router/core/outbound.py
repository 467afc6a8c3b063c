"""What is sent to the upstream before the body: one place for HTTP and WebSocket.

The order is the contract: strip first, then add ours, then the override's edits. So no
``Connection`` line can remove a header of ours, and no edit is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .changes import Changes
from .forwarded import Peer, forwarding_headers, via_headers
from .headers import Header, edit
from .policy import ForwardPolicy
from .target import Location, check_path, check_query, join
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
    location: Location,
    changes: Changes,
    policy: ForwardPolicy,
    crossing: Callable[[Sequence[Header]], list[Header]],
) -> Outbound:
    """Build what is sent to *upstream*.

    Args:
        scope: The client's ASGI scope; it is not changed.
        upstream: Where it goes.
        location: The parts of the path. What is in ``prefix`` is announced, not sent.
        changes: The override of this exchange.
        policy: The pool's policy.
        crossing: Which of the client's headers cross: HTTP and WebSocket differ.

    Raises:
        RequestRefused: The path or query is not safe to forward.
    """
    path = location.rest if changes.path is None else changes.path
    query = scope["query_string"] if changes.query is None else changes.query
    check_path(path)
    check_query(query)
    peer = Peer.of(scope)
    headers = forwarding_headers(
        crossing(scope["headers"]),
        peer,
        trusted=policy.trusted_proxies,
        prefix=location.root + location.prefix,
        forwarded=policy.forwarded,
    )
    headers = edit(
        via_headers(headers, policy.via, scope.get("http_version", "1.1")), changes.request
    )
    host = peer.host if policy.preserve_host else upstream.authority
    return Outbound(
        changes.method or scope.get("method", "GET"),
        join(upstream.base_path, path, upstream.base_query, query),
        [(b"host", changes.host or host), *headers],
    )
