"""Bodies that the upstream does not finish.

====  ==============================================  ============================================
F10   shorter than its Content-Length                 test_a_body_that_breaks_off_...
F11   closed between or in chunks                     the same, test_chunks_that_break_off_...
F12   malformed chunks                                test_a_malformed_chunk_breaks_the_body_off
F13   reset in the body                               as F10 and F11; over TLS: test_tls_faults
F14   a slow body whose gaps are short                test_a_slow_body_is_relayed_to_its_end
F15   a body that stalls                              test_a_body_that_stalls_is_aborted
F16   an endless body, and the client leaves          test_client_faults (C4)
====  ==============================================  ============================================

In all of them the client has the head and a part of the body already, so that there is no status
left to say it with. Those where the fault comes with the head are in `tests/test_streaming.py`.
"""

import asyncio

import pytest

from fastapi_proxy_router import Timeout
from tests.faults.upstreams import faulty, reset

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]

LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"

#: What comes before the end, after what the client has.
IN_CHUNKS = {
    "in the size": b"f",
    "in the data": b"ff\r\nhello",
    "after the data": b"5\r\nworld",
    "in the last": b"0",
    "after the last": b"0\r\n",
    "in the trailers": b"0\r\nX-Trailer: a\r\n",
}

MALFORMED = {
    "negative": b"-1\r\nhello\r\n",
    "signed": b"+5\r\nhello\r\n",
    "prefixed": b"0x5\r\nhello\r\n",
    "no digit": b"xyz\r\n",
    "empty": b"\r\n",
    "17 digits": b"10000000000000005\r\nhello\r\n",
    "64 digits": b"f" * 64 + b"\r\n",
    "longer than its size": b"5\r\nhello world\r\n",
    "a bare LF": b"5\nhello\n",
    "a bare LF after the data": b"5\r\nhello\n5\r\nworld\r\n",
}


async def broken(gw, go: asyncio.Event, target: str = "/x"):
    """Let a client read the first part, then the upstream go on; return what the client has."""
    async with gw.client() as client:
        await client.send(gw.head("GET", target, "Connection: close"))
        await client.until(b"hello")
        go.set()
        await client.end()
        return gw.note(await client.answer())


def breaking(first: bytes, rest: bytes, how: str, go: asyncio.Event):
    async def script(_reader, writer):
        writer.write(first)
        await go.wait()
        writer.write(rest)
        await writer.drain()
        if how == "reset":
            reset(writer)

    return script


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("first", [LENGTH, CHUNKED], ids=["length", "chunks"])
async def test_a_body_that_breaks_off_is_never_ended_cleanly(settled, server, first, how):
    """F10, F11, F13: the client's connection breaks off, too."""
    go = asyncio.Event()
    script = breaking(first, b"", how, go)
    async with faulty(script) as upstream, settled.gateway(upstream, server) as gw:
        answer = await broken(gw, go)

        assert answer.status == 200
        assert not answer.complete


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("place", IN_CHUNKS)
async def test_chunks_that_break_off_anywhere_are_never_ended_cleanly(settled, place, how):
    """F11, F13: wherever it was, the last chunk and what follows it included."""
    go = asyncio.Event()
    script = breaking(CHUNKED, IN_CHUNKS[place], how, go)
    async with faulty(script) as upstream, settled.gateway(upstream) as gw:
        answer = await broken(gw, go)

        assert answer.status == 200
        assert not answer.complete


@pytest.mark.parametrize("fault", MALFORMED)
async def test_a_malformed_chunk_breaks_the_body_off(settled, fault):
    """F12: at once, although the upstream keeps the connection open."""
    go = asyncio.Event()

    async def script(reader, writer):
        writer.write(CHUNKED)
        await go.wait()
        writer.write(MALFORMED[fault])
        await reader.read()

    async with faulty(script) as upstream, settled.gateway(upstream) as gw:
        answer = await broken(gw, go)

        assert answer.status == 200
        assert not answer.complete
        async with asyncio.timeout(1):
            await upstream.closed.wait()


@pytest.mark.parametrize("first", [LENGTH, CHUNKED], ids=["length", "chunked"])
async def test_a_body_that_stalls_is_aborted(settled, server, first):
    """F15: the idle deadline ends it on both sides."""

    async def stall(reader, writer):
        writer.write(first)
        await reader.read()

    async with faulty(stall) as upstream:
        async with settled.gateway(upstream, server, timeout=Timeout(idle=0.2)) as gw:
            answer = await broken(gw, asyncio.Event())

            assert answer.status == 200
            assert not answer.complete
            async with asyncio.timeout(1):
                await upstream.closed.wait()


async def test_a_slow_body_is_relayed_to_its_end(settled):
    """F14: it may take longer than every deadline, if no gap does."""

    async def drip(_reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n")
        for _ in range(20):
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.03)
        return True

    async with faulty(drip) as upstream:
        async with settled.gateway(upstream, timeout=Timeout(0.3, 0.3, 0.3)) as gw:
            gw.whole = {b"x" * 20}
            answer = await gw.ask()

            assert answer.body == b"x" * 20


async def test_a_response_that_says_no_end_ends_with_its_connection(settled, server):
    """Without a length, a clean close is the end; a reset is not."""
    go = asyncio.Event()

    async def script(_reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhello")
        await go.wait()
        if upstream.last.target.startswith(b"/reset"):
            reset(writer)

    async with faulty(script) as upstream, settled.gateway(upstream, server) as gw:
        gw.whole = {b"hello"}
        assert (await broken(gw, go)).complete

        go.clear()
        assert not (await broken(gw, go, "/reset")).complete
