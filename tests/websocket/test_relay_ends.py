"""A relay whose upstream, client or hook misbehaves: it ends, says why, and leaves nothing."""

import asyncio
import gc
import struct
import weakref
from contextlib import suppress
from typing import Any

import pytest
from fastapi import FastAPI
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode

from fastapi_proxy_router import (
    ProxyRouter,
    Reply,
    UpstreamPool,
    WebSocketOptions,
    WebSocketOverride,
)
from fastapi_proxy_router.relay import Relay
from fastapi_proxy_router.websocket import UpstreamWebSocket
from tests.faults.upstreams import reset
from tests.servers import raw_upstream, serve
from tests.test_relay import dialled, ended, gateway, ws_upstream
from tests.websocket.wire import wire_upstream

pytestmark = pytest.mark.anyio


def frame(opcode: Opcode, data: bytes = b"", *, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=False)


def close_frame(code: int, reason: bytes = b"") -> bytes:
    return frame(Opcode.CLOSE, struct.pack("!H", code) + reason)


def hooked(url: str, **override: Any) -> FastAPI:
    router, app = ProxyRouter(url), FastAPI()

    @router.override_websocket("/ws")
    async def change() -> WebSocketOverride:
        return WebSocketOverride(**override)

    app.include_router(router)
    return app


class Watched:
    """An app that says when its WebSocket is over."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self.over = asyncio.Event()

    async def __call__(self, scope, receive, send) -> None:
        try:
            await self._app(scope, receive, send)
        finally:
            if scope["type"] == "websocket":
                self.over.set()


async def test_a_reply_that_comes_too_late_does_not_hide_how_the_client_left():
    """The upstream hears the client's code though an answer to it could not be sent."""
    left = asyncio.Event()

    async def late(_message):
        await left.wait()
        return Reply("too late")

    codes = []

    async def upstream_of(connection):
        with suppress(Exception):
            await connection.recv()
        await connection.wait_closed()
        codes.append(connection.close_code)

    async with ws_upstream(upstream_of) as upstream:
        async with serve(hooked(upstream.url, on_client_message=late)) as gw:
            async with dialled(gw) as client:
                await client.send("x")
                closing = asyncio.create_task(client.close(4000))
                # Its close frame is on its way when the hook answers.
                asyncio.get_running_loop().call_later(0.1, left.set)
                await closing
            async with asyncio.timeout(3):
                await upstream.closed.wait()
    assert codes == [4000]


async def test_pings_after_the_close_cost_no_memory():
    """An upstream that floods with pings and reads no pong is not kept waiting for."""
    sockets: list[UpstreamWebSocket] = []

    async def flood(wire):
        reader, writer = wire.reader, wire.writer
        while (await reader.readexactly(1))[0] & 0x0F != Opcode.CLOSE:
            pass
        reader._transport.pause_reading()
        for _ in range(1000):
            writer.write(frame(Opcode.PING, b"p" * 125) * 100)
            await writer.drain()

    async with wire_upstream(flood) as upstream:
        app = Watched(gateway(upstream))
        async with serve(app) as gw:
            async with dialled(gw):
                sockets += [one for one in gc.get_objects() if type(one) is UpstreamWebSocket]
            peak = 0
            while not app.over.is_set():
                transport = sockets[-1]._outbox.transport
                peak = max(peak, transport.get_write_buffer_size() if transport else 0)
                with suppress(TimeoutError):
                    await asyncio.wait_for(app.over.wait(), 0.05)
    assert peak < 256 * 1024


async def test_an_upstream_that_takes_nothing_is_given_up():
    """Pings of its own do not excuse an upstream that reads nothing at all."""

    async def deaf(wire):
        wire.reader._transport.pause_reading()
        while True:
            wire.write(Opcode.PING)
            await asyncio.sleep(0.1)

    options = WebSocketOptions(ping_interval=0.2, ping_timeout=0.2)
    async with wire_upstream(deaf) as upstream:
        app = Watched(gateway(upstream, websocket=options))
        async with serve(app) as gw:
            async with dialled(gw, compression=None, close_timeout=0.1) as client:
                with suppress(ConnectionClosed):
                    async with asyncio.timeout(9):
                        while True:
                            await client.send(b"x" * 1_000_000)
                client.transport.abort()
                async with asyncio.timeout(9):
                    await app.over.wait()


async def test_a_refusal_that_breaks_off_is_a_502():
    """Half of a body is not passed on as all of it."""

    async def half(_reader, writer):
        writer.write(b"HTTP/1.1 403 Forbidden\r\n\r\nhalf of the bo")
        await writer.drain()
        reset(writer)

    async with raw_upstream(half) as upstream, serve(gateway(upstream)) as gw:
        with pytest.raises(InvalidStatus) as refused:
            async with dialled(gw):
                pass
    assert refused.value.response.status_code == 502


async def test_a_close_amid_a_message_keeps_its_code():
    """Control frames may come between fragments (RFC 6455, 5.4)."""

    async def cut(wire):
        wire.writer.write(frame(Opcode.TEXT, b"par", fin=False) + close_frame(4008, b"crash"))
        await wire.reader.read(1)

    async with wire_upstream(cut) as upstream, serve(gateway(upstream)) as gw:
        async with dialled(gw) as client:
            assert await ended(client) == (4008, "crash")


async def test_a_clean_close_amid_a_message_is_not_clean():
    """1000 after half a message is a lie."""

    async def cut(wire):
        wire.writer.write(frame(Opcode.TEXT, b"par", fin=False) + close_frame(1000))
        await wire.reader.read(1)

    async with wire_upstream(cut) as upstream, serve(gateway(upstream)) as gw:
        async with dialled(gw) as client:
            assert (await ended(client))[0] == 1014


async def test_an_override_of_limits_keeps_the_pools_origins():
    """Options for one path do not open it to every page."""
    pool_options = WebSocketOptions(allowed_origins=["https://app.example"])
    async with ws_upstream() as upstream:
        router = ProxyRouter(UpstreamPool(upstream.url, websocket=pool_options))

        @router.override_websocket("/ws")
        async def change() -> WebSocketOverride:
            return WebSocketOverride(options=WebSocketOptions(idle=60))

        app = FastAPI()
        app.include_router(router)
        async with serve(app) as gw:
            with pytest.raises(Exception, match="403"):
                async with dialled(gw, origin="https://evil.example"):
                    pass


def _relayed() -> list[Any]:
    """Return all that there is of relayed WebSockets."""
    kinds = (Relay, UpstreamWebSocket)
    return [one for one in gc.get_objects() if issubclass(type(one), kinds)]


@pytest.mark.parametrize("by", ["client", "upstream"])
async def test_nothing_is_left_to_the_garbage_collector(by):
    """What is over is freed at once."""
    kept: list[weakref.ref[Any]] = []

    async def upstream_of(connection):
        if by == "client":
            await connection.wait_closed()

    async with ws_upstream(upstream_of) as upstream:
        app = Watched(gateway(upstream))
        async with serve(app) as gw:
            gc.collect()
            gc.disable()
            # What an earlier test has left in a log, or in the report of its failure.
            older = weakref.WeakSet(_relayed())
            try:
                async with dialled(gw) as client:
                    kept += [weakref.ref(one) for one in _relayed() if one not in older]
                    assert kept
                    if by == "upstream":
                        await ended(client)
                await app.over.wait()
                async with asyncio.timeout(2):
                    while any(one() for one in kept):
                        await asyncio.sleep(0)
            finally:
                gc.enable()
