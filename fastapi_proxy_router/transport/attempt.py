"""One exchange on one connection: a request out, with its body as it comes, and a response back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from typing import NamedTuple

import httpx

from ..core.headers import content_length
from ..core.names import Header
from ..core.policy import Deadlines
from ..core.retry import IDEMPOTENT
from .http1 import HTTP1Connection
from .limits import failure
from .parser import Head
from .pool import ConnectionPool

__all__ = ["EarlyHint", "HTTP1Response", "RawRequest", "attempt", "sized"]

#: A body at hand that is longer is sent like one that arrives.
_AT_ONCE = 64 * 1024

EarlyHint = Callable[[Head], Awaitable[None]]


class RawRequest(NamedTuple):
    """A request as it is sent: nothing is added.

    Attributes:
        method: Its method.
        target: The bytes after the method on the request line.
        headers: Its headers, which frame the body.
        body: All of the body, or what arrives of it.
        chunked: The headers say so; else they declare a length, or there is no body.
        last: The headers say that no request follows on its connection.
    """

    method: str
    target: bytes
    headers: Sequence[Header]
    body: bytes | AsyncIterator[bytes]
    chunked: bool = False
    last: bool = False

    def head(self) -> bytes:
        """Return the head as it is sent.

        Raises:
            httpx.LocalProtocolError: Something in it would begin another line.
        """
        lines = [b"%b %b HTTP/1.1" % (self.method.encode(), self.target)]
        lines += [b"%b: %b" % header for header in self.headers]
        data = b"\r\n".join([*lines, b"", b""])
        ends = len(lines) + 1
        if data.count(b"\n") != ends or data.count(b"\r") != ends or lines[0].count(b" ") != 2:
            reason = "The request cannot be put on a line"
            raise failure(httpx.LocalProtocolError, reason, request_sent=False)
        return data

    @property
    def is_replayable(self) -> bool:
        """Whether it may be sent twice, and can be."""
        return self.method in IDEMPOTENT and isinstance(self.body, bytes)


class HTTP1Response:
    """A response whose body is still to come.

    Attributes:
        status: Its status.
        headers: Its headers as they came.
        http_version: ``"1.1"`` or ``"1.0"``.
    """

    def __init__(
        self,
        head: Head,
        connection: HTTP1Connection,
        pool: ConnectionPool,
        upload: asyncio.Task[None] | None,
        idle: float | None,
    ) -> None:
        self.status, self.headers, self.http_version = head
        self._connection = connection
        self._pool = pool
        self._upload = upload
        self._idle = idle
        self._closed = False

    @property
    def complete(self) -> bool:
        """Whether all of it is here, so that the next chunk is the last."""
        return self._connection.complete

    @property
    def trailers(self) -> list[Header]:
        """The trailers, once the body has ended."""
        return self._connection.trailers

    async def next_chunk(self) -> bytes:
        """Return the next chunk of the body, or ``b""`` at its end.

        Raises:
            httpx.TransportError: The body is not complete and never will be.
        """
        return await self._connection.next_chunk(self._idle)

    async def aclose(self) -> None:
        """Give the connection back if it is clean, else close it. Idempotent."""
        if self._closed:
            return
        self._closed = True
        upload = self._upload
        if upload is not None:
            upload.cancel()
        self._pool.release(self._connection)
        if upload is not None:
            await asyncio.wait([upload])


async def attempt(
    pool: ConnectionPool,
    connection: HTTP1Connection,
    request: RawRequest,
    head: bytes,
    deadlines: Deadlines,
    early_hint: EarlyHint | None,
) -> HTTP1Response:
    """Send *request* on *connection* and wait for the response's head."""
    body, upload = request.body, None
    try:
        if isinstance(body, bytes) and len(body) <= _AT_ONCE:
            connection.begin(request.method, head + _in_one(request), more=False, last=request.last)
            connection.expect_head(deadlines.response)
        else:
            connection.begin(request.method, head, more=True, last=request.last)
            chunks = _pieces(body) if isinstance(body, bytes) else body
            sending = _upload(connection, request, chunks, deadlines)
            upload = asyncio.create_task(sending, name="proxy send body")
        while (answer := await connection.next_head()).status == 103:
            if early_hint is not None:
                await early_hint(answer)
    except BaseException:
        if upload is not None:
            upload.cancel()
            await asyncio.wait([upload])
        raise
    return HTTP1Response(answer, connection, pool, upload, deadlines.read)


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    """Yield a long body in parts, so that it is sent at the pace of the upstream."""
    for start in range(0, len(body), _AT_ONCE):
        yield body[start : start + _AT_ONCE]


def _in_one(request: RawRequest) -> bytes:
    """Return a body that is at hand in its framing."""
    body = request.body
    assert isinstance(body, bytes)
    if not request.chunked:
        return body
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"


async def _upload(
    connection: HTTP1Connection,
    request: RawRequest,
    body: AsyncIterator[bytes],
    deadlines: Deadlines,
) -> None:
    """Send a body that arrives. If that fails, so does the exchange."""
    chunks = body if request.chunked else sized(body, content_length(request.headers) or 0)
    try:
        try:
            await connection.send_body(chunks, chunked=request.chunked, idle=deadlines.write)
        finally:
            if isinstance(body, AsyncGenerator):
                await body.aclose()
    except Exception as error:  # noqa: BLE001 - it is given to whoever waits for the response
        connection.fail(error)
    else:
        connection.expect_head(deadlines.response)


async def sized(
    chunks: AsyncIterator[bytes],
    length: int,
    kind: type[httpx.TransportError] = httpx.LocalProtocolError,
) -> AsyncIterator[bytes]:
    """Yield *chunks*, which have to be *length* bytes in all.

    Raises:
        httpx.TransportError: They are more or fewer; of *kind*.
    """
    left = length
    async for chunk in chunks:
        left -= len(chunk)
        if left < 0:
            break
        yield chunk
    if left:
        raise failure(kind, "The body does not have its declared length", request_sent=True)
