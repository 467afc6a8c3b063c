"""R13-R15 and D6: what an upstream may not say, and what it says too much.

An answer that cannot be relayed is a 502, and its connection is closed. The tables of all rows are
in test_framing and test_limits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import NamedTuple

import pytest

from tests.servers import RawRequest, get_raw, raw_upstream, serve
from tests.threats.attack import World, statuses

pytestmark = pytest.mark.anyio

POISON = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass
class Liar(World):
    """A world whose upstream answers what a test wants, and keeps its connections open."""

    #: Makes the parts of an answer.
    answer: Callable[[RawRequest], Iterable[bytes]] = lambda _request: ()
    sent: int = 0
    #: What came on a connection that had been used before.
    reused: list[RawRequest] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    #: Set when the upstream may send its poison on an idle connection.
    late: asyncio.Event | None = None


@pytest.fixture(scope="module")
async def shared(server, build):
    """Serve the gateway in front of an upstream that lies."""

    async def lie(reader, writer):
        request = upstream.last
        world.writers.append(writer)
        while True:
            for part in world.answer(request):
                world.sent += len(part)
                writer.write(part)
                await writer.drain()
            if world.late:
                await world.late.wait()
                writer.write(POISON)
            request = RawRequest((await reader.readuntil(b"\r\n\r\n"))[:-4])
            world.reused.append(request)

    async with raw_upstream(lie) as upstream, serve(build(upstream), server) as gw:
        world = Liar(server, gw, upstream)
        yield world


@pytest.fixture
async def liar(world):
    """Return the gateway and its upstream, which has said nothing yet and has no connection."""
    for writer in world.writers:
        writer.close()
    world.writers.clear()
    world.sent = 0
    world.reused.clear()
    world.late = None
    return world


class Endless(NamedTuple):
    """An answer that begins and then repeats itself."""

    start: bytes
    part: bytes


async def ask(liar: Liar, said: bytes | Endless, method: str = "GET") -> bytes:
    """Have the upstream say this, and return what the client got once the proxy has hung up."""
    parts = [said] if isinstance(said, bytes) else chain([said.start], repeat(said.part))
    liar.answer = lambda _request: parts
    liar.upstream.closed.clear()
    got = await get_raw(liar.gw, method=method)
    async with asyncio.timeout(1):
        await liar.upstream.closed.wait()
    return got


def answer(*lines: bytes, start: bytes = b"HTTP/1.1 200 OK", body: bytes = b"hello") -> bytes:
    return b"\r\n".join([start, *lines, b"", b""]) + body


LENGTH = b"Content-Length: 5"
CHUNKED = b"Transfer-Encoding: chunked"
CHUNKS = b"5\r\nhello\r\n0\r\n\r\n"
LENGTHS = b"+5|-1||5 5|0x5|5.0|5_0|5, 5|5, 6|18446744073709551621".split(b"|")
CODINGS = b"gzip|gzip, chunked|chunked, chunked|chunked, gzip|identity|xchunked|".split(b"|")
VALUES = (b"a\0b", b"a\rb", b"a\x0bb", b"a\x1fb", b"a\x7fb")
STATUSES = b"099|600|99|2000|abc|-200|".split(b"|")
VERSIONS = b"HTTP/2.0|HTTP/0.9|HTTP/9.9|HTTP/1|http/1.1|ICY".split(b"|")
BROKEN: dict[str, bytes | Endless] = {
    "R14 CL+TE": answer(LENGTH, CHUNKED, body=CHUNKS),
    "R14 TE+CL": answer(CHUNKED, LENGTH, body=CHUNKS),
    "R14 CL twice": answer(LENGTH, LENGTH),
    "R14 CL twice, different": answer(LENGTH, b"Content-Length: 6"),
    "R14 TE twice": answer(CHUNKED, CHUNKED, body=CHUNKS),
    "R14 TE on two lines": answer(b"Transfer-Encoding: gzip", CHUNKED, body=CHUNKS),
    "R14 space before the colon": answer(b"X : a", LENGTH),
    "R14 no name": answer(b": a", LENGTH),
    "R14 no colon": answer(b"nothing", LENGTH),
    "R14 non-ASCII name": answer(b"X\xe9: a", LENGTH),
    **{f"R14 CL {value!r}": answer(b"Content-Length: " + value) for value in LENGTHS},
    **{
        f"R14 TE {value!r}": answer(b"Transfer-Encoding: " + value, body=CHUNKS)
        for value in CODINGS
    },
    **{f"R14 {value!r}": answer(b"X: " + value, LENGTH) for value in VALUES},
    **{f"R14 {code!r}": answer(LENGTH, start=b"HTTP/1.1 %b Odd" % code) for code in STATUSES},
    **{f"R14 {name!r}": answer(LENGTH, start=name + b" 200 OK") for name in VERSIONS},
    "R15 101": answer(start=b"HTTP/1.1 101 Switching Protocols", body=b""),
    "R15 101 to a WebSocket": answer(
        b"Connection: Upgrade",
        b"Upgrade: websocket",
        start=b"HTTP/1.1 101 Switching Protocols",
    ),
    "D6 300 headers": answer(*[b"X: y"] * 300, LENGTH),
    "D6 a header of 70 KiB": answer(b"X: " + b"y" * 70 * 1024, LENGTH),
    "D6 headers of 70 KiB": answer(*[b"X: " + b"y" * 1024] * 70, LENGTH),
    "D6 headers without end": Endless(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 100),
    "D6 a header without end": Endless(b"HTTP/1.1 200 OK\r\nX: ", b"y" * 1000),
    "D6 a reason without end": Endless(b"HTTP/1.1 200 ", b"y" * 1000),
    "D6 40 interim answers": CONTINUE * 40 + answer(LENGTH),
    "D6 interim answers without end": Endless(b"", CONTINUE),
}


@pytest.mark.parametrize("row", BROKEN)
async def test_an_answer_that_breaks_the_rules_is_a_502(liar, row):
    """The client gets one clean answer, and the upstream's connection is not used again."""
    got = await ask(liar, BROKEN[row])

    assert statuses(got) == [502]
    assert got.endswith(b'{"detail":"Bad Gateway"}')
    assert liar.reused == []
    assert liar.sent < 8 * 1024 * 1024


