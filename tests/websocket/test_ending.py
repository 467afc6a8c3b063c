"""How a WebSocket ends: by whom, with which code, and what is left of it."""

# No postponed annotations here: FastAPI reads those of functions inside tests.

import asyncio
import contextlib

import pytest
from fastapi import FastAPI, WebSocket
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import Opcode

from fastapi_proxy_router import Reply, Upstream, WebSocketOptions, proxy_pass_websocket
from tests.servers import serve, waits_for_clients
from tests.test_relay import anyio_deadline, dialled, ended, gateway, ws_upstream
from tests.test_streaming import leave
from tests.websocket.hooking import Hooked, upstream_told
from tests.websocket.wire import Wire, gateway_to, until, wire_client, wire_upstream

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]


async def stream(connection):
    """Send for as long as anybody listens."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            await connection.send("x" * 100)
            await asyncio.sleep(0)


async def listen(connection):
    await connection.wait_closed()


# --- Cancelled ---------------------------------------------------------------------------------


def limited(target: Upstream, deadline, ends: list[int], **changes) -> FastAPI:
    """Return an app whose endpoint has a deadline, and notes what is in flight when it passes."""
    app = FastAPI()

    @app.websocket("/ws")
    async def endpoint(websocket: WebSocket):
        try:
            async with deadline(0.2):
                await proxy_pass_websocket(websocket, target, **changes)
        except TimeoutError:
            ends.append(target.in_flight)

    return app


@pytest.mark.parametrize("deadline", [asyncio.timeout, anyio_deadline])
@pytest.mark.parametrize("handler", [listen, stream])
async def test_a_deadline_of_ones_own_ends_both_sides(server, deadline, handler):
    """With 1012, whoever cancels, and when the deadline's block is left nothing runs."""
    ends: list[int] = []
    async with ws_upstream(handler) as upstream:
        app = limited(Upstream(upstream.url), deadline, ends)
        async with serve(app, server) as gw, dialled(gw) as client:
            if handler is stream:
                with contextlib.suppress(ConnectionClosed):
                    while True:
                        await client.recv()
            assert (await ended(client))[0] == 1012
            assert (await upstream_told(upstream))[0] == 1012
            await until(lambda: ends == [0])


@pytest.mark.parametrize("deadline", [asyncio.timeout, anyio_deadline])
async def test_a_deadline_stops_a_hook(deadline):
    """A hook that waits is cancelled like all the rest."""
    ends: list[int] = []
    stopped = asyncio.Event()

    async def hook(message: str) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return message

    async with ws_upstream() as upstream:
        app = limited(Upstream(upstream.url), deadline, ends, on_client_message=hook)
        async with serve(app) as gw, dialled(gw) as client:
            await client.send("x")
            assert (await ended(client))[0] == 1012
            assert (await upstream_told(upstream))[0] == 1012
            await until(lambda: ends == [0])
    assert stopped.is_set()


async def test_a_deadline_does_not_wait_for_an_upstream_that_does_not_close():
    """It has a second for its goodbye, and not the five it would have otherwise."""
    ends: list[int] = []
    silent = asyncio.Event()

    async def script(wire: Wire) -> None:
        await wire.read_until(Opcode.CLOSE)
        silent.set()
        await wire.reader.read()

    async with wire_upstream(script) as upstream:
        app = limited(Upstream(upstream.url), asyncio.timeout, ends)
        async with serve(app) as gw, dialled(gw) as client:
            assert (await ended(client))[0] == 1012
            await silent.wait()
            assert ends == []
            await until(lambda: ends == [0], seconds=2)
            await upstream.closed.wait()


