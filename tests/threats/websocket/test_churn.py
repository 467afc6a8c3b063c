"""W13: clients that come and go, in every stage. Nothing of them is left."""

from __future__ import annotations

import asyncio

import pytest

from tests.faults.settling import Gateway, Settled
from tests.faults.upstreams import faulty
from tests.servers import SERVERS, RawUpstream, Served
from tests.threats.websocket.wire import (
    TEXT,
    Peer,
    close_frame,
    connected,
    frame,
    handshake,
    switching,
)

pytestmark = pytest.mark.anyio

CLIENTS = 200
AT_ONCE = 25


@pytest.fixture(scope="module", params=reversed(SERVERS))
def server(request):
    """Run the test on each server, with the invariants of the faults."""
    return request.param


@pytest.fixture
async def settled(caplog):
    """Fail a test after which the process is not as it was before."""
    async for settled in Settled(caplog).watch():
        yield settled


async def leave(client: Peer, way: int) -> None:
    """Leave in one of four ways."""
    if way == 0:
        await client.send(close_frame(1000, b"bye", masked=True))
        await client.end()
    elif way == 1:
        client.writer.write_eof()
    elif way == 2:
        client.reset()
    else:
        await client.send(frame(TEXT, b"half", length=100, masked=True))


class Upstream:
    """Answers every handshake but those for /silent, whose clients leave before."""

    raw: RawUpstream

    def __init__(self, server: str) -> None:
        self._server = server
        self.waiting, self.left = asyncio.Semaphore(0), asyncio.Semaphore(0)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request, peer = self.raw.last, Peer(reader, writer, masks=False)
        if request.target.startswith(b"/silent"):
            self.waiting.release()
            if self._server != "granian":
                assert await peer.eof(limit=10)
                return
            # It does not tell before the WebSocket is accepted.
            async with asyncio.timeout(10):
                await self.left.acquire()
        await peer.send(switching(request.values(b"sec-websocket-key")[0]))
        await peer.end(limit=10)


async def come_and_go(served: Served, upstream: Upstream, number: int) -> None:
    """Open a WebSocket and leave it, or leave before it is open."""
    async with connected(served) as client, asyncio.timeout(10):
        if number % 2:
            await client.send(handshake(target=b"/silent"))
            await upstream.waiting.acquire()
            await leave(client, 1 + number // 2 % 2)
            upstream.left.release()
        else:
            await client.send(handshake(target=b"/open"))
            head = await client.reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101")
            await client.message("hello")
            await leave(client, number // 2 % 4)


async def test_clients_that_come_and_go_leave_nothing(settled, server):
    """Half leave while the upstream has not answered yet; no task and no descriptor stays."""
    upstream = Upstream(server)

    async def clients(gateway: Gateway, numbers: range) -> None:
        for number in numbers:
            await come_and_go(gateway.served, upstream, number)

    async with faulty(upstream) as upstream.raw:
        async with settled.gateway(upstream.raw, server) as gateway:
            async with asyncio.TaskGroup() as group:
                for first in range(AT_ONCE):
                    group.create_task(clients(gateway, range(first, CLIENTS, AT_ONCE)))
