"""``HTTP1Transport``: an exchange on raw bytes, and the same behind httpx's interface.

A request that fails on a connection which carried others before, and of whose response nothing has
come, is sent once more on a new one: the upstream may have closed the old one while the request was
on its way (RFC 9112, 9.3.1). That is done only if its method is idempotent (RFC 9110, 9.2.2) and
its body is at hand, or if nothing of it had been sent. Nothing else is ever sent twice.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from functools import cache, cached_property, partial
from typing import Any, TypeVar

import httpx

from ..core.headers import content_length, is_chunked, tokens
from ..core.policy import Deadlines
from ..core.upstream import Origin
from .attempt import EarlyHint, HTTP1Response, RawRequest, attempt
from .http1 import HTTP1Connection
from .limits import DEFAULT_LIMITS, ConnectionLimits, failure
from .pool import ConnectionPool

__all__ = ["HTTP1Transport", "tls_context"]

_Protocol = TypeVar("_Protocol", bound=asyncio.BaseProtocol)

_PORTS = {"http": 80, "https": 443}
#: Seconds within which a connection that was kept breaks if its upstream had closed it already.
_RACE = 1.0
_NETWORK = (httpx.NetworkError, httpx.RemoteProtocolError)


@cache
def tls_context() -> ssl.SSLContext:
    """Return the client side's TLS settings: certificates and host names are verified."""
    return httpx.create_ssl_context(trust_env=False)


