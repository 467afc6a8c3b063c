"""The same exchange through any transport of httpx or httpx2.

It is called directly, never through ``AsyncClient``, which shares a cookie jar between users, adds
four headers, follows proxies from the environment and merges URLs.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator
from functools import cache
from types import ModuleType
from typing import Any

import httpx

from ..core.guard import response_mistake
from ..core.headers import content_length, is_chunked
from ..core.names import Header
from ..core.policy import Timeout
from ..core.upstream import Upstream
from .attempt import RawRequest, sized
from .limits import failure

__all__ = ["ForeignResponse", "exchange_foreign", "library_of"]


def library_of(transport: Any) -> ModuleType:
    """Return the library whose objects and exceptions a transport speaks."""
    return _library_of_bases(type(transport).__mro__)


@cache
def _library_of_bases(bases: tuple[type, ...]) -> ModuleType:
    names = {base.__module__.partition(".")[0] for base in bases}
    return importlib.import_module("httpx2") if "httpx2" in names else httpx


class ForeignResponse:
    """A response of httpx's or httpx2's, of exactly the length that its headers declare."""

    complete = False

    def __init__(self, response: Any, *, bodyless: bool, idle: float | None) -> None:
        self.status: int = response.status_code
        self.headers: list[Header] = response.headers.raw
        self.trailers: list[Header] = []
        chunks: AsyncIterator[bytes] = aiter(response.stream)
        length = None if bodyless or is_chunked(self.headers) else content_length(self.headers)
        if length is not None:
            chunks = sized(chunks, length, httpx.RemoteProtocolError)
        self._chunks = chunks
        self._response = response
        self._idle = idle

    async def next_chunk(self) -> bytes:
        """Return the next chunk of the body, or ``b""`` at its end."""
        try:
            async with asyncio.timeout(self._idle):
                async for chunk in self._chunks:
                    if chunk:
                        return chunk
        except TimeoutError:
            reason = f"no byte of the body within {self._idle} s"
            raise failure(httpx.ReadTimeout, reason, request_sent=True) from None
        return b""

    async def aclose(self) -> None:
        """Let go of the response."""
        await self._response.aclose()


async def exchange_foreign(
    upstream: Upstream, request: RawRequest, timeout: Timeout
) -> ForeignResponse:
    """Send a request through the upstream's transport and return once the response's head is here.

    Raises:
        Exception: What the transport raises, or httpx's errors.
    """
    loop = asyncio.get_running_loop()
    transport = upstream.transport
    waiting = True

    async def chunks() -> AsyncIterator[bytes]:
        async for chunk in _body(request):
            yield chunk
        # A transport may still be sending when the head is here.
        if waiting and timeout.response is not None:
            deadline.reschedule(loop.time() + timeout.response)

    arrives = not isinstance(request.body, bytes)
    try:
        async with asyncio.timeout(None if arrives else _both(timeout)) as deadline:
            response = await transport.handle_async_request(
                _outgoing(library_of(transport), upstream, request, timeout, chunks())
            )
    except TimeoutError:
        reason = f"no response head within {timeout.response} s"
        raise failure(httpx.ReadTimeout, reason, request_sent=True) from None
    finally:
        waiting = False
    if (mistake := response_mistake(response.status_code, response.headers.raw)) is not None:
        await response.aclose()
        raise failure(httpx.RemoteProtocolError, mistake, request_sent=True)
    return ForeignResponse(response, bodyless=request.method == "HEAD", idle=timeout.idle)


def _outgoing(
    library: ModuleType,
    upstream: Upstream,
    request: RawRequest,
    timeout: Timeout,
    chunks: AsyncIterator[bytes],
) -> Any:
    origin = upstream.address
    return library.Request(
        request.method,
        # Built from parts, so that nothing in the target can name another host. The URL is for
        # transports that look at it; those that write to a socket send the target's own bytes.
        library.URL(
            scheme=origin.scheme, host=origin.host, port=origin.port, raw_path=request.target
        ),
        headers=request.headers,
        stream=_stream_class(library)(chunks),
        extensions={
            "target": request.target,
            "sni_hostname": upstream.host,
            "timeout": {
                "connect": timeout.connect,
                "pool": timeout.pool,
                "write": timeout.idle,
                "read": None,
            },
        },
    )


async def _body(request: RawRequest) -> AsyncIterator[bytes]:
    body = request.body
    if isinstance(body, bytes):
        if body:
            yield body
        return
    chunks = body if request.chunked else sized(body, content_length(request.headers) or 0)
    async for chunk in chunks:
        yield chunk


def _both(timeout: Timeout) -> float | None:
    """Return the limit for a transport that may never ask for a body that is at hand."""
    if timeout.connect is None or timeout.response is None:
        return None
    return timeout.connect + timeout.response


@cache
def _stream_class(library: ModuleType) -> Any:
    """Return the request stream that the library's transports insist on."""

    class RequestStream(library.AsyncByteStream):  # type: ignore[name-defined,misc]
        def __init__(self, chunks: AsyncIterator[bytes]) -> None:
            self._chunks = chunks

        def __aiter__(self) -> AsyncIterator[bytes]:
            return self._chunks

    return RequestStream
