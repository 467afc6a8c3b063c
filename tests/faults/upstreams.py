"""Upstreams with a fault, which answer the probes that come afterwards as good ones do."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from tests.servers import OK, RawRequest, RawUpstream, raw_upstream, read_request

#: Where the probes go; a request for anything else meets the fault.
PROBE = b"/probe"
#: Probes that arrive here are answered when all of them have arrived.
TOGETHER = b"/probe/together"
#: How many there are.
PROBES = 8

#: Answers one request; true keeps the connection for another.
Fault = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bool | None]]


@asynccontextmanager
async def faulty(fault: Fault) -> AsyncIterator[RawUpstream]:
    """Listen, record every request on every connection, and answer all but probes by *fault*.

    The fault finds the head of the request in ``upstream.last``; its body is still to be read.
    """
    sound = _Sound()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await (sound if upstream.last.target.startswith(PROBE) else fault)(reader, writer):
            upstream.requests.append(RawRequest((await reader.readuntil(b"\r\n\r\n"))[:-4]))
            upstream.received.set()

    async with raw_upstream(script) as upstream:
        sound.upstream = upstream
        yield upstream


class _Sound:
    """The good side of an upstream."""

    upstream: RawUpstream

    def __init__(self) -> None:
        self._together = asyncio.Barrier(PROBES)

    async def __call__(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if self.upstream.last.target == TOGETHER:
            await self._together.wait()
        writer.write(OK)
        await writer.drain()
        return True


class Gate:
    """A port that nobody serves yet, or where connections meet a fault, until it is opened."""

    def __init__(self, listener: socket.socket) -> None:
        self.upstream = RawUpstream(listener.getsockname()[1])
        self.listener = listener
        self._fault: Fault | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def open(self, fault: Fault | None = None, *, tls: ssl.SSLContext | None = None) -> None:
        """Accept connections, first those that wait; without a fault they are served well."""
        self._fault = fault
        if self._server is not None:
            self._server.close()
        # A server closes its socket in the end; this one may be followed by another.
        listener = self.listener.dup()
        self._server = await asyncio.start_server(self._connected, sock=listener, ssl=tls)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.upstream.connections += 1
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await (self._serve if self._fault is None else self._fault)(reader, writer)
        writer.close()
        self.upstream.closed.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            self.upstream.requests.append(await read_request(reader))
            writer.write(OK)
            await writer.drain()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def gate(backlog: int | None) -> AsyncIterator[Gate]:
    """Take a port where connections wait in a backlog, or, without one, are refused."""
    listener = socket.socket()
    listener.setblocking(False)
    listener.bind(("127.0.0.1", 0))
    if backlog is not None:
        listener.listen(backlog)
    entrance = Gate(listener)
    try:
        yield entrance
    finally:
        await entrance.close()


def reset(writer: asyncio.StreamWriter) -> None:
    """Break a connection off by RST."""
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
