"""What crosses in the handshake, and who may open a WebSocket."""

from __future__ import annotations

import asyncio

import pytest
from websockets.exceptions import InvalidStatus
from websockets.frames import Opcode
from websockets.version import version as websockets_version

from fastapi_proxy_router import UpstreamPool, WebSocketOptions
from tests.servers import Served, raw_upstream, serve, status
from tests.test_relay import HANDSHAKE, dialled, ws_upstream
from tests.test_streaming import leave
from tests.websocket.wire import Wire, gateway_to, wire_upstream

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]

COMPRESSED = WebSocketOptions(compression=True)
APP = "https://app.example"
REFUSAL = b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n"


async def shake(gw: Served, *headers: bytes) -> bytes:
    """Send a handshake with more headers, and return the head of the answer."""
    head = HANDSHAKE[:-2] + b"".join(line + b"\r\n" for line in headers) + b"\r\n"
    reader, writer = await asyncio.open_connection(gw.host, gw.port)
    writer.write(head.replace(b"Connection: Upgrade", b"Connection: Upgrade, X-Hop"))
    try:
        async with asyncio.timeout(3):
            return await reader.readuntil(b"\r\n\r\n")
    finally:
        await leave(writer, "close")


async def sent_to_upstream(*headers: bytes, **options) -> dict[bytes, list[bytes]]:
    """Return the headers that reach the upstream when a client sends *headers*."""
    async with raw_upstream(REFUSAL) as upstream:
        async with serve(gateway_to(upstream.url, **options)) as gw:
            assert status(await shake(gw, *headers)) == 403
        names = [name for name, _ in upstream.last.headers]
        assert upstream.last.values(b"host") != []
        return {name: upstream.last.values(name) for name in names}


# --- Compression -------------------------------------------------------------------------------


@pytest.mark.parametrize("offers", [None, "deflate"])
async def test_no_extension_is_offered_by_default(offers):
    """What the client offers ends at the gateway."""
    async with ws_upstream() as upstream, serve(gateway_to(upstream.url)) as gw:
        async with dialled(gw, compression=offers) as client:
            assert len(client.protocol.extensions) == (offers is not None)
        (connection,) = upstream.connections
        assert connection.request is not None
        assert "Sec-WebSocket-Extensions" not in connection.request.headers
        assert connection.protocol.extensions == []


@pytest.mark.parametrize("towards_client", [None, "deflate"])
@pytest.mark.parametrize("towards_upstream", [None, "deflate"])
@pytest.mark.parametrize("offered", [True, False])
async def test_compression_is_negotiated_for_each_side(towards_client, towards_upstream, offered):
    """Messages cross whatever each side has agreed upon."""
    options = WebSocketOptions(compression=offered)
    async with ws_upstream(compression=towards_upstream) as upstream:
        async with serve(gateway_to(upstream.url, websocket=options)) as gw:
            async with dialled(gw, compression=towards_client) as client:
                for message in ("same " * 1000, b"\x00" * 70_000, "", b"", "caf\xe9", "same " * 9):
                    await client.send(message)
                    assert await client.recv() == message
        agreed = upstream.connections[0].protocol.extensions
        assert len(agreed) == (offered and towards_upstream is not None)


async def test_compression_is_used_once_it_was_agreed_upon():
    """A long message costs few bytes on the wire."""
    frames = []

    async def script(wire: Wire) -> None:
        frames.append(await wire.read())

    async with wire_upstream(script, extensions="permessage-deflate") as upstream:
        async with serve(gateway_to(upstream.url, websocket=COMPRESSED)) as gw:
            async with dialled(gw, compression=None) as client:
                await client.send("x" * 10_000)
                await client.wait_closed()
        assert upstream.last.values(b"sec-websocket-extensions") != []
    assert [(frame.opcode, frame.compressed) for frame in frames] == [(Opcode.TEXT, True)]
    assert len(frames[0].payload) < 100


