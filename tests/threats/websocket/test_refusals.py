"""W5: what an upstream may answer to a handshake. Usual refusals are in test_relay."""

from __future__ import annotations

import asyncio

import pytest

from tests.servers import status
from tests.threats.websocket.wire import (
    PING,
    TEXT,
    End,
    accept,
    close_frame,
    frame,
    handshake,
    relayed,
    switching,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]

UP, CON = b"Upgrade: websocket", b"Connection: Upgrade"
PROTOCOL = b"Sec-WebSocket-Protocol: "
START = b"HTTP/1.1 101 Switching"


def head(*lines):
    return b"\r\n".join([*lines, b"", b""])


#: Each makes an answer of the key that it gets.
INVALID = {
    "an Accept of another key": lambda _: switching(b"another"),
    "no Accept": lambda _: head(START, UP, CON),
    "two Accepts": lambda key: switching(key, accept(key)),
    "an Accept in lower case": lambda key: head(START, UP, CON, accept(key).lower()),
    "no Upgrade": lambda key: head(START, CON, accept(key)),
    "an Upgrade to h2c": lambda key: head(START, b"Upgrade: h2c", CON, accept(key)),
    "two Upgrades": lambda key: head(START, b"Upgrade: websocket, h2c", CON, accept(key)),
    "no Connection": lambda key: head(START, UP, accept(key)),
    "HTTP/1.0": lambda key: switching(key, start=b"HTTP/1.0 101 Switching"),
    "HTTP/2": lambda key: switching(key, start=b"HTTP/2 101 Switching"),
    "no HTTP": lambda key: switching(key, start=b"ICY 101 Switching"),
    "a subprotocol of its own": lambda key: switching(key, PROTOCOL + b"other"),
    "two subprotocols": lambda key: switching(key, PROTOCOL + b"a", PROTOCOL + b"b"),
    "both subprotocols": lambda key: switching(key, PROTOCOL + b"a, b"),
    "a subprotocol that is not ASCII": lambda key: switching(key, PROTOCOL + b"\xff"),
    "compression unasked": lambda key: switching(
        key, b"Sec-WebSocket-Extensions: permessage-deflate"
    ),
    "an unknown extension": lambda key: switching(key, b"Sec-WebSocket-Extensions: foo"),
    "broken extensions": lambda key: switching(key, b"Sec-WebSocket-Extensions: ;;="),
    "a NUL in a header": lambda key: switching(key, b"X-Bad: a\0b"),
    "a folded header": lambda key: switching(key, b"X-Bad: a", b"  b"),
    "a blank before the colon": lambda key: switching(key, b"X-Bad : a"),
    "a header without a colon": lambda key: switching(key, b"X-Bad"),
    "300 headers": lambda key: switching(key, *[b"X: y"] * 300),
    "a header of 100 KB": lambda key: switching(key, b"X: " + b"y" * 100_000),
    "headers of 1 MB": lambda key: switching(key, *[b"X: " + b"y" * 1000] * 1000),
    "status 1000": lambda _: head(b"HTTP/1.1 1000 No", b"Content-Length: 0"),
    "status 999": lambda _: head(b"HTTP/1.1 999 No", b"Content-Length: 0"),
    "status 600": lambda _: head(b"HTTP/1.1 600 No", b"Content-Length: 0"),
    "status 099": lambda _: head(b"HTTP/1.1 099 No", b"Content-Length: 0"),
    "206 with a page": lambda _: head(b"HTTP/1.1 206 OK", b"Content-Length: 6") + b"SECRET",
    "a refusal with two lengths": lambda _: (
        head(b"HTTP/1.1 403 No", b"Content-Length: 2", b"Content-Length: 6") + b"SECRET"
    ),
    "a refusal with a bad length": lambda _: head(b"HTTP/1.1 403 No", b"Content-Length: -1"),
    "a refusal with bad chunks": lambda _: (
        head(b"HTTP/1.1 403 No", b"Transfer-Encoding: chunked") + b"zz\r\nSECRET\r\n"
    ),
    "a refusal with a NUL": lambda _: head(b"HTTP/1.1 403 No", b"Content-Length: 0", b"X: \0"),
    "a refusal that is too large": lambda _: (
        head(b"HTTP/1.1 403 No", b"Content-Length: 100000000") + b"SECRET" * 1000
    ),
}


async def ask(gw, *lines):
    """Return the whole answer to a handshake that is refused; the client leaves behind it."""
    reader, writer = await asyncio.open_connection(gw.host, gw.port)
    writer.write(handshake(*lines))
    try:
        async with asyncio.timeout(3):
            answer = await reader.readuntil(b"\r\n\r\n")
            length = [line for line in answer.lower().split(b"\r\n") if b"content-length" in line]
            if length and not answer.startswith(b"HTTP/1.1 101"):
                answer += await reader.readexactly(int(length[0].split(b":")[1]))
    finally:
        writer.close()
    return answer


@pytest.mark.parametrize("row", INVALID)
async def test_an_invalid_answer_is_a_bad_gateway(world, row):
    """The client gets a 502 that tells nothing, and the upstream is let go."""

    async def misanswer(peer, key):
        await peer.send(INVALID[row](key))
        await peer.eof()

    world.upstream.answer = misanswer
    answer = await ask(world.gw, PROTOCOL + b"a, b")
    async with asyncio.timeout(2):
        await world.upstream.over.wait()

    assert status(answer) == 502
    assert b"SECRET" not in answer
    assert b"X-Bad" not in answer
    await world.still_works()


