"""Back-pressure and keepalive: what a relay holds, and how long it waits for an upstream."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest
from websockets.frames import Opcode

from fastapi_proxy_router import HTTP1Transport, Upstream, WebSocketOptions
from tests.servers import serve
from tests.test_relay import dialled, ended
from tests.test_streaming import leave
from tests.websocket.wire import (
    Received,
    Wire,
    gateway_to,
    small_listener,
    until,
    wire_client,
    wire_upstream,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]

MIB = 1024 * 1024
CHUNK = b"x" * 65536
CHUNKS = 384
#: No side is stopped for so long unless it has to wait for the other.
STUCK = 0.3

QUICK = WebSocketOptions(ping_interval=0.05, ping_timeout=0.1)
PATIENT = WebSocketOptions(ping_interval=0.03, ping_timeout=None)


class Flood:
    """Sends 24 MiB and notes how many messages had gone when it first had to wait."""

    def __init__(self) -> None:
        self.stuck = asyncio.Event()
        self.sent = 0

    async def __call__(self, wire: Wire) -> None:
        with contextlib.suppress(OSError):
            while self.sent < CHUNKS:
                wire.write(Opcode.BINARY, CHUNK)
                try:
                    async with asyncio.timeout(STUCK):
                        await wire.writer.drain()
                except TimeoutError:
                    self.stuck.set()
                    await wire.writer.drain()
                self.sent += 1

    async def wait_stuck(self) -> None:
        async with asyncio.timeout(5):
            await self.stuck.wait()


async def count(wire: Wire) -> int:
    """Read all messages of a flood, and return how many had its length."""
    whole = 0
    for _ in range(CHUNKS):
        frame = await wire.read_until(Opcode.BINARY)
        whole += len(frame.payload) == len(CHUNK)
    return whole


# --- Back-pressure -----------------------------------------------------------------------------


async def test_a_client_that_does_not_read_stops_the_upstream(server):
    """Less than 16 MiB are taken off it, the kernel's buffers included; then all arrives."""
    flood = Flood()

    async def script(wire: Wire) -> None:
        await flood(wire)
        await wire.read_until(Opcode.CLOSE)

    async with wire_upstream(script, listener=small_listener()) as upstream:
        async with serve(gateway_to(upstream.url), server) as gw, wire_client(gw) as client:
            await flood.wait_stuck()
            assert flood.sent * len(CHUNK) < 16 * MIB
            assert await count(client) == CHUNKS


async def test_an_upstream_that_does_not_read_stops_the_client(server):
    """The reverse."""
    flood, read = Flood(), asyncio.Event()
    arrived = []

    async def script(wire: Wire) -> None:
        await read.wait()
        arrived.append(await count(wire))

    async with wire_upstream(script, listener=small_listener()) as upstream:
        async with serve(gateway_to(upstream.url), server) as gw, wire_client(gw) as client:
            flooding = asyncio.create_task(flood(client))
            await flood.wait_stuck()
            assert flood.sent * len(CHUNK) < 16 * MIB
            read.set()
            await flooding
            await upstream.closed.wait()
    assert arrived == [CHUNKS]


async def test_two_sides_that_only_send_do_not_stop_each_other_for_ever():
    """Both directions are full at once, and each goes on when its reader does."""
    from_upstream, from_client = Flood(), Flood()
    read, counted = asyncio.Event(), asyncio.Event()
    arrived = []

    async def script(wire: Wire) -> None:
        sending = asyncio.create_task(from_upstream(wire))
        await read.wait()
        arrived.append(await count(wire))
        counted.set()
        await sending
        await wire.read_until(Opcode.CLOSE)

    async with wire_upstream(script, listener=small_listener()) as upstream:
        async with serve(gateway_to(upstream.url)) as gw, wire_client(gw) as client:
            sending = asyncio.create_task(from_client(client))
            await from_upstream.wait_stuck()
            await from_client.wait_stuck()
            read.set()
            arrived.append(await count(client))
            await sending
            await counted.wait()
    assert arrived == [CHUNKS, CHUNKS]


async def test_a_client_that_leaves_with_a_full_backlog_frees_the_upstream():
    """What is left of it is read and thrown away, so that the upstream's close is heard."""
    flood = Flood()
    over: list[Received] = []

    async def script(wire: Wire) -> None:
        await flood(wire)
        over.append(await wire.read_until(Opcode.CLOSE))
        await wire.send(Opcode.CLOSE, over[0].payload)

    async with wire_upstream(script, listener=small_listener()) as upstream:
        app = gateway_to(upstream.url)
        async with serve(app) as gw, wire_client(gw) as client:
            await flood.wait_stuck()
            await leave(client.writer, "reset")
            await until(lambda: app.state.pool.upstreams[0].in_flight == 0, seconds=3)
    assert [frame.code for frame in over] == [1001]


# --- Keepalive ---------------------------------------------------------------------------------


async def test_an_upstream_that_is_silent_is_given_up(server):
    """It is told so with 1011, and the client that the gateway is bad, with 1014."""
    frames = []

    async def script(wire: Wire) -> None:
        frames.append(await wire.read())
        frames.append(await wire.read_until(Opcode.CLOSE))

    async with wire_upstream(script) as upstream:
        app = gateway_to(upstream.url, websocket=QUICK)
        async with serve(app, server) as gw, dialled(gw) as client:
            assert (await ended(client))[0] == 1014
            await upstream.closed.wait()
            await until(lambda: app.state.pool.upstreams[0].in_flight == 0)
    ping, close = frames
    assert ping.opcode is Opcode.PING
    assert close.code == 1011
    assert close.payload[2:] == b"keepalive ping timeout"


