"""Connections are limited and waited for in turn, and no place is ever lost."""

from __future__ import annotations

import asyncio
import sys

import httpx
import pytest

from fastapi_proxy_router.transport import ConnectionLimits, HTTP1Transport
from fastapi_proxy_router.transport.attempt import HTTP1Response
from tests.servers import OK, Served, raw_upstream
from tests.transport.wire import (
    BOTH_LOOPS,
    PATIENT,
    Answer,
    ask,
    body_of,
    fetch,
    origin,
    pool_of,
    scripted,
    until,
    was_sent,
    within_a_second,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled"), BOTH_LOOPS]

ONE = ConnectionLimits(max_connections=1)


async def held(transport: HTTP1Transport, upstream: Served) -> HTTP1Response:
    """Return a response that keeps its connection until it is closed."""
    return await transport.exchange(origin(upstream), ask(), PATIENT)


def waiting(transport: HTTP1Transport) -> int:
    return len(pool_of(transport)._waiters)


async def queued(transport: HTTP1Transport, upstream: Served, *targets: bytes):
    """Start a request for each target, one behind the other."""
    tasks: list[asyncio.Task[Answer]] = []
    before = waiting(transport)
    for target in targets:
        tasks.append(asyncio.create_task(fetch(transport, upstream, ask(target=target))))
        await until(lambda: waiting(transport) == before + len(tasks))
    return tasks


@pytest.mark.parametrize("answer", [OK, OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")])
async def test_there_are_never_more_connections_than_allowed(answer):
    """Whether they are kept or not, the upstream never has more than five of sixty requests."""
    now, most = 0, 0
    served: list[None] = []

    async def counting(reader, writer):
        nonlocal now, most
        now += 1
        most = max(most, now)
        while True:
            served.append(None)
            await asyncio.sleep(0)
            writer.write(answer)
            try:
                await reader.readuntil(b"\r\n\r\n")
            except (OSError, asyncio.IncompleteReadError):
                now -= 1
                return

    limits = ConnectionLimits(max_connections=5)
    async with raw_upstream(counting) as upstream, HTTP1Transport(limits=limits) as transport:
        await asyncio.gather(*(fetch(transport, upstream) for _ in range(60)))

        assert len(served) == 60
        assert most <= 5
        assert upstream.connections == (60 if b"close" in answer else 5)


async def test_who_waits_is_served_in_turn():
    """First come, first served, over one connection."""
    async with raw_upstream() as upstream, HTTP1Transport(limits=ONE) as transport:
        first = await held(transport, upstream)
        tasks = await queued(transport, upstream, b"/1", b"/2", b"/3")
        await first.aclose()
        await asyncio.gather(*tasks, fetch(transport, upstream, ask(target=b"/4")))

        assert [request.target for request in upstream.requests] == [
            b"/", b"/1", b"/2", b"/3", b"/4",
        ]  # fmt: skip
        assert upstream.connections == 1


async def test_nobody_overtakes_who_waits():
    """One who comes in the moment of a release queues behind those who were there."""
    async with raw_upstream() as upstream, HTTP1Transport(limits=ONE) as transport:
        first = await held(transport, upstream)
        (waiter,) = await queued(transport, upstream, b"/early")
        await first.aclose()
        await fetch(transport, upstream, ask(target=b"/late"))
        await waiter

        assert [request.target for request in upstream.requests] == [b"/", b"/early", b"/late"]


async def test_waiting_has_a_deadline():
    """A turn that does not come is a PoolTimeout, and the queue forgets who left."""
    async with raw_upstream() as upstream, HTTP1Transport(limits=ONE) as transport:
        first = await held(transport, upstream)
        with pytest.raises(httpx.PoolTimeout) as error:
            await fetch(transport, upstream, None, PATIENT._replace(pool=0.05))
        assert was_sent(error.value) is False
        assert waiting(transport) == 0
        await first.aclose()
        await fetch(transport, upstream)

        assert (upstream.connections, len(upstream.requests)) == (1, 2)


async def test_the_queue_has_a_limit():
    """Who would be one too many does not wait at all."""
    limits = ConnectionLimits(max_connections=1, max_waiting=2)
    async with raw_upstream() as upstream, HTTP1Transport(limits=limits) as transport:
        first = await held(transport, upstream)
        tasks = await queued(transport, upstream, b"/1", b"/2")
        with pytest.raises(httpx.PoolTimeout, match="2 requests") as error:
            await fetch(transport, upstream, None, PATIENT._replace(pool=1))
        assert was_sent(error.value) is False
        await first.aclose()
        await asyncio.gather(*tasks)

        assert len(upstream.requests) == 3


async def test_a_failed_connection_gives_its_place_away():
    """The next in the queue opens one of its own."""
    fail = asyncio.Event()

    async def failing(request, reader, writer):
        if request.target == b"/":
            await fail.wait()
            raise ConnectionAbortedError
        writer.write(OK)

    async with scripted(failing) as upstream, HTTP1Transport(limits=ONE) as transport:
        first = asyncio.create_task(fetch(transport, upstream))
        await upstream.received.wait()
        tasks = await queued(transport, upstream, b"/1", b"/2")
        fail.set()
        with pytest.raises(httpx.RemoteProtocolError):
            await first
        assert [(await task).body for task in tasks] == [b"ok", b"ok"]

        assert upstream.connections == 2


async def test_a_cancelled_request_gives_its_place_away():
    """Its connection is closed, and the next opens one."""

    async def silent(request, reader, writer):
        if request.target == b"/":
            await reader.read()
        writer.write(OK)

    async with scripted(silent) as upstream, HTTP1Transport(limits=ONE) as transport:
        first = asyncio.create_task(fetch(transport, upstream))
        await upstream.received.wait()
        tasks = await queued(transport, upstream, b"/1", b"/2")
        first.cancel()
        assert [(await task).body for task in tasks] == [b"ok", b"ok"]

        assert first.cancelled()
        assert upstream.connections == 2


async def test_a_connection_that_cannot_be_opened_gives_its_place_away():
    """Each in the queue tries for itself, one at a time."""
    now, most = 0, 0

    async def mute(reader, writer):
        nonlocal now, most
        now += 1
        most = max(most, now)
        await reader.read()
        now -= 1
        writer.close()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    at = Served(server.sockets[0].getsockname()[1])
    async with server, HTTP1Transport(limits=ONE) as transport:
        deadlines = PATIENT._replace(connect=0.05)
        results = await asyncio.gather(
            *(fetch(transport, at, None, deadlines, scheme="https") for _ in range(3)),
            return_exceptions=True,
        )
        await until(lambda: now == 0)

    assert [type(result) for result in results] == [httpx.ConnectTimeout] * 3
    assert most == 1


async def test_who_leaves_in_the_moment_of_a_release_is_cancelled():
    """And the connection is there for the next."""
    async with raw_upstream() as upstream, HTTP1Transport(limits=ONE) as transport:
        first = await held(transport, upstream)
        leaving, staying = await queued(transport, upstream, b"/1", b"/2")
        leaving.cancel()
        await first.aclose()
        with pytest.raises(asyncio.CancelledError):
            await leaving

        assert (await staying).body == b"ok"
        assert upstream.connections == 1


async def test_who_leaves_after_the_turn_came_passes_it_on():
    """A connection that was given away just before is not lost with who got it."""
    async with raw_upstream() as upstream, HTTP1Transport(limits=ONE) as transport:
        first = await held(transport, upstream)
        leaving, staying = await queued(transport, upstream, b"/1", b"/2")
        closing = asyncio.ensure_future(first.aclose())
        asyncio.get_running_loop().call_soon(leaving.cancel)
        with pytest.raises(asyncio.CancelledError):
            await leaving
        await closing

        assert (await staying).body == b"ok"
        assert upstream.connections == 1


async def test_a_connection_that_is_lost_between_two_is_not_the_loss_of_a_place():
    """One that the upstream closes while it is handed over is replaced."""
    async with raw_upstream() as upstream, HTTP1Transport(limits=ONE) as transport:
        first = await held(transport, upstream)
        await body_of(first)
        (waiter,) = await queued(transport, upstream, b"/1")
        await first.aclose()
        first._connection.abort()

        assert (await waiter).body == b"ok"
        assert upstream.connections == 2


async def test_the_last_used_connection_is_used_first():
    """So that those which are not needed can expire."""
    async with raw_upstream() as upstream, HTTP1Transport() as transport:
        responses = [await held(transport, upstream) for _ in range(3)]
        for response in responses:
            await response.aclose()
        again = await held(transport, upstream)
        await again.aclose()

        assert again._connection is responses[-1]._connection


async def test_a_connection_lost_while_idle_is_forgotten():
    """Nothing of it is kept until it would have been used."""

    async def once(_reader, writer):
        writer.write(OK)

    async with raw_upstream(once) as upstream, HTTP1Transport() as transport:
        await asyncio.gather(*(fetch(transport, upstream) for _ in range(5)))
        await until(lambda: not pool_of(transport)._idle)

        assert pool_of(transport)._open == set()


async def test_taking_one_costs_the_same_however_many_idle():
    """As many calls of functions with one idle connection as with a hundred."""

    async def calls(number: int) -> int:
        async with HTTP1Transport() as transport:
            responses = [await held(transport, upstream) for _ in range(number)]
            for response in responses:
                await response.aclose()
            pool = pool_of(transport)
            assert len(pool._idle) == number
            events: list[str] = []
            sys.setprofile(lambda _frame, event, _argument: events.append(event))
            connection = pool.take()
            sys.setprofile(None)
            assert connection is not None
            pool.release(connection)
            return len(events)

    async with raw_upstream() as upstream:
        assert await calls(1) == await calls(100)
        await until(upstream.closed.is_set)


async def test_an_unlimited_pool_does_not_wait():
    """By default there are as many connections as requests."""
    async with raw_upstream() as upstream, HTTP1Transport() as transport:
        responses = [await held(transport, upstream) for _ in range(50)]
        assert upstream.connections == 50
        for response in responses:
            await response.aclose()
        await asyncio.gather(*(fetch(transport, upstream) for _ in range(50)))

        assert upstream.connections == 50


async def test_limits_are_for_each_origin():
    """One upstream that is full leaves another alone."""
    async with raw_upstream() as full, raw_upstream() as free:
        async with HTTP1Transport(limits=ONE) as transport:
            first = await held(transport, full)
            assert (await fetch(transport, free)).body == b"ok"
            await first.aclose()
            await within_a_second(free.received)
