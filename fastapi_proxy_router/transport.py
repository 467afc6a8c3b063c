"""What carries one exchange to one upstream: any httpx or httpx2 transport.

The transport is called directly, never through ``AsyncClient``, which shares a cookie jar between
users, adds four headers, follows proxies from the environment and merges URLs.
"""

from __future__ import annotations

import importlib
import ssl
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from functools import cache
from types import ModuleType
from typing import Any

import httpx

from .core.headers import Header
from .core.policy import Timeout
from .core.upstream import Upstream
from .exceptions import BadGateway, GatewayTimeout, NoUpstreamAvailable, RequestRefused, Stage

__all__ = ["UpstreamResponse", "close_transports", "exchange", "open_transports", "tls_context"]


@cache
def tls_context() -> ssl.SSLContext:
    """Return the client side's TLS settings: certificates and host names are verified."""
    return httpx.create_ssl_context(trust_env=False)


def open_transports(upstreams: Iterable[Upstream]) -> None:
    """Give every upstream that has none its transport, so that no request pays for it."""
    for upstream in upstreams:
        _transport_of(upstream)


async def close_transports(upstreams: Iterable[Upstream]) -> None:
    """Close the upstreams' transports. One that is used again opens anew."""
    async with AsyncExitStack() as stack:
        for upstream in upstreams:
            if upstream.transport is not None:
                stack.push_async_callback(upstream.transport.aclose)


def _transport_of(upstream: Upstream) -> Any:
    if upstream.transport is None:
        upstream.transport = httpx.AsyncHTTPTransport(
            verify=tls_context(),
            trust_env=False,
            # A connection is used once. httpx gives bytes that follow a response to the next
            # request on its connection, which may be another user's, and a cancelled request that
            # was queued for a place in the pool can keep the place for ever.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        )
    return upstream.transport


class UpstreamResponse:
    """The head of an upstream's response, and its body as it arrives, undecoded."""

    def __init__(self, upstream: Upstream, response: Any, library: ModuleType) -> None:
        self.upstream = upstream
        self.status: int = response.status_code
        self.headers: list[Header] = response.headers.raw
        self._response = response
        self._library = library
        self._chunks: AsyncIterator[bytes] = aiter(response.stream)

    async def next_chunk(self) -> bytes:
        """Return the next chunk of the body, or ``b""`` at its end.

        Raises:
            GatewayError: The upstream broke off or broke the protocol.
        """
        with _translated(self._library, self.upstream, "body"):
            async for chunk in self._chunks:
                if chunk:
                    return chunk
            return b""

    async def aclose(self) -> None:
        """Give the connection back or close it."""
        with _translated(self._library, self.upstream, "body"):
            await self._response.aclose()


async def exchange(
    upstream: Upstream,
    method: str,
    target: bytes,
    headers: Sequence[Header],
    body: AsyncIterator[bytes],
    timeout: Timeout,
) -> UpstreamResponse:
    """Send a request and return once the response's head is here.

    Raises:
        GatewayError: No answer could be had.
        RequestRefused: The transport cannot put the request on the wire.
    """
    transport = _transport_of(upstream)
    library = _library_of(transport)
    with _translated(library, upstream, "head"):
        request = library.Request(
            method,
            # Built from parts, so that nothing in the target can name another host. The URL is for
            # transports that look at it; those that write to a socket send the target's own bytes.
            library.URL(
                scheme=upstream.scheme, host=upstream.host, port=upstream.port, raw_path=target
            ),
            headers=headers,
            stream=_stream_class(library)(body),
            extensions={
                "target": target,
                "sni_hostname": upstream.host,
                "timeout": {
                    "connect": timeout.connect,
                    "pool": timeout.connect,
                    "write": timeout.idle,
                    "read": None,
                },
            },
        )
        response = await transport.handle_async_request(request)
    return UpstreamResponse(upstream, response, library)


def _library_of(transport: Any) -> ModuleType:
    """Return the library whose objects and exceptions a transport speaks."""
    return _library_of_bases(type(transport).__mro__)


@cache
def _library_of_bases(bases: tuple[type, ...]) -> ModuleType:
    names = {base.__module__.partition(".")[0] for base in bases}
    return importlib.import_module("httpx2") if "httpx2" in names else httpx


@cache
def _stream_class(library: ModuleType) -> Any:
    """Return the request stream that the library's transports insist on."""

    class RequestStream(library.AsyncByteStream):  # type: ignore[name-defined,misc]
        def __init__(self, chunks: AsyncIterator[bytes]) -> None:
            self._chunks = chunks

        def __aiter__(self) -> AsyncIterator[bytes]:
            return self._chunks

    return RequestStream


@contextmanager
def _translated(library: ModuleType, upstream: Upstream, stage: Stage) -> Iterator[None]:
    """Turn the library's exceptions into ours; the only place where they cross."""
    try:
        yield
    except library.PoolTimeout as error:
        raise NoUpstreamAvailable(
            _reason(error), upstream=upstream, stage="connect", fault="us"
        ) from error
    except library.ConnectTimeout as error:
        raise GatewayTimeout(_reason(error), upstream=upstream, stage="connect") from error
    except library.TimeoutException as error:
        raise GatewayTimeout(_reason(error), upstream=upstream, stage=stage) from error
    except library.LocalProtocolError as error:
        raise RequestRefused("The request cannot be forwarded", close=True) from error
    except library.ConnectError as error:
        raise BadGateway(_reason(error), upstream=upstream, stage="connect") from error
    except (library.TransportError, library.InvalidURL, library.StreamError) as error:
        raise BadGateway(_reason(error), upstream=upstream, stage=stage) from error
    except OSError as error:
        # httpx wraps what the network does; what is left is ours, such as no more descriptors.
        raise NoUpstreamAvailable(
            _reason(error), upstream=upstream, stage=stage, fault="us"
        ) from error


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