@pytest.mark.parametrize("method", ["POST", "HEAD"])
async def test_a_101_is_for_no_method(liar, method):
    """R15: nobody asked for another protocol."""
    got = await ask(
        liar, answer(start=b"HTTP/1.1 101 Switching Protocols", body=b""), method=method
    )

    assert statuses(got) == [502]
    assert liar.reused == []


SOUND = {
    "200 headers": answer(*[b"X: y"] * 200, LENGTH),
    "a header of 30 KiB": answer(b"X: " + b"y" * 30 * 1024, LENGTH),
    "30 interim answers": CONTINUE * 30 + answer(LENGTH),
    "a hint": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + answer(LENGTH),
    "chunked, in capitals": answer(b"Transfer-Encoding: CHUNKED", body=CHUNKS),
    "spaces around chunked": answer(b"Transfer-Encoding:\t chunked \t", body=CHUNKS),
    "spaces around a length": answer(b"Content-Length:\t 5 \t"),
    "no space": answer(b"Content-Length:5"),
    "HTTP/1.0": answer(LENGTH, start=b"HTTP/1.0 200 OK"),
    "no reason": answer(LENGTH, start=b"HTTP/1.1 200 "),
    "a tab in a value": answer(b"X: a\tb", LENGTH),
}


@pytest.mark.parametrize("row", SOUND)
async def test_an_answer_within_the_rules_is_relayed(liar, row):
    """The limits leave room for what is usual."""
    liar.answer = lambda _request: (SOUND[row],)
    got = await get_raw(liar.gw)

    assert statuses(got) == [200]
    assert b"hello" in got


MENDED = {
    "R14 folded": answer(b"X: a\r\n Set-Cookie: b", LENGTH),
    "R14 bare LF": answer(b"X: a\nY: b", LENGTH),
    "R14 only bare LFs": answer(LENGTH).replace(b"\r\n", b"\n"),
}


@pytest.mark.parametrize("row", MENDED)
async def test_odd_line_ends_are_mended_or_refused(liar, row):
    """A client sees one header on each line, as a strict reader would."""
    liar.answer = lambda _request: (MENDED[row],)
    got = await get_raw(liar.gw)
    lines = got.partition(b"\r\n\r\n")[0].split(b"\r\n")

    assert statuses(got) in ([200], [502])
    assert all(b"\n" not in line and b":" in line for line in lines[1:])
    assert not any(line.lower().startswith((b" ", b"set-cookie")) for line in lines)


SURPLUS = {
    "R13 length": (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b", "GET"),
    "R13 chunks": (b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"\r\n\r\n%x\r\n%b\r\n0\r\n\r\n", "GET"),
    "R13 chunks to HEAD": (b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"\r\nX-Of: %d%b\r\n\r\n", "HEAD"),
    "R13 HEAD": (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nX-Of: %d%b\r\n\r\n", "HEAD"),
    "R13 204": (b"HTTP/1.1 204 No Content\r\nX-Of: %d%b\r\n\r\n", "GET"),
    "R13 304": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\nX-Of: %d%b\r\n\r\n", "GET"),
    "R13 empty": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Of: %d%b\r\n\r\n", "GET"),
}


@pytest.mark.parametrize("row", SURPLUS)
async def test_surplus_bytes_reach_nobody(liar, row):
    """Twenty requests of two users in turn: each gets its own answer, and none is poisoned."""
    form, method = SURPLUS[row]
    surplus = [POISON, b"POISON", b"H", b"\r\n" + POISON]

    def say(request: RawRequest) -> Iterable[bytes]:
        name = request.target[1:]
        return (form % (len(name), name) + surplus[int(name[-1:]) % 4],)

    liar.answer = say
    for number in range(20):
        user, other = ("alice", "bob") if number % 2 else ("bob", "alice")
        got = await get_raw(liar.gw, f"/{user}-{number}", f"Cookie: {user}", method=method)

        assert f"{user}-{number}".encode() in got, number
        assert len(statuses(got)) == 1, number
        assert b"POISON" not in got, number
        assert other.encode() not in got, number
    assert (liar.reused, liar.upstream.connections) == ([], 20)


async def test_late_surplus_reaches_nobody(liar):
    """R13: an idle connection on which the upstream speaks is closed before its next use."""
    liar.answer = lambda request: (answer(LENGTH, b"X-Of: " + request.target),)
    liar.late = asyncio.Event()
    for user in (b"alice", b"bob"):
        liar.upstream.closed.clear()
        got = await get_raw(liar.gw, b"/" + user)
        liar.late.set()
        async with asyncio.timeout(1):
            await liar.upstream.closed.wait()
        liar.late.clear()

        assert b"/" + user in got
        assert b"POISON" not in got
    assert liar.reused == []
