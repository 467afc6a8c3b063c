"""What starts a deadline, and what does not put it off."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from fastapi_proxy_router.transport import HTTP1Transport
from tests.servers import OK, raw_upstream
from tests.transport.wire import (
    BOTH_LOOPS,
    PATIENT,
    ask,
    fetch,
    origin,
    read_body,
    say,
    scripted,
    until,
    was_sent,
    within_a_second,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled"), BOTH_LOOPS]


@pytest.mark.parametrize(
    "drop", [b"X", b"X-Drip: 1\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Hi\r\n\r\n"]
)
async def test_no_drip_puts_off_the_deadline_of_the_head(drop):
    """Neither bytes of a header, nor headers, nor interim responses."""

    async def drip(_reader, writer):
        if drop.startswith(b"X"):
            writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            await say(writer, drop)
            await asyncio.sleep(0.02)

    async with raw_upstream(drip) as upstream, HTTP1Transport() as transport:
        started = asyncio.get_running_loop().time()
        with pytest.raises(httpx.ReadTimeout):
            await fetch(transport, upstream, None, PATIENT._replace(response=0.1))
        assert asyncio.get_running_loop().time() - started < 1
        await within_a_second(upstream.closed)


async def test_a_body_may_take_longer_than_its_parts():
    """The deadline of a body is between two chunks, not for all of them."""

    async def slow(_reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
        for _ in range(10):
            await say(writer, b"x")
            await asyncio.sleep(0.03)

    async with raw_upstream(slow) as upstream, HTTP1Transport() as transport:
        deadlines = PATIENT._replace(response=0.2, read=0.2)

        assert (await fetch(transport, upstream, None, deadlines)).body == b"x" * 10


async def test_a_reader_that_takes_its_time_misses_no_deadline():
    """The clock for the body runs while somebody waits for it."""
    async with raw_upstream(OK) as upstream, HTTP1Transport() as transport:
        response = await transport.exchange(origin(upstream), ask(), PATIENT._replace(read=0.02))
        await asyncio.sleep(0.05)
        assert await response.next_chunk() == b"ok"
        await response.aclose()


@pytest.mark.parametrize("kind", ["chunks", "bytes"])
async def test_the_deadline_of_the_head_starts_when_the_request_is_sent(kind):
    """An upload may take longer than the answer to it."""
    size = 16 * 1024 * 1024

    async def body():
        for _ in range(4):
            yield bytes(size // 4)
            await asyncio.sleep(0.02)

    async def slow(request, reader, writer):
        await asyncio.sleep(0.3)
        await read_body(request, reader)
        writer.write(OK)

    async with scripted(slow) as upstream, HTTP1Transport() as transport:
        request = ask("PUT", body=bytes(size) if kind == "bytes" else body())
        deadlines = PATIENT._replace(response=0.2)

        assert (await fetch(transport, upstream, request, deadlines)).body == b"ok"


async def test_an_upload_may_take_longer_than_its_parts():
    """The deadline for writing is for the time in which nothing is taken, however large a chunk."""
    size = 16 * 1024 * 1024

    async def body():
        yield bytes(size)

    async def slow(reader, writer):
        received = 0
        while received < size:
            await asyncio.sleep(0.005)
            received += len(await reader.read(256 * 1024))
        writer.write(OK)

    async with raw_upstream(slow, limit=2**20) as upstream, HTTP1Transport() as transport:
        request = ask("PUT", (b"content-length", b"%d" % size), body=body())
        deadlines = PATIENT._replace(write=0.1)

        assert (await fetch(transport, upstream, request, deadlines)).body == b"ok"


async def test_an_upload_that_is_over_has_a_deadline():
    """An upstream that took all and says nothing is not waited for."""

    async def body():
        yield b"hello"

    async def mute(request, reader, _writer):
        await read_body(request, reader)
        await reader.read()

    async with scripted(mute) as upstream, HTTP1Transport() as transport:
        request = ask("PUT", body=body())
        with pytest.raises(httpx.ReadTimeout):
            await fetch(transport, upstream, request, PATIENT._replace(response=0.05))


async def test_a_deadline_that_was_kept_harms_nobody():
    """It does not strike the next request on the connection."""
    release = asyncio.Event()

    async def second_is_slow(request, _reader, writer):
        if request.target == b"/slow":
            await release.wait()
        writer.write(OK)

    async with scripted(second_is_slow) as upstream, HTTP1Transport() as transport:
        deadlines = PATIENT._replace(response=0.05, read=0.05)
        await fetch(transport, upstream, None, deadlines)
        slow = asyncio.create_task(fetch(transport, upstream, ask(target=b"/slow")))
        await until(lambda: len(upstream.requests) == 2)
        await asyncio.sleep(0.1)
        release.set()

        assert (await slow).body == b"ok"
        assert upstream.connections == 1


async def test_no_deadline_is_none():
    """``None`` everywhere is for ever."""

    async def slow(_request, _reader, writer):
        await asyncio.sleep(0.05)
        writer.write(OK)

    async with scripted(slow) as upstream, HTTP1Transport() as transport:
        deadlines = PATIENT._replace(connect=None, pool=None, response=None, read=None, write=None)

        assert (await fetch(transport, upstream, None, deadlines)).body == b"ok"


async def test_the_deadline_to_connect_includes_tls():
    """A handshake that stalls is a connection that does not stand."""

    async def mute(reader, writer):
        await reader.read()
        writer.close()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    async with server, HTTP1Transport() as transport:
        client = httpx.AsyncClient(transport=transport)
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        with pytest.raises(httpx.ConnectTimeout) as error:
            await client.get(url, timeout=httpx.Timeout(5, connect=0.05))

    assert was_sent(error.value) is False
