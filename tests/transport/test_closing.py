"""The end of a transport, and its life in more than one event loop."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import httpx
import pytest
import uvloop

from fastapi_proxy_router.transport import ConnectionLimits, HTTP1Transport
from tests.servers import OK, Served, raw_upstream
from tests.transport.wire import (
    BOTH_LOOPS,
    PATIENT,
    ask,
    body_of,
    fetch,
    open_sockets,
    origin,
    pool_of,
    scripted,
    until,
    whole,
)


def in_a_loop(test):
    return pytest.mark.usefixtures("settled")(BOTH_LOOPS(test))


@in_a_loop
async def test_closing_closes_what_idles():
    """All of it, and at once."""
    async with raw_upstream() as one, raw_upstream() as two:
        before = open_sockets()
        transport = HTTP1Transport()
        for upstream in (one, two):
            await asyncio.gather(*(fetch(transport, upstream) for _ in range(5)))
        assert open_sockets() == before + 20
        await transport.aclose()

        await until(lambda: open_sockets() == before)


@in_a_loop
async def test_closing_ends_what_is_under_way():
    """A body that is still coming breaks off with an error, not with an end."""

    async def slow(_reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        await _reader.read()

    async with raw_upstream(slow) as upstream:
        transport = HTTP1Transport()
        response = await transport.exchange(origin(upstream), ask(), PATIENT)
        await response.next_chunk()
        await transport.aclose()
        with pytest.raises(httpx.TransportError):
            await body_of(response)
        await response.aclose()


@in_a_loop
async def test_a_closed_transport_can_be_used_again():
    """It opens anew."""
    async with raw_upstream() as upstream:
        transport = HTTP1Transport()
        for _ in range(3):
            assert (await fetch(transport, upstream)).body == b"ok"
            await transport.aclose()

        assert upstream.connections == 3


@in_a_loop
async def test_closing_twice_or_unused_does_nothing():
    """Neither is a mistake."""
    transport = HTTP1Transport()
    await transport.aclose()
    await transport.aclose()


@in_a_loop
@pytest.mark.parametrize("stage", ["sent", "waiting", "connecting", "read"])
async def test_nothing_idles_in_a_transport_that_was_closed(stage):
    """What a request did meanwhile, or does after, leaves no connection behind."""
    answer = asyncio.Event()

    async def late(request, _reader, writer):
        if request.target == b"/x":
            await answer.wait()
        writer.write(OK)

    async with scripted(late) as upstream:
        before = open_sockets()
        transport = HTTP1Transport(limits=ConnectionLimits(max_connections=1))
        request: asyncio.Task[Any]
        if stage != "connecting":
            await fetch(transport, upstream)
        if stage == "read":
            response = await transport.exchange(origin(upstream), ask(), PATIENT)
            await whole(response)
            request = asyncio.create_task(response.aclose())
        elif stage == "connecting":
            request = asyncio.create_task(fetch(transport, upstream))
            await asyncio.sleep(0)
        elif stage == "sent":
            request = asyncio.create_task(fetch(transport, upstream, ask(target=b"/x")))
            await until(lambda: len(upstream.requests) == 2)
        else:
            response = await transport.exchange(origin(upstream), ask(), PATIENT)
            request = asyncio.create_task(fetch(transport, upstream))
            await until(lambda: pool_of(transport)._waiters)
        await transport.aclose()
        answer.set()
        await asyncio.wait([request], timeout=2)
        assert request.done()
        assert request.exception() is None or isinstance(request.exception(), httpx.TransportError)
        if stage == "waiting":
            await response.aclose()

        await until(lambda: open_sockets() == before)


LOOPS = pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])


@LOOPS
def test_a_second_event_loop(factory):
    """A transport that was closed in one works in the next."""
    transport = HTTP1Transport()

    async def use():
        async with raw_upstream() as upstream, transport:
            return [(await fetch(transport, upstream)).body for _ in range(2)]

    for _ in range(2):
        with asyncio.Runner(loop_factory=factory) as runner:
            assert runner.run(use()) == [b"ok", b"ok"]


@LOOPS
def test_an_event_loop_beside_another(factory):
    """The connections of one are never used in the other."""
    transport = HTTP1Transport()
    listening, done = threading.Event(), threading.Event()
    at = Served(0)

    async def serve():
        async with raw_upstream() as upstream:
            at.port = upstream.port
            await fetch(transport, upstream)
            listening.set()
            await asyncio.to_thread(done.wait, 5)
            await transport.aclose()
            return upstream.connections

    async def use():
        try:
            async with transport:
                return (await fetch(transport, at)).body
        finally:
            done.set()

    served: list[int] = []
    thread = threading.Thread(target=lambda: served.append(asyncio.run(serve())))
    thread.start()
    listening.wait(5)
    with asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(use()) == b"ok"
    thread.join()

    assert served == [2]
