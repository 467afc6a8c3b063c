"""Health checks of a pool: when they are made, and what comes of them."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from fastapi import FastAPI

from fastapi_proxy_router import (
    ConnectionLimits,
    Ejection,
    HTTP1Transport,
    ProxyRouter,
    Timeout,
    Upstream,
    UpstreamPool,
)
from fastapi_proxy_router.prober import Prober
from fastapi_proxy_router.transport import RawRequest, close_transports, exchange
from tests.health.patient import LIMIT, Diary, often, patient, until
from tests.servers import get_raw, raw_upstream, serve, status

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]


@asynccontextmanager
async def probing(pool: UpstreamPool) -> AsyncIterator[Prober]:
    """Probe the pool until the block ends; first of all each upstream once."""
    prober = Prober(pool)
    try:
        async with asyncio.timeout(LIMIT):
            await prober.start()
        yield prober
    finally:
        await prober.stop()
        await close_transports(pool.upstreams)


def states(pool: UpstreamPool) -> list[str]:
    return [upstream.health.state for upstream in pool.upstreams]


def probes() -> set[str]:
    return {task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("probe")}


# --- Before traffic ---------------------------------------------------------------------------


async def test_every_upstream_is_probed_before_traffic(server):
    """When the first request comes, the gateway knows already who is healthy."""
    async with patient() as good, patient() as bad:
        bad.status = 503
        pool = UpstreamPool([bad.url, good.url], health=often(interval=60))
        app = FastAPI()
        app.include_router(ProxyRouter(pool))
        async with serve(app, server) as gateway:
            assert [status(await get_raw(gateway)) for _ in range(4)] == [200] * 4
            assert states(pool) == ["unhealthy", "healthy"]

        assert bad.lines == ["HEAD /"]
        assert good.lines == ["HEAD /", *["GET /"] * 4]


async def test_an_upstream_that_hangs_delays_no_other():
    """The others are asked again and again while it is silent."""
    async with patient() as good, patient() as silent:
        silent.silent = True
        pool = UpstreamPool([silent.url, good.url], health=often(timeout=0.4))
        seen = asyncio.create_task(good.asked(5))
        async with probing(pool):
            assert seen.done()
            assert states(pool) == ["unhealthy", "healthy"]


async def test_all_are_asked_at_once():
    """None waits for another one's answer: each has to wait until all were asked."""
    asked: list[None] = []
    all_asked = asyncio.Event()

    async def together(reader, writer):
        asked.append(None)
        if len(asked) == 3:
            all_asked.set()
        await all_asked.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await reader.read()

    async with raw_upstream(together) as one, raw_upstream(together) as two:
        async with raw_upstream(together) as three:
            pool = UpstreamPool([one.url, two.url, three.url], health=often(interval=60))
            async with probing(pool):
                assert states(pool) == ["healthy"] * 3


# --- Rise and fall ----------------------------------------------------------------------------


async def test_it_falls_and_rises_as_often_as_it_is_told():
    """One bad answer does not make an upstream unhealthy, nor one good answer healthy."""
    diary = Diary()
    async with patient() as one:
        check = often(rise=3, fall=2, timeout=LIMIT)
        pool = UpstreamPool(one.url, health=check, on_state_change=diary)
        async with probing(pool):
            await diary.until("healthy")

            one.status, before = 500, len(one.requests)
            await diary.until("healthy", "unhealthy")
            failed = len(one.requests) - before
            one.status, before = 200, len(one.requests)
            await diary.until("healthy", "unhealthy", "healthy")
            passed = len(one.requests) - before

    # One may have been on its way when the status was changed.
    assert failed in (2, 3)
    assert passed in (3, 4)


async def test_recovery_within_one_interval():
    """The next check after an upstream is back brings it back, and only a check does."""
    diary, check = Diary(), often(interval=0.1, fall=1)
    async with patient() as one:
        one.status = 500
        pool = UpstreamPool(one.url, health=check, panic=False, on_state_change=diary)
        async with probing(pool):
            assert pool.available() == ()
            one.status = 200
            await diary.until("unhealthy", "healthy")

            assert pool.available() == pool.upstreams
            assert len(one.requests) == 2