class HTTP1Transport(httpx.AsyncBaseTransport):
    """An HTTP/1.1 transport fit for a proxy; also for any ``httpx.AsyncClient``.

    It keeps connections alive, moves both bodies at the same time, follows nothing, adds nothing,
    decodes nothing, and reads no environment variable.

    Args:
        verify: A TLS context of your own, for a private authority or a client certificate;
            ``False`` verifies nothing. Default: the certificates of certifi.
        server_hostname: The name that TLS asks for and verifies, if it is not the URL's.
        uds: The path of a unix socket to connect to, whatever the URL's host is.
        limits: What may be spent.
    """

    def __init__(
        self,
        *,
        verify: ssl.SSLContext | bool = True,
        server_hostname: str | None = None,
        uds: str | None = None,
        limits: ConnectionLimits = DEFAULT_LIMITS,
    ) -> None:
        self._verify = verify
        self._server_hostname = server_hostname
        self._uds = uds
        self._limits = limits
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pools: dict[Origin | tuple[Origin, str], ConnectionPool] = {}

    async def exchange(
        self,
        origin: Origin,
        request: RawRequest,
        deadlines: Deadlines,
        *,
        early_hint: EarlyHint | None = None,
        server_hostname: str | None = None,
    ) -> HTTP1Response:
        """Send a request and return once the response's head is here.

        Args:
            origin: Where to.
            request: What.
            deadlines: How long to wait.
            early_hint: Is given the head of every 103 that comes before the response.
            server_hostname: The name that TLS asks for and verifies.

        Raises:
            httpx.TransportError: There is no response. Its ``request_sent`` says whether anything
                of the request was sent. It has ``stale`` if it may be nobody's fault: the upstream
                had closed a connection that was kept just as the request was sent.
        """
        pool = self._pool(origin, server_hostname)
        head = request.head()
        connection: HTTP1Connection | None = None
        try:
            connection = pool.take()
            if connection is None:
                connection = await pool.open(connect=deadlines.connect, pool=deadlines.pool)
            while True:
                reused = connection.exchanges > 0
                began = pool.time()
                try:
                    return await attempt(pool, connection, request, head, deadlines, early_hint)
                except BaseException as error:
                    is_lost = reused and isinstance(error, _NETWORK) and not connection.received
                    if not (is_lost and _may_repeat(request, connection)):
                        pool.discard(connection)
                        if is_lost and pool.time() - began < _RACE:
                            error.stale = True  # type: ignore[attr-defined]
                        raise
                begun = connection.started
                try:
                    connection = await pool.renew(connection, connect=deadlines.connect)
                except httpx.TransportError as error:
                    error.request_sent = begun  # type: ignore[attr-defined]
                    raise
        except asyncio.CancelledError as error:
            # For a deadline of the caller's.
            sent = connection is not None and connection.started
            error.request_sent = sent  # type: ignore[attr-defined]
            raise

    def _pool(self, origin: Origin, server_hostname: str | None) -> ConnectionPool:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            # Connections live and die with their event loop.
            self._loop = loop
            self._pools = {}
        key = (origin, server_hostname) if server_hostname else origin
        pool = self._pools.get(key)
        if pool is None:
            connect = partial(self.connect, origin, server_hostname=server_hostname)
            pool = self._pools[key] = ConnectionPool(connect, self._limits)
        return pool

    async def connect(
        self,
        origin: Origin,
        new: Callable[[], _Protocol],
        *,
        timeout: float | None,
        server_hostname: str | None = None,
    ) -> _Protocol:
        """Open a connection outside of the pools, for a protocol of the caller's.

        Args:
            origin: Where to.
            new: Makes the protocol.
            timeout: Seconds until it stands.
            server_hostname: The name that TLS asks for and verifies.

        Raises:
            httpx.ConnectError: It could not be opened.
            httpx.ConnectTimeout: It did not stand in time.
        """
        tls: dict[str, Any] = {}
        if origin.scheme == "https":
            name = server_hostname or self._server_hostname or origin.host
            tls = {"ssl": self._context, "server_hostname": name}
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                if self._uds is not None:
                    _, protocol = await loop.create_unix_connection(new, self._uds, **tls)
                else:
                    _, protocol = await loop.create_connection(new, origin.host, origin.port, **tls)
        except TimeoutError as error:
            if error.errno is None:
                reason = f"no connection within {timeout} s"
                raise failure(httpx.ConnectTimeout, reason, request_sent=False) from None
            raise _unconnected(error) from error
        except (OSError, UnicodeError, OverflowError) as error:
            raise _unconnected(error) from error
        return protocol

    @cached_property
    def _context(self) -> ssl.SSLContext:
        if isinstance(self._verify, ssl.SSLContext):
            return self._verify
        return tls_context() if self._verify else httpx.create_ssl_context(verify=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request of httpx's; its timeouts and ``sni_hostname`` are honoured.

        Raises:
            httpx.TransportError: There is no response.
        """
        url, extensions = request.url, request.extensions
        timeout: dict[str, float | None] = extensions.get("timeout", {})
        if url.scheme not in _PORTS:
            reason = f"{url.scheme!r} is neither http nor https"
            raise failure(httpx.UnsupportedProtocol, reason, request_sent=False)
        origin = Origin(url.scheme, url.raw_host.decode(), url.port or _PORTS[url.scheme])
        response = await self.exchange(
            origin,
            await _raw(request),
            Deadlines(
                connect=timeout.get("connect"),
                pool=timeout.get("pool"),
                response=timeout.get("read"),
                read=timeout.get("read"),
                write=timeout.get("write"),
            ),
            server_hostname=extensions.get("sni_hostname"),
        )
        return httpx.Response(
            response.status,
            headers=response.headers,
            stream=_ResponseStream(response),
            extensions={"http_version": b"HTTP/" + response.http_version.encode()},
        )

    async def aclose(self) -> None:
        """Close all connections. The transport may be used again."""
        pools, self._pools = self._pools, {}
        if self._loop is asyncio.get_running_loop():
            for pool in pools.values():
                pool.close()
            # The event loop closes their sockets in its next round.
            await asyncio.sleep(0)


def _unconnected(error: Exception) -> httpx.ConnectError:
    return failure(httpx.ConnectError, f"{type(error).__name__}: {error}", request_sent=False)


def _may_repeat(request: RawRequest, connection: HTTP1Connection) -> bool:
    # Not what the error says: it may be of the body's own, of a request to somebody else.
    return request.is_replayable or not connection.started


async def _raw(request: httpx.Request) -> RawRequest:
    """Return a request of httpx's as bytes; what it holds in memory can be sent again."""
    stream = request.stream
    assert isinstance(stream, httpx.AsyncByteStream)
    held = isinstance(stream, httpx.ByteStream)
    target = request.extensions.get("target", request.url.raw_path)
    body = b"".join([chunk async for chunk in stream]) if held else aiter(stream)
    headers, chunked = request.headers.raw, is_chunked(request.headers.raw)
    if isinstance(body, bytes) and not chunked and len(body) != (content_length(headers) or 0):
        reason = "The body does not have its declared length"
        raise failure(httpx.LocalProtocolError, reason, request_sent=False)
    last = b"close" in tokens(headers, b"connection")
    return RawRequest(request.method, target, headers, body, chunked, last)


class _ResponseStream(httpx.AsyncByteStream):
    def __init__(self, response: HTTP1Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while chunk := await self._response.next_chunk():
            yield chunk

    async def aclose(self) -> None:
        await self._response.aclose()
