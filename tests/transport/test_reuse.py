"""A connection is used again when it is provably clean, and never otherwise."""

from __future__ import annotations

import asyncio

import pytest

from fastapi_proxy_router.transport import ConnectionLimits, HTTP1Transport
from tests.servers import OK, raw_upstream
from tests.transport.wire import (
    BOTH_LOOPS,
    PATIENT,
    ask,
    body_of,
    fetch,
    origin,
    pool_of,
    read_body,
    scripted,
    whole,
    within_a_second,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled"), BOTH_LOOPS]


async def test_steady_reuse():
    """Of 400 requests, half of them in parallel, at most four open a connection."""
    limits = ConnectionLimits(max_connections=4)
    async with raw_upstream() as upstream, HTTP1Transport(limits=limits) as transport:
        for _ in range(200):
            await fetch(transport, upstream)
        assert upstream.connections == 1
        await asyncio.gather(*(fetch(transport, upstream) for _ in range(200)))

        assert len(upstream.requests) == 400
        assert upstream.connections <= 4


async def test_uploads_reuse():
    """A body that was sent as it came leaves the connection as clean as one at hand."""

    async def body():
        yield b"hel"
        yield b"lo"

    async with raw_upstream() as upstream, HTTP1Transport() as transport:
        for _ in range(20):
            await fetch(transport, upstream, ask("POST", body=body()))
            length = (b"content-length", b"5")
            await fetch(transport, upstream, ask("POST", length, body=body()))
            await fetch(transport, upstream, ask("POST", body=b"hello"))

        assert upstream.connections == 1


CLEAN = {
    "length": ("GET", b"200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok"),
    "length of nothing": ("GET", b"200 OK\r\nContent-Length: 0\r\n\r\n", b""),
    "chunks": ("GET", b"200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"ok"),
    "trailers": (
        "GET",
        b"200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\r\n\r\n",
        b"ok",
    ),
    "head with a length": ("HEAD", b"200 OK\r\nContent-Length: 1000\r\n\r\n", b""),
    "head with chunks": ("HEAD", b"200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b""),
    "head without framing": ("HEAD", b"200 OK\r\n\r\n", b""),
    "204": ("GET", b"204 No Content\r\n\r\n", b""),
    "204 with a length": ("GET", b"204 No Content\r\nContent-Length: 5\r\n\r\n", b""),
    "204 with chunks": ("GET", b"204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", b""),
    "304 with a length": ("GET", b"304 Not Modified\r\nContent-Length: 1000\r\n\r\n", b""),
    "304 with chunks": ("GET", b"304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", b""),
    "426": (
        "GET",
        b"426 No\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n",
        b"",
    ),
    "interim": (
        "GET",
        b"100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"ok",
    ),
}


@pytest.mark.parametrize("kind", CLEAN)
async def test_a_clean_connection_is_used_again(kind):
    """The response is complete, and where it ends is beyond doubt."""
    method, answer, body = CLEAN[kind]
    async with raw_upstream(b"HTTP/1.1 " + answer) as upstream, HTTP1Transport() as transport:
        for _ in range(3):
            assert (await fetch(transport, upstream, ask(method))).body == body

        assert upstream.connections == 1


async def test_http_1_0_can_be_kept_alive():
    """If it says so."""
    answer = b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nok"
    async with raw_upstream(answer) as upstream, HTTP1Transport() as transport:
        for _ in range(3):
            await fetch(transport, upstream)

        assert upstream.connections == 1


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n",
        b"HTTP/1.1 200 OK\r\ncOnNeCtIoN: cLoSe\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: keep-alive, Close\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nConnection: close\r\n",
        b"HTTP/1.0 200 OK\r\n",
    ],
)
async def test_an_upstream_that_says_close_is_taken_at_its_word(method, head):
    """However it is spelled, and although the upstream does not close."""
    answer = head + b"Content-Length: 0\r\n\r\n"
    async with raw_upstream(answer) as upstream, HTTP1Transport() as transport:
        for _ in range(2):
            await fetch(transport, upstream, ask(method))

        assert upstream.connections == 2


async def test_a_body_that_ends_with_its_connection_ends_it():
    """There is nothing left to use."""

    async def until_close(_reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhello")
        await writer.drain()

    async with raw_upstream(until_close) as upstream, HTTP1Transport() as transport:
        for _ in range(2):
            assert (await fetch(transport, upstream)).body == b"hello"

        assert upstream.connections == 2


async def test_a_body_that_is_not_read_to_its_end_ends_the_connection():
    """What is left of it would be the next answer."""
    go_on = asyncio.Event()

    async def slow(_reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        await go_on.wait()
        writer.write(b"later")

    async with raw_upstream(slow) as upstream, HTTP1Transport() as transport:
        response = await transport.exchange(origin(upstream), ask(), PATIENT)
        await response.next_chunk()
        await response.aclose()
        go_on.set()

        assert (await fetch(transport, upstream)).body == b"hellolater"
        assert upstream.connections == 2


@pytest.mark.parametrize("size", [10, 100 * 1024])
async def test_a_body_that_is_here_but_was_not_taken_does_no_harm(size):
    """Small or large, the next exchange does not see it and does not wait for it."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
    async with raw_upstream(answer) as upstream, HTTP1Transport() as transport:
        for _ in range(3):
            response = await transport.exchange(origin(upstream), ask(), PATIENT)
            await whole(response)
            await response.aclose()

        got = await fetch(transport, upstream, None, PATIENT._replace(response=1))
        assert len(got.body) == size


async def test_an_upload_that_is_not_finished_ends_the_connection():
    """What is left of it would be the next request."""

    async def body():
        yield b"hel"
        await asyncio.Event().wait()

    async def early(request, reader, writer):
        if request.line.startswith(b"POST"):
            await reader.readuntil(b"hel\r\n")
        writer.write(OK)

    async with scripted(early) as upstream, HTTP1Transport() as transport:
        assert (await fetch(transport, upstream, ask("POST", body=body()))).body == b"ok"
        assert (await fetch(transport, upstream)).body == b"ok"

        assert upstream.connections == 2


async def test_an_upload_that_was_not_taken_ends_the_connection():
    """Its last bytes may still be here when the response has come."""
    full = asyncio.Event()

    async def body():
        (connection,) = pool_of(transport)._open
        sending = connection._transport
        assert sending is not None
        while not sending.get_write_buffer_size():
            yield bytes(16384)
        full.set()

    async def unread(_reader, writer):
        writer.transport.pause_reading()
        await full.wait()
        writer.write(OK)
        await asyncio.Event().wait()

    async with raw_upstream(unread) as upstream, HTTP1Transport() as transport:
        assert (await fetch(transport, upstream, ask("POST", body=body()))).body == b"ok"
        assert (await fetch(transport, upstream)).body == b"ok"

        assert upstream.connections == 2


async def test_an_upload_that_ends_after_the_response_keeps_the_connection():
    """Both are over when the response is closed."""
    answered = asyncio.Event()

    async def body():
        yield b"hel"
        await within_a_second(answered)
        yield b"lo"

    async def early(request, reader, writer):
        writer.write(OK)
        await read_body(request, reader)

    async with scripted(early) as upstream, HTTP1Transport() as transport:
        for _ in range(2):
            answered.clear()
            response = await transport.exchange(origin(upstream), ask("POST", body=body()), PATIENT)
            assert await body_of(response) == b"ok"
            answered.set()
            assert response._upload is not None
            await asyncio.wait([response._upload])
            await response.aclose()

        assert upstream.connections == 1
