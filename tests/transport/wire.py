"""What the engine's own tests share: requests in bytes, scripted answers, one whole exchange."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fastapi_proxy_router.core.policy import Deadlines
from fastapi_proxy_router.core.upstream import Origin
from fastapi_proxy_router.transport import HTTP1Transport
from fastapi_proxy_router.transport.attempt import HTTP1Response, RawRequest
from fastapi_proxy_router.transport.pool import ConnectionPool
from tests import servers
from tests.servers import RawUpstream, Served, raw_upstream

#: Runs a test on asyncio's own loop and on uvloop.
BOTH_LOOPS = pytest.mark.parametrize(
    "anyio_backend",
    [
        pytest.param(("asyncio", {}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    ],
)

#: Deadlines that no test is meant to meet.
PATIENT = Deadlines(connect=5, pool=5, response=5, read=5, write=5)
EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

Header = tuple[bytes, bytes]
#: Answers one request whose head was read; what is left of it is the handler's to read.
Handler = Callable[
    [servers.RawRequest, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]
]


def ask(
    method: str = "GET",
    *headers: Header,
    body: bytes | AsyncIterator[bytes] = b"",
    target: bytes = b"/",
) -> RawRequest:
    """Return a request: bytes with their length, any other body chunked, unless headers differ."""
    fields = [(b"host", b"x"), *headers]
    framed = {name for name, _ in fields} & {b"content-length", b"transfer-encoding"}
    chunked = b"transfer-encoding" in framed or not (framed or isinstance(body, bytes))
    if isinstance(body, bytes) and body and not framed:
        fields.append((b"content-length", b"%d" % len(body)))
    elif chunked and not framed:
        fields.append((b"transfer-encoding", b"chunked"))
    return RawRequest(method, target, fields, body, chunked)


class Answer(NamedTuple):
    """A response that has been read to its end."""

    status: int
    body: bytes
    headers: list[Header]
    trailers: list[Header]


def origin(upstream: Served, scheme: str = "http") -> Origin:
    return Origin(scheme, upstream.host, upstream.port)


async def body_of(response: HTTP1Response) -> bytes:
    chunks = []
    while chunk := await response.next_chunk():
        chunks.append(chunk)
    return b"".join(chunks)


async def fetch(
    transport: HTTP1Transport,
    upstream: Served,
    request: RawRequest | None = None,
    deadlines: Deadlines = PATIENT,
    *,
    scheme: str = "http",
    **options: Any,
) -> Answer:
    """Make one exchange, read its response to the end and give the connection back."""
    response = await transport.exchange(
        origin(upstream, scheme), request or ask(), deadlines, **options
    )
    try:
        body = await body_of(response)
        return Answer(response.status, body, response.headers, response.trailers)
    finally:
        await response.aclose()


@asynccontextmanager
async def scripted(handler: Handler, **options: Any) -> AsyncIterator[RawUpstream]:
    """Run an upstream that calls *handler* for every request of every connection, recorded."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = upstream.last
        while True:
            await handler(request, reader, writer)
            request = servers.RawRequest((await reader.readuntil(b"\r\n\r\n"))[:-4])
            upstream.requests.append(request)

    async with raw_upstream(script, **options) as upstream:
        yield upstream


async def read_body(request: servers.RawRequest, reader: asyncio.StreamReader) -> bytes:
    """Read the body of a request, undoing its chunks."""
    if lengths := request.values(b"content-length"):
        return await reader.readexactly(int(lengths[0]))
    body = b""
    if request.values(b"transfer-encoding"):
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readuntil(b"\r\n")
    return body


async def say(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Write, unless the other side has left; uvloop would call that a mistake of ours."""
    if writer.transport.is_closing():
        raise ConnectionAbortedError
    writer.write(data)
    await writer.drain()


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection with a reset."""
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def was_sent(error: BaseException) -> bool:
    """Return what an error says: whether anything of its request was sent."""
    sent: bool = error.request_sent  # type: ignore[attr-defined]
    return sent


def pool_of(transport: HTTP1Transport) -> ConnectionPool:
    """Return the only pool of *transport*."""
    (pool,) = transport._pools.values()
    return pool


async def whole(response: HTTP1Response) -> None:
    """Wait until all of *response* has arrived, without taking it."""
    await until(lambda: response.complete)


async def until(condition: Callable[[], object]) -> None:
    """Wait until *condition* holds, two seconds at most."""
    async with asyncio.timeout(2):
        while not condition():
            await asyncio.sleep(0.001)


async def within_a_second(event: asyncio.Event) -> None:
    async with asyncio.timeout(1):
        await event.wait()


def unix_listener(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    listener.setblocking(False)
    return listener


def open_sockets() -> int:
    """Count the sockets of this process."""
    count = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            count += descriptor.readlink().name.startswith("socket:")
        except FileNotFoundError:
            # The one that lists the folder.
            continue
    return count
