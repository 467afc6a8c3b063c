"""What can go wrong, said once, with whose fault it was.

::

    ProxyError
    ├── GatewayError (also HTTPException)     nothing sent to the client yet: the response
    │   ├── BadGateway            502         no connection, or the upstream broke the protocol
    │   ├── NoUpstreamAvailable   503         none may be picked, or we are out of resources
    │   └── GatewayTimeout        504         it did not connect or answer in time
    ├── RequestRefused (also HTTPException)   400, 403, 405, 408, 413, 414, 431: the guard's no
    ├── StreamAborted                         the head is sent: the connection is dropped
    └── ConfigurationError (also ValueError)  wrong arguments, all of them in one report

The HTTP errors are FastAPI's own ``HTTPException``, so ``app.exception_handler(BadGateway)`` and
``except HTTPException`` both work, and one raised before a WebSocket is accepted becomes its
refusal. Their ``detail`` is what the client may read and never shows an upstream; ``reason`` is for
the log. A client that leaves is not an error and has no class here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal

from fastapi.exceptions import HTTPException

if TYPE_CHECKING:
    from .core.upstream import Upstream

__all__ = [
    "BadGateway",
    "ConfigurationError",
    "Fault",
    "GatewayError",
    "GatewayTimeout",
    "NoUpstreamAvailable",
    "ProxyError",
    "RequestRefused",
    "Stage",
    "StreamAborted",
]

Fault = Literal["client", "upstream", "us"]
Stage = Literal["pick", "connect", "request", "head", "body"]


class ProxyError(Exception):
    """Any failure of this library.

    Attributes:
        reason: What happened, for the log; it may name an upstream.
        stage: How far the exchange had come.
        fault: Who caused it.
        upstream: The upstream that was being used, if one was.
    """

    reason: str = ""
    stage: Stage = "pick"
    fault: Fault = "us"
    upstream: Upstream | None = None


class GatewayError(ProxyError, HTTPException):
    """No answer could be had from an upstream; nothing was sent to the client yet.

    Attributes:
        request_sent: The upstream may have got some of the request, and so may have done something.
    """

    status: HTTPStatus = HTTPStatus.BAD_GATEWAY
    retry_after: int | None = None

    def __init__(
        self,
        reason: str,
        *,
        upstream: Upstream | None = None,
        stage: Stage = "connect",
        fault: Fault = "upstream",
        request_sent: bool = True,
        retry_after: float | None = None,
    ) -> None:
        if retry_after is not None:
            self.retry_after = max(1, math.ceil(retry_after))
        headers = None if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        super().__init__(self.status.value, self.status.phrase, headers)
        self.reason = reason
        self.upstream = upstream
        self.stage = stage
        self.fault = fault
        # Where nobody was picked, nobody got anything.
        self.request_sent = request_sent and stage != "pick"


class BadGateway(GatewayError):
    """The upstream could not be reached, or what it sent is not HTTP (RFC 9110, 15.6.3)."""


class NoUpstreamAvailable(GatewayError):
    """No upstream may be used right now (RFC 9110, 15.6.4); the client may try again in 1 s."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    retry_after = 1


class GatewayTimeout(GatewayError):
    """The upstream did not connect or answer in time (RFC 9110, 15.6.5)."""

    status = HTTPStatus.GATEWAY_TIMEOUT


class RequestRefused(ProxyError, HTTPException):
    """The request is not safe to forward, and was not.

    Args:
        reason: What is wrong with it; the client is told, so it quotes nothing the client sent.
        status: 400, 403, 405, 408, 413, 414 or 431.
        close: Ask the server to close the connection, because body bytes may still be on it.
    """

    def __init__(self, reason: str, *, status: int = 400, close: bool = False) -> None:
        super().__init__(status, reason)
        self.reason = reason
        self.stage = "request"
        self.fault = "client"
        if close:
            self.close_connection()

    def close_connection(self) -> None:
        """Ask the server to close the connection after the answer."""
        self.headers = {**(self.headers or {}), "Connection": "close"}


class StreamAborted(ProxyError):
    """The exchange broke after the response head was sent.

    It leaves the application, so that the server drops the connection: the only honest way to tell
    a client that its response is not complete.
    """

    def __init__(self, reason: str, *, upstream: Upstream | None, fault: Fault) -> None:
        super().__init__(reason)
        self.reason = reason
        self.stage = "body"
        self.fault = fault
        self.upstream = upstream


class ConfigurationError(ProxyError, ValueError):
    """Arguments that cannot work. ``mistakes`` lists every one that was found."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        super().__init__("; ".join(mistakes))
        self.mistakes = list(mistakes)
        self.reason = str(self)