async def test_one_that_flaps_stays_what_it_is():
    """Every other check fails: two in a row would have to."""
    diary = Diary()
    async with patient() as one:
        one.alternates = True
        pool = UpstreamPool(one.url, health=often(interval=0.005), on_state_change=diary)
        async with probing(pool):
            await one.asked(20)

    assert diary.states == ["healthy"]


async def test_a_check_is_no_exchange():
    """Neither its number, nor its failure, nor the time that it took is one of requests."""
    async with patient() as one:
        pool = UpstreamPool(one.url, health=often(), ejection=Ejection(max_share=1))
        async with probing(pool):
            upstream = pool.upstreams[0]
            assert upstream.last_probe is not None
            assert upstream.last_probe.seconds > 0
            one.status = 500
            await until(lambda: upstream.health.state == "unhealthy")
            await one.asked(8)

            assert (upstream.requests, upstream.failures, upstream.in_flight) == (0, 0, 0)
            assert (pool.in_flight, upstream.health.is_ejected) == (0, False)
            assert upstream.latency.at(pool.clock()) is None
            assert upstream.last_probe.status == 500


async def test_a_check_that_could_not_be_made_changes_nothing():
    """All connections that we allow are in use: the upstream is as well as before."""
    async with patient() as one:
        limits = ConnectionLimits(max_connections=1)
        upstream = Upstream(one.url, transport=HTTP1Transport(limits=limits))
        pool = UpstreamPool(upstream, health=often(timeout=0.1, fall=1))
        async with probing(pool):
            request = RawRequest("GET", b"/", [(b"host", b"x")], b"")
            held = await exchange(upstream, request, Timeout())
            await until(lambda: upstream.last_probe is not None and upstream.last_probe.ours)

            assert states(pool) == ["healthy"]
            await held.aclose()


async def test_a_failed_check_is_one_line_of_debugging(caplog):
    """And a change of state is a line that everybody sees."""
    caplog.set_level(logging.DEBUG, "fastapi_proxy_router")
    async with patient() as one:
        one.status = 500
        pool = UpstreamPool(one.url, health=often(interval=60))
        async with probing(pool):
            pass

    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert lines == [
        ("DEBUG", f"probe of {one.url} failed: status 500"),
        ("WARNING", f"upstream {one.url} was unknown and is unhealthy"),
    ]


# --- Time -------------------------------------------------------------------------------------


async def test_the_interval_varies():
    """By a share of it, from the pool's own source of chance."""

    asked: set[tuple[float, float]] = set()

    class Chance(random.Random):
        def uniform(self, a: float, b: float) -> float:
            asked.add((a, b))
            return -1.0

    async with patient() as one:
        # Only because of the jitter this does not take for ever.
        check = often(interval=4.0, jitter=0.99)
        pool = UpstreamPool(one.url, health=check, chance=Chance())
        async with probing(pool):
            await one.asked(2)

    assert asked == {(-1, 1)}


async def test_a_check_that_lasts_longer_than_the_interval():
    """The next one begins when it is over: there are never two of one upstream."""
    running = most = 0

    async def slow(_reader, writer):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")

    async with raw_upstream(slow) as server:
        pool = UpstreamPool(server.url, health=often(interval=0.001))
        async with probing(pool):
            await until(lambda: len(server.requests) >= 4)

    assert most == 1


# --- Membership -------------------------------------------------------------------------------


async def test_one_that_comes_is_probed_at_once():
    """It does not wait for an interval, and the others are left alone."""
    async with patient() as one, patient() as two:
        pool = UpstreamPool(one.url, health=often(interval=60))
        async with probing(pool):
            two.status = 500
            late = pool.add(two.url)
            await until(lambda: late.health.state == "unhealthy")

            assert len(one.requests) == 1
            assert probes() == {f"probe {one.url}", f"probe {two.url}"}


async def test_one_that_comes_from_a_thread():
    """An endpoint without "async" may add an upstream."""
    async with patient() as one, patient() as two:
        pool = UpstreamPool(one.url, health=often(interval=60))
        async with probing(pool):
            late = await asyncio.to_thread(pool.add, two.url)
            await until(lambda: late.health.state == "healthy")


