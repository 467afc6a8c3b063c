"""W11 and W12: invalid handshakes of a client. A clear answer, and a gateway that lives on."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from websockets.version import version as websockets_version

from tests.threats.attack import statuses
from tests.threats.websocket.known import known
from tests.threats.websocket.wire import KEY, UPGRADE, close_frame, connected

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]

HOST = b"Host: a"
CON, UP, VERSION, FULL_KEY = UPGRADE
OFFER = b"Sec-WebSocket-Protocol: "
GET = b"GET /x HTTP/1.1"
SILENT = "A handshake with more than 128 headers or a line above 8 KiB is never answered"
DROPPED = "A handshake with a header that is not ASCII may be dropped without an answer"
ANY_KEY = "A key that is none is accepted"


def request(*lines, start=GET):
    return b"\r\n".join([start, HOST, *lines, b"", b""])


async def knock(gw, data, *, silent=False):
    """Send a handshake and return the head that answers it; nothing, if nothing does."""
    got = bytearray()
    async with connected(gw) as client:
        await client.send(data)
        # A server may reset a connection that has more to say.
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(0.3 if silent else 3):
                while b"\r\n\r\n" not in got and (chunk := await client.reader.read(65536)):
                    got += chunk
    return bytes(got)


def ascii_only(server, data):
    """Skip what an old version of websockets makes of bytes that are not ASCII, in uvicorn."""
    if known(server, SILENT) and websockets_version < "16" and not data.isascii():
        pytest.skip("an old version of websockets fails at it")


@pytest.fixture
async def own_errors():
    """Take what a server lets fall into the event loop, which would fail the test."""
    loop = asyncio.get_running_loop()
    handler, errors = loop.get_exception_handler(), []
    loop.set_exception_handler(lambda _loop, context: errors.append(context.get("exception")))
    yield
    loop.set_exception_handler(handler)
    # hypercorn's are in a group.
    assert all("UnicodeDecodeError" in repr(error) for error in errors)


#: The handshake, and what some servers are known to do with it: answer nothing, or accept it.
INVALID = {
    "no key": (request(CON, UP, VERSION), None),
    "an empty key": (request(CON, UP, VERSION, b"Sec-WebSocket-Key:"), ANY_KEY),
    "a short key": (request(CON, UP, VERSION, b"Sec-WebSocket-Key: abc"), ANY_KEY),
    "a key that is not ASCII": (request(CON, UP, VERSION, b"Sec-WebSocket-Key: \xff"), ANY_KEY),
    "two keys": (request(CON, UP, VERSION, FULL_KEY, b"Sec-WebSocket-Key: " + KEY), ANY_KEY),
    "version 12": (request(CON, UP, FULL_KEY, b"Sec-WebSocket-Version: 12"), None),
    "versions 13 and 8": (request(CON, UP, FULL_KEY, b"Sec-WebSocket-Version: 13, 8"), None),
    "no version": (request(CON, UP, FULL_KEY), None),
    "two Hosts": (request(HOST, *UPGRADE), None),
    "130 headers": (request(*UPGRADE, *[b"X: y"] * 125), SILENT),
    "a cookie of 70 KB": (request(*UPGRADE, b"Cookie: " + b"y" * 70_000), SILENT),
    "a path of 20 KB": (request(*UPGRADE, start=b"GET /" + b"x" * 20_000 + b" HTTP/1.1"), SILENT),
    "a subprotocol with a blank": (request(*UPGRADE, OFFER + b"a b"), None),
    "a subprotocol in quotes": (request(*UPGRADE, OFFER + b'"a"'), None),
    "a NUL in a header": (request(*UPGRADE, b"X: \0"), None),
    "a path that is not ASCII": (request(*UPGRADE, start=b"GET /\xff HTTP/1.1"), None),
    "a path that climbs": (request(*UPGRADE, start=b"GET /../x HTTP/1.1"), None),
}


@pytest.mark.parametrize("row", INVALID)
async def test_an_invalid_handshake_is_refused(world, row):
    """With 4xx, before the upstream hears of it, where the server itself does not know better."""
    data, limit = INVALID[row]
    ascii_only(world.server, data)
    lenient = limit is not None and known(world.server, limit)
    got = await knock(world.gw, data, silent=lenient and limit == SILENT)

    if lenient and limit == SILENT:
        assert got == b""
        assert world.upstream.opened == 0
    elif lenient:
        assert got.startswith(b"HTTP/1.1 101")
        assert len(world.upstream.raw.last.values(b"sec-websocket-key")) == 1
    else:
        assert [code // 100 for code in statuses(got)] == [4], got
        assert world.upstream.raw.requests == []
    await world.still_works()


async def test_a_cookie_of_9_kb_is_no_reason_to_refuse(world):
    """Browsers send them; only uvicorn's default cannot."""
    silent = known(world.server, SILENT)
    got = await knock(world.gw, request(*UPGRADE, b"Cookie: " + b"y" * 9216), silent=silent)

    if silent:
        assert got == b""
    else:
        assert got.startswith(b"HTTP/1.1 101")
        assert len(world.upstream.raw.last.values(b"cookie")[0]) == 9216
    await world.still_works()