@pytest.mark.parametrize("extension", ["permessage-deflate", "x-own"])
async def test_an_extension_that_nobody_offered_is_a_502(extension):
    """An upstream cannot make us read what we did not agree to."""

    async def script(wire: Wire) -> None:
        await wire.reader.read()

    async with wire_upstream(script, extensions=extension) as upstream:
        async with serve(gateway_to(upstream.url)) as gw:
            with pytest.raises(InvalidStatus) as refused:
                async with dialled(gw):
                    pass
            assert refused.value.response.status_code == 502
            async with asyncio.timeout(1):
                await upstream.closed.wait()


# --- Origins -----------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", [APP, "null", None])
async def test_an_allowed_origin_may_open(server, origin):
    """So may a client that has none, which is no page; the upstream is told which it was."""
    options = WebSocketOptions(allowed_origins=["http://x.test", APP, "null"])
    async with ws_upstream() as upstream:
        async with serve(gateway_to(upstream.url, websocket=options), server) as gw:
            async with dialled(gw, origin=origin):
                pass
        request = upstream.connections[0].request
        assert request is not None
        assert request.headers.get("Origin") == origin


@pytest.mark.parametrize(
    "lines",
    [
        [b"Origin: https://evil.example"],
        [b"Origin: null"],
        [b"Origin: http://app.example"],
        [b"Origin: https://app.example:8443"],
        [b"Origin: https://app.example.evil.example"],
        [b"Origin: "],
    ],
)
async def test_another_origin_is_refused(server, lines):
    """With 403, and the upstream never hears of it."""
    options = WebSocketOptions(allowed_origins=[APP])
    async with raw_upstream() as upstream:
        async with serve(gateway_to(upstream.url, websocket=options), server) as gw:
            assert status(await shake(gw, *lines)) == 403
        assert upstream.connections == 0


@pytest.mark.parametrize("second", [b"https://evil.example", b"https://app.example"])
async def test_an_origin_that_is_given_twice_is_refused(server, second):
    """Two servers may believe two different ones; one of uvicorn's parsers says 400 itself."""
    options = WebSocketOptions(allowed_origins=[APP])
    async with raw_upstream() as upstream:
        async with serve(gateway_to(upstream.url, websocket=options), server) as gw:
            answer = await shake(gw, b"Origin: https://app.example", b"Origin: " + second)
        assert status(answer) == (400 if server == "uvicorn-httptools" else 403)
        assert upstream.connections == 0


async def test_every_origin_is_the_upstreams_to_judge_by_default():
    """Without a list, nothing is refused."""
    headers = await sent_to_upstream(b"Origin: https://evil.example")
    assert headers[b"origin"] == [b"https://evil.example"]


async def test_no_origin_at_all_may_be_allowed():
    """An empty list refuses every page, and no other client."""
    options = WebSocketOptions(allowed_origins=[])
    async with ws_upstream() as upstream:
        async with serve(gateway_to(upstream.url, websocket=options)) as gw:
            async with dialled(gw):
                pass
            assert status(await shake(gw, b"Origin: " + APP.encode())) == 403
        assert len(upstream.connections) == 1


# --- Subprotocols ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "offers"),
    [
        (b"chat, superchat", b"chat, superchat"),
        (b",chat,, superchat ,", b"chat, superchat"),
        (b"v1.stomp", b"v1.stomp"),
    ],
)
async def test_offers_go_up_without_empty_elements(server, line, offers):
    """A list may have them (RFC 9110, 5.6.1); not every upstream takes them."""
    async with raw_upstream(REFUSAL) as upstream:
        async with serve(gateway_to(upstream.url), server) as gw:
            assert status(await shake(gw, b"Sec-WebSocket-Protocol: " + line)) == 403
        assert upstream.last.values(b"sec-websocket-protocol") == [offers]


@pytest.mark.parametrize("line", [b"two words", b"chat, b@d", b'"chat"', b"a;q=1"])
async def test_an_offer_that_is_no_token_is_refused(server, line):
    """It may mean something else to the next one who reads it."""
    async with raw_upstream() as upstream:
        async with serve(gateway_to(upstream.url), server) as gw:
            assert status(await shake(gw, b"Sec-WebSocket-Protocol: " + line)) == 400
        assert upstream.connections == 0


