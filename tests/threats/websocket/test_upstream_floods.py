"""W7 to W9: floods of an upstream. Our parser meets them, so one server is enough."""

from __future__ import annotations

import asyncio

import pytest
from fastapi import FastAPI

from fastapi_proxy_router import ProxyRouter, UpstreamPool, WebSocketOptions
from tests.servers import serve
from tests.threats.websocket.flooding import LIMIT, MIB, bomb, flood, measured, objects, unsent
from tests.threats.websocket.wire import (
    BINARY,
    CONT,
    PING,
    PONG,
    TEXT,
    Peer,
    World,
    accept,
    alive,
    close_frame,
    frame,
    relayed,
    upstream,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]

COMPRESSION = b"Sec-WebSocket-Extensions: permessage-deflate"


@pytest.fixture(scope="module")
def server():
    """Run the tests on one server."""
    return "uvicorn-httptools"


@pytest.fixture(scope="module")
async def shared(server):
    """Relay what is compressed, up to a small limit, from an upstream with little room."""
    options = WebSocketOptions(max_message_size=LIMIT, compression=True)
    async with upstream(small=True) as up:
        app = FastAPI()
        app.include_router(ProxyRouter(UpstreamPool(up.raw.url, websocket=options)))
        async with serve(app, server) as gw:
            await alive(gw, up)
            yield World(server, gw, up)


async def compressing(peer: Peer, key: bytes) -> None:
    """Open the WebSocket with compression."""
    start = (b"HTTP/1.1 101 Switching", b"Upgrade: websocket", b"Connection: Upgrade")
    await peer.send(b"\r\n".join([*start, accept(key), COMPRESSION, b"", b""]))


async def test_pings_whose_pongs_are_not_read_cost_nothing(world):
    """W9: only the last ping must be answered; an upstream that does not read gets no pile."""
    waiting = 0

    async def ping(peer):
        nonlocal waiting
        await flood(peer, frame(PING, b"p" * 125), 90_000)
        await peer.send(frame(TEXT, b"done"))
        waiting = unsent()

    world.upstream.behaviour = ping
    async with relayed(world.gw) as client:
        assert (await client.receive(limit=20)).payload == b"done"
        await client.send(close_frame(1000, masked=True))
        await client.end()
    await world.upstream.end(limit=10)

    assert waiting < MIB // 2
    await world.still_works()


@pytest.mark.parametrize("opcode", [PING, PONG])
async def test_a_flood_of_control_frames_reaches_nobody(world, opcode):
    """W9: it is between the upstream and us, and messages still pass."""

    async def control(peer):
        reading = asyncio.create_task(peer.end(limit=20))
        await flood(peer, frame(opcode, b"p"), 20_000)
        await peer.send(frame(TEXT, b"done"), close_frame(1000))
        world.upstream.received, world.upstream.ended = await reading

    world.upstream.behaviour = control
    async with relayed(world.gw) as client:
        received, ended = await client.end(limit=20)
    await world.upstream.end()

    assert received == [b"done"]
    assert ended.code == 1000


@pytest.mark.parametrize("payload", [b"", b"x"], ids=["empty", "of one byte"])
async def test_a_flood_of_fragments_costs_what_is_in_them(world, payload):
    """W8: nothing is kept for each fragment, however many there are, and the message is whole."""
    times, kept = 50_000, 0

    async def fragment(peer):
        nonlocal kept
        await peer.send(frame(BINARY, b"start", fin=False))
        before = objects()
        await flood(peer, frame(CONT, payload, fin=False), times)
        await peer.send(frame(PING))
        async with asyncio.timeout(20):
            assert (await peer.receive()).opcode == PONG
        kept = objects() - before
        await peer.send(frame(CONT, b"end"))

    world.upstream.behaviour = fragment
    async with relayed(world.gw) as client:
        message = (await client.receive(limit=20)).payload
        await client.send(close_frame(1000, masked=True))
        await client.end()
    await world.upstream.end()

    assert message == b"start" + payload * (len(message) - 8) + b"end"
    assert len(message) >= 0.9 * times * len(payload)
    assert kept < times // 5


@pytest.mark.parametrize("fragments", [1, 50])
async def test_a_deflate_bomb_is_too_large(world, fragments):
    """W7: 64 MiB in 64 KiB are 1009 on both sides, and are never there."""
    data = bomb(64 * MIB, fragments=fragments)

    async def explode(peer, key):
        await compressing(peer, key)
        await peer.send(data)
        world.upstream.received, world.upstream.ended = await peer.end()

    world.upstream.answer = explode
    with measured() as memory:
        async with relayed(world.gw) as client:
            received, ended = await client.end()
        told = await world.upstream.end()

    assert received == []
    assert ended.code == told.code == 1009
    assert memory.peak < 8 * MIB
    await world.still_works()


async def test_many_bombs_in_one_packet_are_taken_a_few_at_a_time(world):
    """W7: what is read at once is parsed at once, 32 KiB, and becomes a thousand times that.

    Frames and messages are there at the same time.
    """
    data = bomb(LIMIT) * 200
    started = asyncio.Event()

    async def explode(peer, key):
        await compressing(peer, key)
        await peer.send(data)
        started.set()
        world.upstream.received, world.upstream.ended = await peer.end()

    world.upstream.answer = explode
    with measured() as memory:
        async with relayed(world.gw, small=True) as client:
            await client.receive()
            await started.wait()
            client.reset()
            told = await world.upstream.end(limit=2)

    assert told.code == 1001
    assert memory.peak < 72 * MIB
    await world.still_works()


async def test_small_messages_that_nobody_takes_are_no_queue(world):
    """A message costs more than its bytes: what waits for the client is a thousand or so."""
    stalled, kept = asyncio.Event(), 0

    async def chatter(peer):
        nonlocal kept
        before = objects()
        try:
            for _ in range(400):
                async with asyncio.timeout(0.5):
                    await flood(peer, frame(TEXT, b"x" * 60), 1000)
        except TimeoutError:
            kept = objects() - before
            stalled.set()

    world.upstream.behaviour = chatter
    async with relayed(world.gw, small=True) as client:
        async with asyncio.timeout(20):
            await stalled.wait()
        client.reset()
        await world.upstream.end(limit=10)

    assert kept < 10_000
    await world.still_works()
