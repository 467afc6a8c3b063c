"""What a transport may spend, and how it says that something failed."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import httpx

__all__ = ["DEFAULT_LIMITS", "ConnectionLimits", "failure"]

_Failure = TypeVar("_Failure", bound=httpx.TransportError)


class ConnectionLimits(NamedTuple):
    """What a transport spends on one origin.

    Attributes:
        max_connections: Connections that are open at once; ``None`` is no limit (Go's default).
        max_waiting: Requests that may wait for one of them; more are refused at once.
        keepalive_expiry: Seconds that a connection may idle; below the 5 s of uvicorn and Node.js.
        max_age: Seconds after which a connection is not used again, so that a change in the DNS is
            followed; ``None`` is no limit.
        max_header_bytes: The largest response head.
        max_headers: The most header lines of a response.
    """

    max_connections: int | None = None
    max_waiting: int = 1024
    keepalive_expiry: float = 4.0
    max_age: float | None = 600.0
    max_header_bytes: int = 64 * 1024
    max_headers: int = 256


DEFAULT_LIMITS = ConnectionLimits()


def failure(kind: type[_Failure], reason: str, *, request_sent: bool) -> _Failure:
    """Return one of httpx's errors that says in ``request_sent`` whether anything was sent."""
    error = kind(reason)
    error.request_sent = request_sent  # type: ignore[attr-defined]
    return error