async def test_an_upstream_that_falls_silent_is_given_up():
    """However many pings it has answered before."""

    async def script(wire: Wire) -> None:
        for _ in range(3):
            await wire.read_until(Opcode.PING)
            await wire.send(Opcode.PONG)
        await wire.read_until(Opcode.CLOSE)

    async with wire_upstream(script) as upstream:
        app = gateway_to(upstream.url, websocket=QUICK)
        async with serve(app) as gw, dialled(gw) as client:
            assert (await ended(client))[0] == 1014


async def test_an_upstream_that_sends_is_alive_without_a_pong():
    """Whatever arrives counts, a part of a message too."""

    async def script(wire: Wire) -> None:
        for byte in b"\x81\x0aten chars!":
            wire.writer.write(bytes([byte]))
            await asyncio.sleep(0.05)
        await wire.read_until(Opcode.CLOSE)

    async with wire_upstream(script) as upstream:
        app = gateway_to(upstream.url, websocket=QUICK)
        async with serve(app) as gw, dialled(gw) as client:
            assert await client.recv() == "ten chars!"


async def test_an_upstream_that_we_do_not_read_is_not_given_up():
    """While a slow client has a full backlog, pongs are not to be heard."""
    flood = Flood()

    async def script(wire: Wire) -> None:
        # Pings are answered only after all has been sent.
        await flood(wire)
        await wire.send(Opcode.TEXT, b"end")
        while (await wire.read()).opcode is Opcode.PING:
            await wire.send(Opcode.PONG)

    async with wire_upstream(script, listener=small_listener()) as upstream:
        app = gateway_to(upstream.url, websocket=QUICK)
        async with serve(app) as gw, wire_client(gw) as client:
            await flood.wait_stuck()
            assert await count(client) == CHUNKS
            assert (await client.read()).payload == b"end"


async def test_pongs_are_no_condition_without_a_timeout():
    """Pings go out, and nobody waits for an answer."""

    async def script(wire: Wire) -> None:
        for _ in range(5):
            await wire.read_until(Opcode.PING)
        await wire.send(Opcode.TEXT, b"still here")
        await wire.read_until(Opcode.CLOSE)

    async with wire_upstream(script) as upstream:
        app = gateway_to(upstream.url, websocket=PATIENT)
        async with serve(app) as gw, dialled(gw) as client:
            assert await client.recv() == "still here"


async def test_pings_come_at_their_interval_however_long_the_timeout_is():
    """The one is how often to ask, the other how long to wait for an answer."""
    options = WebSocketOptions(ping_interval=0.03, ping_timeout=20)

    async def script(wire: Wire) -> None:
        for _ in range(5):
            await wire.read_until(Opcode.PING)
            await wire.send(Opcode.PONG)
        await wire.send(Opcode.TEXT, b"still here")
        await wire.read_until(Opcode.CLOSE)

    async with wire_upstream(script) as upstream:
        app = gateway_to(upstream.url, websocket=options)
        async with serve(app) as gw, dialled(gw) as client, asyncio.timeout(3):
            assert await client.recv() == "still here"


async def test_no_pings_are_sent_when_they_are_turned_off():
    """An upstream may be silent for as long as it likes."""
    frames = []

    async def script(wire: Wire) -> None:
        frames.append(await wire.read())

    options = WebSocketOptions(ping_interval=None, ping_timeout=0.05)
    async with wire_upstream(script) as upstream:
        app = gateway_to(upstream.url, websocket=options)
        async with serve(app) as gw, dialled(gw) as client:
            await asyncio.sleep(0.2)
            await client.send("x")
            await upstream.closed.wait()
    assert [frame.opcode for frame in frames] == [Opcode.TEXT]


async def test_a_ping_of_the_upstream_is_answered_here():
    """With its payload; the client does not hear of it."""
    answers = []

    async def script(wire: Wire) -> None:
        for payload in (b"", b"abc", b"x" * 125):
            await wire.send(Opcode.PING, payload)
            answers.append((await wire.read()).payload)
        await wire.send(Opcode.TEXT, b"done")
        await wire.read_until(Opcode.CLOSE)

    async with wire_upstream(script) as upstream:
        async with serve(gateway_to(upstream.url)) as gw, wire_client(gw) as client:
            assert await client.read() == (Opcode.TEXT, b"done", False)
    assert answers == [b"", b"abc", b"x" * 125]


async def test_pongs_that_nobody_reads_are_not_kept(tmp_path):
    """Of a flood of pings only the last is answered once the upstream reads (RFC 6455, 5.5.3)."""
    pings = 20_000
    pongs: list[bytes] = []

    async def script(wire: Wire) -> None:
        for number in range(pings):
            await wire.send(Opcode.PING, b"%0125d" % number)
        await wire.send(Opcode.TEXT, b"all sent")
        last = b"%0125d" % (pings - 1)
        while not pongs or pongs[-1] != last:
            pongs.append((await wire.read()).payload)
        await wire.send(Opcode.TEXT, b"all read")
        await wire.read_until(Opcode.CLOSE)

    # The buffers of a unix socket have a fixed size.
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path := str(tmp_path / "upstream.sock"))
    target = Upstream("http://upstream.test", transport=HTTP1Transport(uds=path))
    async with wire_upstream(script, listener=listener):
        async with serve(gateway_to(target)) as gw, dialled(gw) as client:
            assert await client.recv() == "all sent"
            assert await client.recv() == "all read"
    assert pongs == sorted(pongs)
    assert len(pongs) < pings / 2