@pytest.mark.usefixtures("own_errors")
@pytest.mark.parametrize("offer", [b"\xff", b"a, \xff", "\xe9".encode()])
async def test_a_subprotocol_that_is_not_ascii_is_never_offered(world, offer):
    """W11: refused, dropped, or taken for none; no worker dies of it."""
    ascii_only(world.server, offer)
    got = await knock(world.gw, request(*UPGRADE, OFFER + offer))

    if known(world.server, DROPPED):
        assert got == b""
    elif known(world.server, "A subprotocol that is not ASCII is taken for none"):
        assert got.startswith(b"HTTP/1.1 101")
        assert world.upstream.raw.last.values(b"sec-websocket-protocol") == []
    else:
        assert statuses(got) == [400]
    await world.still_works()


@pytest.mark.usefixtures("own_errors")
@pytest.mark.parametrize("header", [b"Sec-WebSocket-Extensions: \xff", b"X-Own: \xff"])
async def test_a_header_that_is_not_ascii_kills_nobody(world, header):
    """It crosses, or it is an error; extensions never cross."""
    ascii_only(world.server, header)
    got = await knock(world.gw, request(*UPGRADE, header))

    if got.startswith(b"HTTP/1.1 101"):
        assert world.upstream.raw.last.values(b"x-own") in ([], [b"\xff"])
        assert world.upstream.raw.last.values(b"sec-websocket-extensions") == []
    else:
        assert got == b"" or statuses(got) == [400]
    await world.still_works()


OFFERS = {
    "empty": ([b""], []),
    "a comma": ([b","], []),
    "an empty one between": ([b"a,,b"], [b"a", b"b"]),
    "the same twice": ([b"a, a"], [b"a", b"a"]),
    "two lines": ([b"a", b"b"], [b"a", b"b"]),
    "a thousand": (
        [b", ".join(b"p%d" % n for n in range(1000))],
        [b"p%d" % n for n in range(1000)],
    ),
}


@pytest.mark.parametrize("row", OFFERS)
async def test_odd_offers_of_subprotocols_stay_a_list_of_names(world, row):
    """What is offered to the upstream is what was offered to us, and never an empty name."""
    lines, expected = OFFERS[row]
    got = await knock(world.gw, request(*UPGRADE, *[OFFER + line for line in lines]))

    if statuses(got) == [400]:
        assert not any(expected) or row == "the same twice"
    else:
        assert got.startswith(b"HTTP/1.1 101")
        sent = b",".join(world.upstream.raw.last.values(b"sec-websocket-protocol"))
        names = [name.strip() for name in sent.split(b",")] if sent else []
        last = known(world.server, "Of several Sec-WebSocket-Protocol lines only the last counts")
        assert names == (expected[-1:] if row == "two lines" and last else expected)
        assert b"sec-websocket-protocol" not in got.lower()
    await world.still_works()


METHODS = {
    "POST": (request(*UPGRADE, start=b"POST /x HTTP/1.1"), "POST and HEAD open a WebSocket"),
    "HEAD": (request(*UPGRADE, start=b"HEAD /x HTTP/1.1"), "POST and HEAD open a WebSocket"),
    "HTTP/1.0": (request(*UPGRADE, start=b"GET /x HTTP/1.0"), "HTTP/1.0 opens a WebSocket"),
}


@pytest.mark.parametrize("row", METHODS)
async def test_only_a_get_of_http_1_1_opens_a_websocket(world, row):
    """Where the server knows; and whatever it is for the client, the upstream is asked by GET."""
    data, limit = METHODS[row]
    got = await knock(world.gw, data)

    if known(world.server, limit):
        assert b" 101 " in got.split(b"\r\n")[0]
    else:
        assert b" 101 " not in got
    for sent in world.upstream.raw.requests:
        assert sent.line == b"GET /x HTTP/1.1" or sent.values(b"upgrade") == []
    await world.still_works()


async def test_a_client_that_leaves_in_its_handshake_is_nobody(world):
    """The rest of the head never comes."""
    async with connected(world.gw) as client:
        await client.send(request(*UPGRADE)[:-2])
        client.reset()

    await world.still_works()
    assert len(world.upstream.raw.requests) == 1


async def test_a_close_in_the_packet_of_the_handshake_hangs_nobody(world):
    """What is sent before the 101 is lost or obeyed; the connection ends with the client."""
    if world.server == "hypercorn":
        pytest.skip("it never tells that this client has gone: test_upgrades")
    async with connected(world.gw) as client:
        await client.send(request(*UPGRADE), close_frame(1000, masked=True))
        await client.reader.read(1)
    await world.upstream.end()
