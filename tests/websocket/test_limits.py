"""The limits of a WebSocket: the size of messages, and how long it may last."""

from __future__ import annotations

import asyncio
import contextlib
import gc

import pytest
from fastapi import FastAPI, WebSocket
from websockets.exceptions import ConnectionClosed
from websockets.frames import Opcode

from fastapi_proxy_router import UpstreamPool, WebSocketOptions, proxy_pass_websocket
from fastapi_proxy_router.relay import Relay
from tests.servers import serve
from tests.test_relay import WebSocketUpstream, dialled, ended, ws_upstream
from tests.websocket.hooking import upstream_told
from tests.websocket.wire import Wire, gateway_to, until, wire_upstream

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]

MIB = 1024 * 1024
LIMIT = 1000
#: 500 characters and 1000 bytes.
ACCENTS = "\xe9" * 500
LIMITED = WebSocketOptions(max_message_size=LIMIT)


def sending(*messages):
    """Return an upstream that sends messages and waits for the end."""

    async def handler(connection):
        with contextlib.suppress(ConnectionClosed):
            for message in messages:
                await connection.send(message)
        await connection.wait_closed()

    return handler


async def closed_with(upstream: WebSocketUpstream) -> int:
    """Return the code of the close frame that the upstream got."""
    return (await upstream_told(upstream))[0]


# --- Size --------------------------------------------------------------------------------------


@pytest.mark.parametrize("message", [b"x" * LIMIT, "x" * LIMIT, ACCENTS])
async def test_a_message_of_just_the_limit_passes(server, message):
    """In either direction; text is measured in bytes."""
    async with ws_upstream() as upstream:
        async with serve(gateway_to(upstream.url, websocket=LIMITED), server) as gw:
            async with dialled(gw) as client:
                await client.send(message)
                assert await client.recv() == message


@pytest.mark.parametrize("message", [b"x" * (LIMIT + 1), "x" * (LIMIT + 1), ACCENTS + "x"])
async def test_a_larger_message_of_the_client_ends_both_sides(server, message):
    """With 1009, and the upstream does not see it."""
    seen = []

    async def handler(connection):
        with contextlib.suppress(ConnectionClosed):
            seen.append(await connection.recv())

    async with ws_upstream(handler) as upstream:
        async with serve(gateway_to(upstream.url, websocket=LIMITED), server) as gw:
            async with dialled(gw) as client:
                await client.send(message)
                assert (await ended(client))[0] == 1009
            assert await closed_with(upstream) == 1009
    assert seen == []


@pytest.mark.parametrize(
    "message", [b"x" * (LIMIT + 1), ACCENTS + "x", [b"x" * 600, b"x" * 600]], ids=range(3)
)
async def test_a_larger_message_of_the_upstream_ends_both_sides(server, message):
    """With 1009, in one piece or in several, after the messages before it."""
    async with ws_upstream(sending("before", message)) as upstream:
        async with serve(gateway_to(upstream.url, websocket=LIMITED), server) as gw:
            async with dialled(gw) as client:
                assert await client.recv() == "before"
                assert (await ended(client))[0] == 1009
            assert await closed_with(upstream) == 1009


@pytest.mark.parametrize("parts", [["a", "", "caf\xe9", "c"], [b"\xff", b"\x00", b""]])
async def test_fragments_of_the_upstream_are_one_message(parts):
    """Whole and of their kind, and the next message is another."""
    async with ws_upstream(sending(parts, "next")) as upstream:
        async with serve(gateway_to(upstream.url, websocket=LIMITED)) as gw, dialled(gw) as client:
            assert await client.recv() == type(parts[0])().join(parts)
            assert await client.recv() == "next"


async def test_the_limit_is_for_what_was_compressed():
    """A message that is small on the wire and large in memory is over it."""
    options = WebSocketOptions(max_message_size=LIMIT, compression=True)
    async with ws_upstream(sending("x" * 5000)) as upstream:
        async with serve(gateway_to(upstream.url, websocket=options)) as gw:
            async with dialled(gw) as client:
                assert (await ended(client))[0] == 1009
            assert upstream.connections[0].protocol.extensions != []
            assert await closed_with(upstream) == 1009


