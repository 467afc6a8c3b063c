"""R7 and R8: nothing a client says turns its connection into a tunnel.

The table of all rows is in test_framing.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib

import pytest
from fastapi import FastAPI

from fastapi_proxy_router import ProxyRouter
from tests.servers import raw_upstream, serve
from tests.threats.attack import CHUNKED, LAST, OPEN, SMUGGLED, attack, known, message, statuses

pytestmark = pytest.mark.anyio

LONG = b"Content-Length: %d" % len(SMUGGLED)
WEBSOCKET = (
    b"Connection: Upgrade",
    b"Upgrade: websocket",
    b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
GET = b"GET /x HTTP/1.1"


BODIES_BESIDE_AN_UPGRADE = {
    "R7 h2c": (b"Connection: Upgrade", b"Upgrade: h2c", LONG),
    "R7 h2c, with settings": (
        b"Connection: Upgrade, HTTP2-Settings",
        b"Upgrade: h2c",
        b"HTTP2-Settings: AAMAAABkAAQAAP__",
        LONG,
    ),
    "R7 foo": (b"Connection: Upgrade", b"Upgrade: foo", LONG),
    "R7 TLS/1.0": (b"Connection: Upgrade", b"Upgrade: TLS/1.0", LONG),
    "R7 not in Connection": (b"Upgrade: h2c", LONG),
    "R7 h2c, chunked": (b"Connection: Upgrade", b"Upgrade: h2c", CHUNKED),
}


@pytest.mark.parametrize("row", BODIES_BESIDE_AN_UPGRADE)
async def test_a_body_beside_an_upgrade_is_no_request(world, row):
    """The body comes in a later packet, where uvicorn's default parser takes it for a request."""
    got = await attack(world.gw, message(*BODIES_BESIDE_AN_UPGRADE[row]), then=SMUGGLED)

    assert await world.arrived() == []
    assert (statuses(got), OPEN in got) == ([400], False)


async def test_h2c_goes_no_further(world):
    """R7: whether or not the server obeys, the upstream is never asked to switch to HTTP/2."""
    upgrade = (b"Connection: close, Upgrade, HTTP2-Settings", b"Upgrade: h2c")
    settings = b"HTTP2-Settings: AAMAAABkAAQAAP__"
    request = message(*upgrade, settings, start=GET)
    got = await attack(world.gw, request, limit=0.5)

    assert got.startswith(b"HTTP/1.1 101") is known(world.server, "`Upgrade: h2c` is obeyed")
    for sent in await world.arrived():
        assert not {b"upgrade", b"connection", b"http2-settings"} & dict(sent.headers).keys()


async def test_the_preface_of_http_2_is_no_request(world):
    """R7: ``PRI *`` is refused, or spoken to in HTTP/2."""
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    settings = b"\0\0\0\4\0\0\0\0\0"
    got = await attack(world.gw, preface + settings, limit=0.5)

    assert all(code >= 400 for code in statuses(got))
    # A server's own preface is a frame of settings, which is type 4.
    spoken = got[3:4] == b"\4"
    assert spoken is known(world.server, "HTTP/2 is spoken without TLS")
    assert await world.arrived() == []


@pytest.mark.parametrize("framing", [LONG, CHUNKED], ids=["R8 length", "R8 chunked"])
async def test_a_websocket_handshake_has_no_body(world, framing):
    """R8: what it announces is never read as a request, though uvicorn leaves the client alone."""
    silent = known(world.server, "A WebSocket handshake with a body is never answered")
    lines = (*WEBSOCKET, framing)
    body = SMUGGLED if framing is LONG else LAST + SMUGGLED
    got = await attack(world.gw, message(*lines, start=GET, body=body), limit=0.5)

    assert await world.arrived() == []
    assert statuses(got) == ([] if silent else [400])


async def test_what_follows_a_refused_websocket_is_no_tunnel(world):
    """R8: bytes after the refusal are lost, or are a request like any other, guarded like any."""
    handshake = message(*WEBSOCKET, start=GET)
    got = await attack(world.gw, handshake, then=SMUGGLED, limit=0.5)
    first, *more = await world.arrived()

    assert first.target == b"/x"
    assert bool(more) is known(world.server, "The connection lives on after a refused WebSocket")
    assert [sent.values(b"x-forwarded-for") for sent in more] == [[b"127.0.0.1"]] * len(more)
    assert statuses(got) == [502, *(200 for _ in more)]


async def test_what_comes_before_the_101_is_no_tunnel(server):
    """R8: bytes that a client sends on top of its handshake do not reach the upstream raw."""
    heard, writers = bytearray(), []

    async def accept(reader, writer):
        writers.append(writer)
        key = upstream.last.values(b"sec-websocket-key")[0]
        digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n\r\n"
        )
        heard.extend(await reader.read(65536))

    async with raw_upstream(accept) as upstream:
        app = FastAPI()
        app.include_router(ProxyRouter(upstream.url))
        async with serve(app, server) as gw:
            got = await attack(gw, message(*WEBSOCKET, start=GET) + SMUGGLED, limit=0.5)
            kept = not await happens(upstream.closed, within=0.5)
            for writer in writers:
                writer.close()

    assert len(upstream.requests) == 1
    assert b"smug" not in heard
    assert b"HTTP/1.1 200" not in got
    assert kept is known(
        server, "Bytes right behind a WebSocket handshake keep the upstream's connection open"
    )


async def happens(event: asyncio.Event, within: float) -> bool:
    try:
        async with asyncio.timeout(within):
            return await event.wait()
    except TimeoutError:
        return False
