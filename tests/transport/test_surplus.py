"""What arrives after a response, or between two, is for nobody."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest

from fastapi_proxy_router.transport import ConnectionLimits, HTTP1Transport
from tests.servers import OK, Served, raw_upstream
from tests.transport.wire import BOTH_LOOPS, EMPTY, ask, fetch, pool_of, until, within_a_second

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled"), BOTH_LOOPS]

POISON = b"HTTP/1.1 200 OK\r\nX-Poison: 1\r\nContent-Length: 6\r\n\r\nPOISON"

SURPLUS = {
    "length": ("GET", OK, POISON),
    "no length": ("GET", EMPTY, POISON),
    "chunks": ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", POISON),
    "close": ("GET", b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", POISON),
    "204": ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", POISON),
    "204 with its body": ("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", b"hello"),
    "304 with its body": ("GET", b"HTTP/1.1 304 Not\r\nContent-Length: 5\r\n\r\n", b"hello"),
    "head": ("HEAD", OK[:-2], POISON),
    "head with its body": ("HEAD", OK[:-2], b"ok"),
    "head with its chunks": (
        "HEAD",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"2\r\nok\r\n0\r\n\r\n",
    ),
    "head with its last chunk": (
        "HEAD",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"0\r\n\r\n",
    ),
    "one byte": ("GET", OK, b"x"),
    "part of a head": ("GET", OK, b"HTTP/1.1 200 OK\r\nX-Poison"),
    "a line first": ("GET", OK, b"\r\n" + POISON),
    "an interim response": ("GET", OK, b"HTTP/1.1 100 Continue\r\n\r\n"),
}


@pytest.mark.parametrize("kind", SURPLUS)
async def test_surplus_in_the_same_packet_ends_the_connection(kind):
    """Nobody gets it, also not as trailers."""
    method, answer, surplus = SURPLUS[kind]
    async with raw_upstream(answer + surplus) as upstream, HTTP1Transport() as transport:
        first = await fetch(transport, upstream, ask(method))
        second = await fetch(transport, upstream, ask(method))

        assert first == second
        assert first.trailers == []
        assert b"POISON" not in first.body
        assert upstream.connections == 2


async def test_empty_lines_after_a_response_reach_nobody():
    """Parsers skip them before a response, so they change none."""
    async with raw_upstream(OK + b"\r\n\r\n") as upstream, HTTP1Transport() as transport:
        answers = [await fetch(transport, upstream) for _ in range(3)]

        assert [(answer.body, answer.trailers) for answer in answers] == [(b"ok", [])] * 3


@pytest.mark.parametrize("surplus", [POISON, b"x", b"\r\n", b"0\r\n\r\n"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_surplus_in_a_later_packet_ends_the_connection(method, surplus):
    """What arrives while nobody asked is for nobody."""
    taken = asyncio.Event()

    async def late(reader, writer):
        writer.write(OK if upstream.last.line.startswith(b"GET") else OK[:-2])
        await taken.wait()
        if upstream.connections == 1:
            writer.write(surplus)
        await reader.read()

    async with raw_upstream(late) as upstream, HTTP1Transport() as transport:
        await fetch(transport, upstream, ask(method))
        taken.set()
        await within_a_second(upstream.closed)
        answer = await fetch(transport, upstream, ask(method))

        assert (answer.body, answer.trailers) == (b"ok" if method == "GET" else b"", [])
        assert upstream.connections == 2


async def _parts():
    yield b"x"


@pytest.mark.parametrize("surplus", [POISON, b"x", b""])
@pytest.mark.parametrize("method", ["GET", "POST", "POST streamed"])
async def test_surplus_that_nobody_has_read_yet_ends_the_connection(method, surplus):
    """What came while the event loop was busy is found before the next request is sent."""
    busy, sent = threading.Event(), threading.Event()

    def upstream():
        with listener.accept()[0] as first:
            first.recv(65536)
            first.sendall(OK)
            busy.wait(2)
            first.sendall(surplus)
            if not surplus:
                first.shutdown(socket.SHUT_WR)
            sent.set()
            with listener.accept()[0] as second:
                second.recv(65536)
                second.sendall(OK)

    body = {"GET": b"", "POST": b"x", "POST streamed": _parts()}[method]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(1)
        serving = asyncio.create_task(asyncio.to_thread(upstream))
        async with HTTP1Transport() as transport:
            at = Served(listener.getsockname()[1])
            await fetch(transport, at)
            busy.set()
            sent.wait(2)
            answer = await fetch(transport, at, ask(method[:4].strip(), body=body))
        await asyncio.wait([serving])

    assert (answer.body, answer.headers) == (b"ok", [(b"Content-Length", b"2")])
    await serving


async def test_an_idle_connection_that_was_closed_is_not_used():
    """Its end is noticed when it comes, so that even a POST is safe."""

    async def once(_reader, writer):
        writer.write(OK)

    async with raw_upstream(once) as upstream, HTTP1Transport() as transport:
        for number in range(1, 4):
            assert (await fetch(transport, upstream, ask("POST", body=b"x"))).body == b"ok"
            await until(lambda: not pool_of(transport)._idle)
            assert upstream.connections == number


@pytest.mark.parametrize("end", [b"", b"x"])
@pytest.mark.parametrize("streamed", [True, False])
async def test_a_connection_that_is_closing_is_not_used(end, streamed):
    """Between the end that was noticed and the loss that is reported, a POST finds another."""
    finished = asyncio.Event()

    async def once(reader, writer):
        writer.write(OK)
        await finished.wait()
        if end and upstream.connections == 1:
            writer.write(end)
            await reader.read()

    async with raw_upstream(once) as upstream, HTTP1Transport() as transport:
        await fetch(transport, upstream)
        (connection,) = pool_of(transport)._idle
        finished.set()
        async with asyncio.timeout(2):
            while connection._transport is not None and not connection._transport.is_closing():
                await asyncio.sleep(0)

        request = ask("POST", body=_parts() if streamed else b"x")
        assert (await fetch(transport, upstream, request)).body == b"ok"


async def test_a_connection_expires():
    """One that has idled too long is closed without anybody asking."""
    limits = ConnectionLimits(keepalive_expiry=0.05)
    async with raw_upstream() as upstream, HTTP1Transport(limits=limits) as transport:
        await fetch(transport, upstream)
        await within_a_second(upstream.closed)
        await fetch(transport, upstream)

        assert upstream.connections == 2


async def test_each_connection_expires_in_its_own_time():
    """Using one keeps that one; the others go."""
    limits = ConnectionLimits(keepalive_expiry=0.1)
    async with raw_upstream() as upstream, HTTP1Transport(limits=limits) as transport:
        await asyncio.gather(*(fetch(transport, upstream) for _ in range(5)))
        assert upstream.connections == 5
        pool = pool_of(transport)

        async with asyncio.timeout(2):
            while len(pool._open) > 1:
                await fetch(transport, upstream)
                await asyncio.sleep(0.01)
        assert upstream.connections == 5
        await until(lambda: not pool._open)


async def test_no_time_to_idle_is_no_reuse():
    """An expiry of nothing means one request for each connection."""
    limits = ConnectionLimits(keepalive_expiry=0)
    async with raw_upstream() as upstream, HTTP1Transport(limits=limits) as transport:
        for _ in range(3):
            await fetch(transport, upstream)

        assert upstream.connections == 3


async def test_an_old_connection_is_not_used_again():
    """However busy it was, so that a change in the DNS is followed."""
    limits = ConnectionLimits(max_age=0.05)
    async with raw_upstream() as upstream, HTTP1Transport(limits=limits) as transport:
        async with asyncio.timeout(2):
            while upstream.connections < 3:
                await fetch(transport, upstream)


async def test_an_old_connection_is_not_handed_to_who_waits():
    """Age counts in a queue that is never empty, too."""
    limits = ConnectionLimits(max_connections=1, max_age=0)
    async with raw_upstream() as upstream, HTTP1Transport(limits=limits) as transport:
        await asyncio.gather(*(fetch(transport, upstream) for _ in range(3)))

        assert upstream.connections == 3