async def test_a_server_that_stops_ends_both_sides(server):
    """With 1012 or 1001, within its grace period."""
    if waits_for_clients(server):
        pytest.skip("it waits for its clients, and tells nobody")
    loop = asyncio.get_running_loop()
    async with ws_upstream(listen) as upstream:
        app = gateway(upstream)
        async with serve(app, server) as gw:
            client = await connect(gw.ws + "/ws", proxy=None)
            await until(lambda: upstream.connections != [])
            stopped = loop.time()
        try:
            assert (await upstream_told(upstream))[0] in (1001, 1012)
            # granian closes its sockets before it tells the application.
            expected = (1006,) if server == "granian" else (1001, 1012)
            assert (await ended(client))[0] in expected
            assert loop.time() - stopped < 3
        finally:
            client.transport.abort()
    assert app.state.pool.upstreams[0].in_flight == 0


async def test_a_server_that_stops_ends_a_busy_websocket():
    """Also while the upstream sends."""
    async with ws_upstream(stream) as upstream:
        async with serve(gateway(upstream)) as gw:
            client = await connect(gw.ws + "/ws", proxy=None)
            reading = asyncio.create_task(drained(client))
            await until(lambda: upstream.connections != [])
        assert (await upstream_told(upstream))[0] == 1012
        assert (await ended(client))[0] == 1012
        await reading


async def drained(client) -> None:
    with contextlib.suppress(ConnectionClosed):
        while True:
            await client.recv()


# --- Both at once ------------------------------------------------------------------------------


async def test_a_client_that_closes_while_the_upstream_streams_keeps_its_code(server):
    """What was on its way is lost, and the code is not."""
    async with ws_upstream(stream) as upstream:
        app = gateway(upstream)
        async with serve(app, server) as gw, dialled(gw) as client:
            await client.recv()
            await client.close(4002, "bye")
            expected = {"granian": (4002, ""), "hypercorn": (1001, "")}
            told = await upstream_told(upstream)
            assert told == expected.get(server, (4002, "bye"))
            await until(lambda: app.state.pool.upstreams[0].in_flight == 0)


async def test_an_upstream_that_closes_while_the_client_streams_keeps_its_code(server):
    """The client is told, although what it sends goes nowhere."""

    async def close(connection):
        await connection.recv()
        await connection.close(4000, "enough")

    async with ws_upstream(close) as upstream:
        app = gateway(upstream)
        async with serve(app, server) as gw, dialled(gw) as client:
            await stream(client)
            # granian drops the connection with messages unread, which may lose the close.
            lost = [(1006, "")] if server == "granian" else []
            assert await ended(client) in [(4000, "enough"), *lost]
            await until(lambda: app.state.pool.upstreams[0].in_flight == 0)


async def test_what_the_upstream_said_last_arrives_although_the_client_still_sends():
    """A message that cannot be passed on any more ends nothing."""

    async def burst(connection):
        for message in "abc":
            await connection.send(message)
        await connection.close(4000)

    async def slow(message: str) -> str:
        await asyncio.sleep(0.03)
        return message

    async with ws_upstream(burst) as upstream, serve(Hooked(upstream, None, slow)) as gw:
        async with dialled(gw) as client:
            await upstream.closed.wait()
            received = []
            with contextlib.suppress(ConnectionClosed):
                while True:
                    received.append(await client.recv())
                    await client.send("x")
            assert await ended(client) == (4000, "")
    assert received == ["a", "b", "c"]


async def test_both_sides_close_at_once():
    """Neither waits for the other."""
    closing = asyncio.Event()

    async def close(connection):
        await closing.wait()
        await connection.close(4000)

    async with ws_upstream(close) as upstream:
        app = gateway(upstream)
        async with serve(app) as gw, dialled(gw) as client:
            closing.set()
            await client.close(4002)
            await until(lambda: app.state.pool.upstreams[0].in_flight == 0)
            await upstream.closed.wait()
            assert client.close_code in (4000, 4002)
            assert upstream.connections[0].close_code in (4000, 4002)


# --- Without a code ----------------------------------------------------------------------------


