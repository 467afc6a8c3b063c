"""W7 to W9: floods of a client. The server's parser meets them; the upstream hears little."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from fastapi import FastAPI

from fastapi_proxy_router import ProxyRouter, UpstreamPool, WebSocketOptions
from tests.threats.websocket.flooding import LIMIT, MIB, bomb, flood, measured
from tests.threats.websocket.known import known
from tests.threats.websocket.wire import (
    BINARY,
    CONT,
    DEFLATE,
    LOST,
    NO_CODE,
    PING,
    PONG,
    RSV1,
    close_frame,
    frame,
    relayed,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]


@pytest.fixture(scope="module")
def build():
    """Relay messages up to a limit that is below the server's."""

    def limited(url):
        app = FastAPI()
        options = WebSocketOptions(max_message_size=LIMIT)
        app.include_router(ProxyRouter(UpstreamPool(url, websocket=options)))
        return app

    return limited


@pytest.mark.parametrize("opcode", [PING, PONG])
async def test_a_flood_of_control_frames_reaches_nobody(world, opcode):
    """W9: it is between the client and the server, and messages still pass."""
    async with relayed(world.gw) as client:
        reading = asyncio.create_task(client.end(limit=20))
        await flood(client, frame(opcode, b"p", masked=True), 4000)
        await client.message(b"done")
        await client.send(close_frame(1000, masked=True))
        await reading
    await world.upstream.end()

    assert world.upstream.received == [b"done"]
    await world.still_works()


async def test_a_client_that_reads_no_pong_is_one_connection(world):
    """W9: what it costs ends with it, and the others go on meanwhile."""
    piled = known(world.server, "Pongs that a client does not read pile up")
    async with relayed(world.gw, small=True) as client:
        # Where they do not, the server reads no more, in the end.
        with contextlib.nullcontext() if piled else contextlib.suppress(TimeoutError):
            async with asyncio.timeout(20 if piled else 0.4):
                await flood(client, frame(PING, b"p" * 125, masked=True), 12_000)
        await world.still_works()
        client.reset()

    await world.still_works()


@pytest.mark.parametrize("payload", [b"", b"x"], ids=["empty", "of one byte"])
async def test_a_flood_of_fragments_is_one_message(world, payload):
    """W8: however many there are, the upstream gets them as one."""
    times = 5000
    async with relayed(world.gw) as client:
        await client.send(frame(BINARY, fin=False, masked=True))
        await flood(client, frame(CONT, payload, fin=False, masked=True), times)
        await client.send(frame(CONT, b"end", masked=True))
        await client.send(close_frame(1000, masked=True))
        await world.upstream.end(limit=20)
        await client.end()

    (message,) = world.upstream.received
    assert message == payload * (len(message) - 3) + b"end"
    assert len(message) >= 0.4 * times * len(payload)
    await world.still_works()


async def test_a_flood_of_fragments_that_never_ends_ends_with_the_client(world):
    """W8: the upstream hears nothing of it but the end."""
    async with relayed(world.gw) as client:
        await client.send(frame(BINARY, fin=False, masked=True))
        await flood(client, frame(CONT, b"x", fin=False, masked=True), 5000)
        client.reset()
        told = await world.upstream.end()

    assert world.upstream.received == []
    assert told.code == 1001
    await world.still_works()


#: Within the limit of the server, but not within ours; and beyond both.
BOMBS = {"8 MiB": 8 * MIB, "64 MiB": 64 * MIB}


@pytest.mark.parametrize("row", BOMBS)
async def test_a_deflate_bomb_is_too_large(world, row):
    """W7: the upstream gets nothing of it; both sides hear why, if the server can tell."""
    data = bomb(BOMBS[row], masked=True)
    with measured() as memory:
        async with relayed(world.gw, DEFLATE) as client:
            await client.send(data)
            received, ended = await client.end()
        told = await world.upstream.end()

    assert world.upstream.received == received == []
    if known(world.server, "Compression is not offered to clients"):
        # It is a bad frame, then.
        assert (ended.code, told.code) == (NO_CODE, 1001)
    else:
        silent = BOMBS[row] > 16 * MIB and known(
            world.server, "Too large a message is not told to the application"
        )
        assert ended.code == 1009
        assert told.code == (1001 if silent else 1009)
    inflates = known(world.server, "A deflate bomb is inflated beyond the limit for messages")
    assert (memory.peak > 48 * MIB) is (inflates and row == "64 MiB")
    await world.still_works()


async def test_a_broken_deflate_is_a_bad_frame(world):
    """W7: what cannot be inflated ends both sides, and the upstream gets nothing of it."""
    async with relayed(world.gw, DEFLATE) as client:
        await client.send(frame(BINARY, b"\xff" * 50, rsv=RSV1, masked=True))
        _, ended = await client.end()
    told = await world.upstream.end()

    assert world.upstream.received == []
    assert ended.code in (1002, 1007, NO_CODE, LOST)
    assert told.code in (1002, 1007, 1001)
    await world.still_works()