async def test_one_that_comes_does_not_hold_the_request_that_brought_it():
    """Its checks do not run in the context of whoever has added it."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="none")
    seen: list[str] = []

    class Chance(random.Random):
        def uniform(self, _a: float, _b: float) -> float:
            seen.append(variable.get())
            return 0

    async with patient() as one, patient() as two:
        pool = UpstreamPool(one.url, health=often(), chance=Chance())
        async with probing(pool):
            token = variable.set("mine")
            pool.add(two.url)
            variable.reset(token)
            await two.asked(2)

    assert set(seen) == {"none"}


async def test_one_that_leaves_is_left_alone():
    """Its checks end, also one that is running; the health of the others stays."""
    async with patient() as one, patient() as two:
        one.status = 500
        pool = UpstreamPool([one.url, two.url], health=often(interval=0.05))
        async with probing(pool):
            two.silent = True
            await two.asked()
            gone = pool.upstreams[1]
            pool.remove(gone)
            await until(lambda: probes() == {f"probe {one.url}"})
            await until(lambda: two.connections == 0)

            assert states(pool) == ["unhealthy"]
            assert gone.health.state == "healthy"


async def test_one_that_leaves_before_its_first_answer():
    """Nothing waits for it any more."""
    async with patient() as one, patient() as two:
        two.silent = True
        pool = UpstreamPool([one.url, two.url], health=often(interval=60, timeout=60))
        prober = Prober(pool)
        starting = asyncio.create_task(prober.start())
        await until(lambda: bool(two.requests))
        pool.remove(gone := pool.upstreams[1])

        await starting
        await prober.stop()
        await close_transports([*pool.upstreams, gone])


async def test_one_with_weight_0_is_probed_too():
    """It may come back any moment."""
    async with patient() as one, patient() as two:
        pool = UpstreamPool([one.url, Upstream(two.url, weight=0)], health=often())
        async with probing(pool):
            assert states(pool) == ["healthy", "healthy"]


# --- The end ----------------------------------------------------------------------------------


async def test_it_stops_in_the_middle_of_a_check():
    """Nothing is left: neither a task nor a connection."""
    async with patient() as one:
        pool = UpstreamPool(one.url, health=often(timeout=60))
        async with probing(pool) as prober:
            one.silent = True
            await one.asked()

            await prober.stop()

            assert probes() == set()
            await until(lambda: one.connections == 0)


async def test_it_stops_after_one_has_left():
    """It waits for a check that was being ended already."""
    async with patient() as one:
        pool = UpstreamPool(one.url, health=often(timeout=60))
        async with probing(pool) as prober:
            one.silent = True
            await one.asked()
            pool.remove(gone := pool.upstreams[0])
            await asyncio.sleep(0)

            await prober.stop()
            assert probes() == set()
            await close_transports([gone])


async def test_it_stops_after_one_has_come():
    """One that was added in the last moment is not probed."""
    async with patient() as one, patient() as two:
        pool = UpstreamPool(one.url, health=often(interval=60))
        async with probing(pool) as prober:
            pool.add(two.url)
            await prober.stop()
            await asyncio.sleep(0)
            assert probes() == set()


async def test_it_stops_while_it_starts():
    """A server that is stopped before it has started leaves nothing."""
    async with patient() as one:
        one.silent = True
        pool = UpstreamPool(one.url, health=often(timeout=60))
        prober = Prober(pool)
        starting = asyncio.create_task(prober.start())
        await until(lambda: bool(one.requests))
        starting.cancel()
        await asyncio.wait([starting])

        assert starting.cancelled()
        assert probes() == set()
        await close_transports(pool.upstreams)


async def test_it_starts_and_stops_as_often_as_one_likes():
    """Twice in a row changes nothing, and after the end it begins again."""
    async with patient() as one:
        pool = UpstreamPool(one.url, health=often(interval=60))
        async with probing(pool) as prober:
            await prober.start()
            assert len(one.requests) == 1
            await prober.stop()
            await prober.stop()
            pool.add("http://127.0.0.1:1")
            pool.remove(pool.upstreams[1])

            await prober.start()
            assert len(one.requests) == 2
            assert probes() == {f"probe {one.url}"}


async def test_a_pool_without_a_check_is_not_probed():
    """Its upstreams are healthy until requests say otherwise."""
    async with patient() as one:
        pool = UpstreamPool(one.url)
        async with probing(pool):
            assert (one.requests, states(pool), probes()) == ([], ["healthy"], set())