NOPE = b"\r\n\r\nnope"
NO = b"HTTP/1.1 403 No\r\nX-Own: yes\r\n"
#: The answer, and what of it the client gets.
REFUSALS = {
    "in chunks": (
        NO + b"Transfer-Encoding: chunked\r\n\r\n2\r\nno\r\n2\r\npe\r\n0\r\n\r\n",
        403,
        b"nope",
    ),
    "until the end of the connection": (NO + b"\r\nnope", 403, b"nope"),
    "in HTTP/1.0": (b"HTTP/1.0 404 No\r\nX-Own: yes\r\n\r\nnope", 404, b"nope"),
    "without words": (b"HTTP/1.1 404\r\nX-Own: yes\r\n\r\nnope", 404, b"nope"),
    "with two answers": (
        NO + b"Content-Length: 4" + NOPE + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nSECRET",
        403,
        b"nope",
    ),
    "after 103 Early Hints": (
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + NO + b"Content-Length: 4" + NOPE,
        403,
        b"nope",
    ),
}


@pytest.mark.parametrize("row", REFUSALS)
async def test_a_refusal_is_passed_on_as_far_as_it_goes(world, row):
    """Its status, its own headers and its whole body; never what belongs to the connection."""
    raw, code, body = REFUSALS[row]

    async def refuse(peer, _key):
        await peer.send(raw)
        peer.writer.write_eof()
        await peer.eof()

    world.upstream.answer = refuse
    answer = await ask(world.gw)

    assert status(answer) == code
    assert b"SECRET" not in answer
    if body is not None:
        assert answer.endswith(b"\r\n\r\n" + body)
        assert b"x-own: yes" in answer.lower()
    await world.still_works()


async def test_a_refusal_of_our_handshake_says_nothing_of_the_clients(world):
    """426 reaches the client; which versions the upstream speaks is between it and us."""

    async def refuse(peer, _key):
        await peer.send(
            b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 8, 7\r\nContent-Length: 4" + NOPE
        )
        await peer.eof()

    world.upstream.answer = refuse
    answer = await ask(world.gw)

    assert status(answer) == 426
    assert answer.endswith(NOPE)
    assert b"sec-websocket-version" not in answer.lower()


ENDLESS = {
    "a head that drips": b"X: y\r\n",
    "interim responses": b"HTTP/1.1 100 Continue\r\n\r\n",
    "the body of a refusal": b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n",
}


@pytest.mark.parametrize("row", ENDLESS)
async def test_an_answer_that_never_ends_is_ended(world, row):
    """No byte but the last stops the deadline."""

    async def drip(peer, key):
        first = ENDLESS[row] if row != "a head that drips" else switching(key)[:-2]
        again = b"1\r\nx\r\n" if row == "the body of a refusal" else ENDLESS[row]
        await peer.send(first)
        while not peer.reader.at_eof():
            await peer.send(again)
            await asyncio.sleep(0.05)

    world.upstream.answer = drip
    answer = await ask(world.gw)

    assert status(answer) == 504
    await world.still_works()


async def test_frames_in_the_packet_of_the_101_are_delivered(world):
    """An upstream may speak at once, and even close at once."""

    async def hurry(peer, key):
        first = frame(TEXT, b"first") + frame(PING, b"p") + frame(TEXT, b"second")
        await peer.send(switching(key) + first + close_frame(4000, b"done"))
        await peer.end()

    world.upstream.answer = hurry
    async with relayed(world.gw) as client:
        assert await client.end() == ([b"first", b"second"], End(4000, b"done"))


@pytest.mark.parametrize("cut", [1, 20, 100, -3, -1])
async def test_a_101_in_two_packets_is_one(world, cut):
    """Wherever it is cut."""

    async def halve(peer, key):
        answer = switching(key) + frame(TEXT, b"first")
        await peer.send(answer[:cut])
        await asyncio.sleep(0.01)
        await peer.send(answer[cut:])
        await peer.end()

    world.upstream.answer = halve
    async with relayed(world.gw) as client:
        assert (await client.receive()).payload == b"first"
        await client.send(close_frame(1000, masked=True))


async def test_a_101_with_a_body_is_no_message(world):
    """W5: what a length announces is read as frames, which it is not."""

    async def embody(peer, key):
        await peer.send(switching(key, b"Content-Length: 14") + b"<html>SECRET!!")
        await peer.end()

    world.upstream.answer = embody
    async with relayed(world.gw) as client:
        assert await client.end() == ([], End(1014))
    await world.still_works()


async def test_what_belongs_to_the_connection_does_not_cross(world):
    """Neither what the upstream's Connection names, nor its Server, on a 101."""

    async def answer(peer, key):
        hop = (b"Connection: X-Hop", b"X-Hop: 1", b"Keep-Alive: 5", b"Server: SECRET")
        await peer.send(switching(key, *hop))
        await peer.end()

    world.upstream.answer = answer
    got = await ask(world.gw)

    assert status(got) == 101
    for name in (b"x-hop", b"keep-alive", b"secret"):
        assert name not in got.lower()