async def test_a_client_that_closes_without_a_code_says_none():
    """The upstream gets a close frame that is empty."""
    frames = []

    async def script(wire: Wire) -> None:
        frames.append(await wire.read())
        wire.write(Opcode.CLOSE)

    async with wire_upstream(script) as upstream:
        async with serve(gateway_to(upstream.url)) as gw, wire_client(gw) as client:
            await client.send(Opcode.CLOSE)
            assert (await client.read()).opcode is Opcode.CLOSE
            await upstream.closed.wait()
    assert frames == [(Opcode.CLOSE, b"", False)]


async def test_an_upstream_that_closes_without_a_code_ends_as_normal(server):
    """ASGI has no close without a code: the client is told 1000."""

    async def script(wire: Wire) -> None:
        wire.write(Opcode.CLOSE)
        await wire.read_until(Opcode.CLOSE)

    async with wire_upstream(script) as upstream:
        async with serve(gateway_to(upstream.url), server) as gw, dialled(gw) as client:
            assert await ended(client) == (1000, "")


# --- An upstream that does not take part -------------------------------------------------------


async def test_a_client_does_not_wait_for_an_upstream_that_does_not_close(server):
    """It is told at once; the upstream has its five seconds to itself."""
    let_go, told = asyncio.Event(), asyncio.Event()

    async def script(wire: Wire) -> None:
        await wire.read_until(Opcode.CLOSE)
        told.set()
        await let_go.wait()

    async with wire_upstream(script) as upstream:
        app = gateway_to(upstream.url, websocket=WebSocketOptions(lifetime=0.1))
        async with serve(app, server) as gw, dialled(gw) as client, asyncio.timeout(2):
            assert (await ended(client))[0] == 1001
            await told.wait()
            let_go.set()
            await until(lambda: app.state.pool.upstreams[0].in_flight == 0)


async def test_an_upstream_that_does_not_close_after_us_is_dropped():
    """After five seconds, whatever it sends meanwhile."""
    loop = asyncio.get_running_loop()
    times = []

    async def script(wire: Wire) -> None:
        await wire.read_until(Opcode.CLOSE)
        times.append(loop.time())
        with contextlib.suppress(OSError):
            while not wire.reader.at_eof():
                await wire.send(Opcode.TEXT, b"still here")
                await asyncio.sleep(0.05)
        times.append(loop.time())

    async with wire_upstream(script) as upstream:
        app = gateway_to(upstream.url)
        async with serve(app) as gw, wire_client(gw) as client:
            await leave(client.writer, "reset")
            await upstream.closed.wait()
            await until(lambda: app.state.pool.upstreams[0].in_flight == 0)
    assert 4.5 < times[1] - times[0] < 6


async def test_a_client_that_does_not_read_does_not_outlive_a_limit():
    """Nothing can be told to it, and the relay ends all the same."""
    sent = 0

    async def flood(connection):
        nonlocal sent
        with contextlib.suppress(ConnectionClosed):
            while True:
                await connection.send(b"x" * 65536)
                sent += 1

    async with ws_upstream(flood, compression=None) as upstream:
        app = gateway_to(upstream.url, websocket=WebSocketOptions(lifetime=0.5))
        async with serve(app) as gw, wire_client(gw):
            assert (await upstream_told(upstream))[0] == 1001
            assert 0 < sent < 256
            await until(lambda: app.state.pool.upstreams[0].in_flight == 0, seconds=7)


# --- Left behind -------------------------------------------------------------------------------


async def test_an_end_of_the_upstream_in_a_hook_is_the_end():
    """A hook that answers to an upstream that has left does no harm."""
    asked = asyncio.Event()

    async def answer(message: str) -> Reply:
        await asked.wait()
        return Reply("too late")

    async def say(connection):
        await connection.send("x")
        await connection.close(4000)
        asked.set()

    async with ws_upstream(say) as upstream:
        app = Hooked(upstream, None, answer)
        async with serve(app) as gw, dialled(gw) as client:
            assert (await ended(client))[0] == 4000
    assert app.raised == []
    assert app.target.in_flight == 0