async def test_an_offer_that_is_not_ascii_goes_no_further(server):
    """uvicorn refuses it, granian forgets the offer."""
    if server in ("hypercorn", "uvicorn-h11"):
        pytest.skip("wsproto fails before the application hears of it")
    if server == "uvicorn-httptools" and websockets_version < "16":
        pytest.skip("so does an old version of websockets")
    async with raw_upstream(REFUSAL) as upstream:
        async with serve(gateway_to(upstream.url), server) as gw:
            assert status(await shake(gw, b"Sec-WebSocket-Protocol: caf\xe9")) in (400, 403)
            assert not any(b"caf" in request.head for request in upstream.requests)
            assert status(await shake(gw, b"Sec-WebSocket-Protocol: next")) == 403


async def test_a_subprotocol_that_nobody_offered_is_a_502():
    """The upstream may choose from what the client offers, and nothing else."""

    def choose(_connection, _offers):
        return "other"

    async with ws_upstream(subprotocols=["other"], select_subprotocol=choose) as upstream:
        async with serve(gateway_to(upstream.url)) as gw:
            with pytest.raises(InvalidStatus) as refused:
                async with dialled(gw, subprotocols=["chat"]):
                    pass
            assert refused.value.response.status_code == 502


# --- Headers -----------------------------------------------------------------------------------


async def test_the_host_is_the_upstreams_or_the_clients():
    """``preserve_host`` is for WebSockets too."""
    assert (await sent_to_upstream())[b"host"] != [b"x"]
    assert (await sent_to_upstream(preserve_host=True))[b"host"] == [b"x"]


async def test_what_an_untrusted_client_says_about_itself_is_replaced():
    """X-Forwarded-* are those of HTTP, with the scheme of the page's."""
    spoofed = (b"X-Forwarded-For: 9.9.9.9", b"X-Forwarded-Proto: https", b"X-Real-IP: 9.9.9.9")
    headers = await sent_to_upstream(*spoofed, b"X_Forwarded_For: 9.9.9.9", forwarded=True)

    assert headers[b"x-forwarded-for"] == [b"127.0.0.1"]
    assert headers[b"x-forwarded-proto"] == [b"http"]
    assert headers[b"x-forwarded-host"] == [b"x"]
    assert headers[b"x-forwarded-port"] == [b"80"]
    assert headers[b"x-forwarded-prefix"] == [b"/ws"]
    assert headers[b"forwarded"] == [b'for=127.0.0.1;host="x";proto=http']
    assert {b"x-real-ip", b"x_forwarded_for"}.isdisjoint(headers)


async def test_a_trusted_peer_is_believed():
    """What it says comes first, and its own address after it."""
    headers = await sent_to_upstream(
        b"X-Forwarded-For: 9.9.9.9", b"X-Forwarded-Proto: https", trusted_proxies=["127.0.0.1"]
    )
    assert headers[b"x-forwarded-for"] == [b"9.9.9.9, 127.0.0.1"]
    assert headers[b"x-forwarded-proto"] == [b"https"]


async def test_headers_of_one_connection_do_not_cross():
    """Neither those that Connection names nor those of WebSocket's own handshake."""
    headers = await sent_to_upstream(b"X-Hop: 1", b"Keep-Alive: 5", b"TE: gzip", b"X-Kept: 1")
    assert {b"x-hop", b"keep-alive", b"te"}.isdisjoint(headers)
    assert headers[b"x-kept"] == [b"1"]
    assert headers[b"connection"] == [b"Upgrade"]
    assert headers[b"upgrade"] == [b"websocket"]
    assert headers[b"sec-websocket-version"] == [b"13"]
    assert len(headers[b"sec-websocket-key"]) == 1
    assert headers[b"sec-websocket-key"] != [b"dGhlIHNhbXBsZSBub25jZQ=="]


def test_a_pool_takes_its_options_as_they_are():
    """They are one object, for all its WebSockets."""
    assert UpstreamPool("http://a", websocket=COMPRESSED).policy.websocket is COMPRESSED
