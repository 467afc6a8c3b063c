"""One exchange with one upstream, whatever transport it has, and its failures in our words."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Coroutine, Iterable
from contextlib import AsyncExitStack
from types import ModuleType
from typing import Any, TypeVar

import httpx

from ..core.policy import Timeout
from ..core.upstream import Upstream
from ..exceptions import (
    BadGateway,
    Fault,
    GatewayError,
    GatewayTimeout,
    NoUpstreamAvailable,
    ProxyError,
    RequestRefused,
    Stage,
)
from .attempt import EarlyHint, HTTP1Response, RawRequest
from .engine import HTTP1Transport, tls_context
from .foreign import ForeignResponse, exchange_foreign, library_of

__all__ = [
    "UpstreamResponse",
    "close_transports",
    "connect",
    "crossing",
    "exchange",
    "open_transports",
]

#: A response whose body is still to come, from either kind of transport.
UpstreamResponse = HTTP1Response | ForeignResponse

_Protocol = TypeVar("_Protocol", bound=asyncio.BaseProtocol)

#: Connects for upstreams whose transport is not ours.
_DEFAULT = HTTP1Transport()
#: The system has no more of something: descriptors, memory, ports. No upstream is to blame.
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}
_OURS: tuple[tuple[str, type[GatewayError], Stage | None, Fault], ...] = (
    ("PoolTimeout", NoUpstreamAvailable, "connect", "us"),
    ("ConnectTimeout", GatewayTimeout, "connect", "upstream"),
    ("TimeoutException", GatewayTimeout, None, "upstream"),
    ("ConnectError", BadGateway, "connect", "upstream"),
    ("TransportError", BadGateway, None, "upstream"),
    ("InvalidURL", BadGateway, None, "upstream"),
    ("StreamError", BadGateway, None, "upstream"),
)


def open_transports(upstreams: Iterable[Upstream]) -> None:
    """Give every upstream that has none its transport, so that no request pays for it."""
    for upstream in upstreams:
        _transport_of(upstream)
        if upstream.scheme == "https":
            tls_context()


async def close_transports(upstreams: Iterable[Upstream]) -> None:
    """Close the upstreams' transports. One that is used again opens anew."""
    async with AsyncExitStack() as stack:
        for upstream in upstreams:
            if upstream.transport is not None:
                stack.push_async_callback(upstream.transport.aclose)


def _transport_of(upstream: Upstream) -> Any:
    if upstream.transport is None:
        upstream.transport = HTTP1Transport()
    return upstream.transport


def exchange(
    upstream: Upstream,
    request: RawRequest,
    timeout: Timeout,
    early_hint: EarlyHint | None = None,
) -> Coroutine[Any, Any, UpstreamResponse]:
    """Send a request and return once the response's head is here; to be awaited in ``crossing``.

    Args:
        upstream: Where to.
        request: What.
        timeout: Its deadlines.
        early_hint: Is given the head of every 103 that comes before the response.

    Raises:
        Exception: What the transport raises.
    """
    transport = _transport_of(upstream)
    if isinstance(transport, HTTP1Transport):
        return transport.exchange(
            upstream.address,
            request,
            timeout.waits,
            early_hint=early_hint,
            server_hostname=upstream.server_hostname,
        )
    return exchange_foreign(upstream, request, timeout)


def connect(
    upstream: Upstream, new: Callable[[], _Protocol], timeout: Timeout
) -> Coroutine[Any, Any, _Protocol]:
    """Open a connection for a protocol of the caller's; to be awaited in ``crossing``.

    It is opened as the upstream's transport opens its own. What a foreign transport does is not to
    be known: by TCP then, with the default verification of TLS.

    Raises:
        httpx.TransportError: There is no connection.
    """
    transport = _transport_of(upstream)
    if not isinstance(transport, HTTP1Transport):
        transport = _DEFAULT
    return transport.connect(
        upstream.address,
        new,
        timeout=timeout.connect,
        server_hostname=upstream.server_hostname,
    )


class crossing:  # noqa: N801 - reads as what it does, like the context managers of contextlib
    """Turn what an upstream's transport raises into our errors; the only place where they cross."""

    __slots__ = ("_stage", "_upstream")

    def __init__(self, upstream: Upstream, stage: Stage) -> None:
        self._upstream = upstream
        self._stage = stage

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, Exception):
            library = library_of(self._upstream.transport)
            if (ours := _translated(error, library, self._upstream, self._stage)) is not None:
                raise ours from error


def _translated(
    error: Exception, library: ModuleType, upstream: Upstream, stage: Stage
) -> ProxyError | None:
    """Return our error for one of the library's, or ``None`` for any other."""
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(cause, OSError) and (cause is error or cause.errno in _EXHAUSTED):
        # A transport wraps what the network does; what is left is ours.
        return NoUpstreamAvailable(
            reason, upstream=upstream, stage=stage, fault="us", request_sent=_sent(error, stage)
        )
    if _is(error, library, "LocalProtocolError"):
        # A foreign transport's words may quote the request.
        said = str(error) if hasattr(error, "request_sent") else "The request cannot be forwarded"
        return RequestRefused(said, close=True)
    for name, ours, earlier, culprit in _OURS:
        if _is(error, library, name):
            stage = earlier or stage
            # We may have kept a connection for longer than the upstream has.
            fault: Fault = "us" if hasattr(error, "stale") else culprit
            sent = _sent(error, stage)
            return ours(reason, upstream=upstream, stage=stage, fault=fault, request_sent=sent)
    return None


def _sent(error: Exception, stage: Stage) -> bool:
    """Tell whether anything was sent; a foreign transport says so only of connecting."""
    sent: bool = getattr(error, "request_sent", stage != "connect")
    return sent


def _is(error: Exception, library: ModuleType, name: str) -> bool:
    return isinstance(error, (getattr(library, name), getattr(httpx, name)))