async def test_a_compressed_message_of_just_the_limit_passes():
    """And in fragments, each of which is compressed."""
    options = WebSocketOptions(max_message_size=LIMIT, compression=True)

    async def handler(connection):
        await connection.send(b"x" * LIMIT)
        await connection.send([b"x" * (LIMIT // 2), b"x" * (LIMIT - LIMIT // 2)])
        await connection.send(b"x" * (LIMIT + 2))
        await connection.wait_closed()

    async with ws_upstream(handler) as upstream:
        async with serve(gateway_to(upstream.url, websocket=options)) as gw:
            async with dialled(gw) as client:
                assert [len(await client.recv()) for _ in range(2)] == [LIMIT, LIMIT]
                assert (await ended(client))[0] == 1009


async def test_the_default_limit_is_16_mib():
    """Just as much passes, and no more."""
    options = {"max_size": None, "compression": None}
    async with ws_upstream(sending(b"x" * 16 * MIB, b"x" * (16 * MIB + 1)), **options) as upstream:
        async with serve(gateway_to(upstream.url)) as gw, dialled(gw, compression=None) as client:
            assert len(await client.recv()) == 16 * MIB
            assert (await ended(client))[0] == 1009


async def test_there_may_be_no_limit():
    """20 MiB pass in both directions, where the server takes them."""
    options = WebSocketOptions(max_message_size=None)
    async with ws_upstream(max_size=None, compression=None) as upstream:
        app = gateway_to(upstream.url, websocket=options)
        async with serve(app, ws_max_size=64 * MIB) as gw:
            async with dialled(gw, compression=None) as client:
                await client.send(b"x" * 20 * MIB)
                assert len(await client.recv()) == 20 * MIB


@pytest.mark.parametrize(("own", "code"), [(LIMIT, 1009), (None, None)])
async def test_an_overrides_limits_win_over_the_pools(own, code):
    """All of them: what it does not set is the default and not the pool's."""
    pool_options = WebSocketOptions(max_message_size=LIMIT // 2 if own is None else None)
    async with ws_upstream() as upstream:
        pool = UpstreamPool(upstream.url, websocket=pool_options)
        app = FastAPI()

        @app.websocket("/ws")
        async def endpoint(websocket: WebSocket) -> None:
            options = WebSocketOptions(max_message_size=own)
            await proxy_pass_websocket(websocket, pool.upstreams[0], options=options)

        async with serve(app) as gw, dialled(gw) as client:
            await client.send("x" * (LIMIT + 1))
            if code is None:
                assert len(await client.recv()) == LIMIT + 1
            else:
                assert (await ended(client))[0] == code


# --- Time --------------------------------------------------------------------------------------


async def test_a_websocket_that_idles_is_closed(server):
    """Both sides with 1001, and told why."""
    async with ws_upstream() as upstream:
        app = gateway_to(upstream.url, websocket=WebSocketOptions(idle=0.1))
        async with serve(app, server) as gw, dialled(gw) as client:
            assert await ended(client) == (1001, "idle for too long")
            assert await closed_with(upstream) == 1001
            assert upstream.connections[0].close_reason == "idle for too long"
    assert app.state.pool.upstreams[0].in_flight == 0


@pytest.mark.parametrize("by", ["client", "upstream"])
async def test_a_message_in_one_direction_keeps_it_open(by):
    """Whoever sends it; a ping is none."""
    loop = asyncio.get_running_loop()

    async def talk(connection):
        for _ in range(5):
            await connection.send("x")
            await asyncio.sleep(0.1)

    async def handler(connection):
        if by == "upstream":
            await talk(connection)
        await connection.wait_closed()

    app_options = WebSocketOptions(idle=0.25, ping_interval=0.05)
    async with ws_upstream(handler) as upstream:
        async with serve(gateway_to(upstream.url, websocket=app_options)) as gw:
            async with dialled(gw) as client:
                started = loop.time()
                if by == "client":
                    await talk(client)
                assert (await ended(client))[0] == 1001
                assert loop.time() - started > 0.5


async def test_a_lifetime_ends_whatever_happens(server):
    """Also a WebSocket that is busy: both sides are closed with 1001."""

    async def chatter(connection):
        with contextlib.suppress(ConnectionClosed):
            while True:
                await connection.send("x")
                await connection.recv()

    async with ws_upstream(chatter) as upstream:
        app = gateway_to(upstream.url, websocket=WebSocketOptions(lifetime=0.2))
        async with serve(app, server) as gw, dialled(gw) as client:
            with contextlib.suppress(ConnectionClosed):
                while True:
                    await client.send(await client.recv())
            assert await ended(client) == (1001, "its lifetime is over")
            assert await closed_with(upstream) == 1001
    assert app.state.pool.upstreams[0].in_flight == 0


def relays() -> int:
    """Return how many relays are in memory."""
    gc.collect()
    return sum(issubclass(type(thing), Relay) for thing in gc.get_objects())


async def test_limits_of_time_that_have_not_passed_leave_nothing_behind():
    """An end before them is the end, and no clock holds what is over."""
    options = WebSocketOptions(lifetime=60, idle=60)
    async with ws_upstream() as upstream:
        async with serve(gateway_to(upstream.url, websocket=options)) as gw:
            async with dialled(gw) as client:
                await client.send("x")
                await client.recv()
                await client.close(4000)
            assert await closed_with(upstream) == 4000
            await until(lambda: relays() == 0)


async def test_without_limits_of_time_there_is_no_end():
    """They are off by default, and pings alone keep a WebSocket open."""
    options = WebSocketOptions(ping_interval=0.05, ping_timeout=0.05)
    pings = []

    async def script(wire: Wire) -> None:
        for _ in range(3):
            pings.append(await wire.read())
            await wire.send(Opcode.PONG)
        await wire.send(Opcode.TEXT, b"still here")
        await wire.read()

    async with wire_upstream(script) as upstream:
        async with serve(gateway_to(upstream.url, websocket=options)) as gw, dialled(gw) as client:
            assert await client.recv() == "still here"
    assert {ping.opcode for ping in pings} == {Opcode.PING}
