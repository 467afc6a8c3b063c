"""admission: who waits for an upstream, and what ends the wait."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from fastapi_proxy_router import NoUpstreamAvailable, Upstream, UpstreamPool
from fastapi_proxy_router.admission import admitted
from fastapi_proxy_router.core.checks import Ejection
from fastapi_proxy_router.core.lease import Lease
from fastapi_proxy_router.core.limits import Queue, RateLimit

SCOPE: dict[str, Any] = {"type": "http", "headers": []}


async def waiting(pool: UpstreamPool, count: int) -> None:
    """Return when so many wait."""
    async with asyncio.timeout(3):
        while len(pool.waiting) < count:
            await asyncio.sleep(0)


async def test_a_wait_ends_with_the_window_of_a_rate_limit():
    """No exchange has to end for that."""
    upstream = Upstream("http://a", rate_limit=RateLimit(1, 0.1))
    pool = UpstreamPool(upstream, queue=Queue(timeout=30))
    async with asyncio.timeout(3):
        for _ in range(3):
            assert await admitted(upstream, SCOPE) is upstream
            Lease(upstream).end()
    assert not pool.waiting


async def test_a_wait_ends_with_an_ejection():
    """Its trial may begin."""
    a, b = Upstream("http://a", max_concurrent=1), Upstream("http://b")
    ejection = Ejection(consecutive=1, base_time=0.1)
    pool = UpstreamPool([a, b], ejection=ejection, queue=Queue(timeout=30))
    lease = Lease(b)
    lease.failed()
    lease.end()
    running = Lease(a)
    async with asyncio.timeout(3):
        assert await admitted(a, SCOPE) is b
    running.end()
    assert not pool.waiting


async def test_who_waits_is_served_in_turn():
    """One for each exchange that ends."""
    upstream = Upstream("http://a", max_concurrent=1)
    pool = UpstreamPool(upstream, queue=Queue(timeout=30))
    running, served = Lease(upstream), []

    async def wait(number: int) -> None:
        nonlocal running
        await admitted(upstream, SCOPE)
        running = Lease(upstream)
        served.append(number)

    tasks = []
    for number in range(5):
        tasks.append(asyncio.create_task(wait(number), name=f"wait {number}"))
        await waiting(pool, number + 1)
    async with asyncio.timeout(3):
        for number, task in enumerate(tasks):
            assert len(served) == number
            running.end()
            await task
    running.end()

    assert served == [0, 1, 2, 3, 4]
    assert (pool.in_flight, len(pool.waiting)) == (0, 0)


async def test_a_turn_that_is_cancelled_goes_to_the_next():
    """It was woken, and its client has left."""
    upstream = Upstream("http://a", max_concurrent=1)
    pool = UpstreamPool(upstream, queue=Queue(timeout=30))
    running = Lease(upstream)
    first = asyncio.create_task(admitted(upstream, SCOPE), name="first")
    await waiting(pool, 1)
    second = asyncio.create_task(admitted(upstream, SCOPE), name="second")
    await waiting(pool, 2)
    running.end()
    first.cancel()
    async with asyncio.timeout(3):
        assert await second is upstream
        with pytest.raises(asyncio.CancelledError):
            await first
    assert not pool.waiting


async def test_a_full_queue_refuses_at_once():
    """And one that waits too long is refused."""
    upstream = Upstream("http://a", max_concurrent=1)
    pool = UpstreamPool(upstream, queue=Queue(size=1, timeout=0.1))
    running = Lease(upstream)
    first = asyncio.create_task(admitted(upstream, SCOPE), name="first")
    await waiting(pool, 1)
    with pytest.raises(NoUpstreamAvailable):
        await admitted(upstream, SCOPE)
    async with asyncio.timeout(3):
        with pytest.raises(NoUpstreamAvailable) as raised:
            await first
    running.end()

    assert raised.value.headers == {"Retry-After": "1"}
    assert not pool.waiting


async def test_another_thread_may_make_room():
    """An endpoint without "async" changes a pool in a thread, which must not touch the loop."""
    upstream = Upstream("http://a", max_concurrent=1)
    pool = UpstreamPool(upstream, queue=Queue(timeout=30))
    running = Lease(upstream)
    task = asyncio.create_task(admitted(upstream, SCOPE))
    await waiting(pool, 1)

    # Nobody waits for it here: that it ends would wake the event loop.
    thread = threading.Timer(0.2, lambda: pool.add("http://b"))
    thread.start()
    async with asyncio.timeout(5):
        assert (await task).url == "http://b"
    thread.join()
    running.end()
