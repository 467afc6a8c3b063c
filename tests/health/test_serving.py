"""What runs beside pools: it begins once, ends once, and takes care of connections."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable

import httpx
import pytest
from fastapi import Depends, FastAPI, Request, WebSocket
from fastapi.testclient import TestClient
from websockets.asyncio.client import connect as dial

from fastapi_proxy_router import (
    Mirror,
    ProxyRouter,
    Split,
    Upstream,
    UpstreamPool,
    proxy_pass,
    proxy_pass_websocket,
    serving,
)
from tests.health.patient import LIMIT, often, patient, until
from tests.servers import get_raw, raw_upstream, serve, status
from tests.test_relay import ws_upstream

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]


def probes() -> int:
    return sum(task.get_name().startswith("probe") for task in asyncio.all_tasks())


class Closing(httpx.MockTransport):
    """A transport that counts how often it was closed."""

    def __init__(self, handler: Callable[..., object] = lambda _request: httpx.Response(200)):
        super().__init__(handler)  # type: ignore[arg-type]
        self.closed = 0

    async def aclose(self) -> None:
        self.closed += 1


# --- Beginning and end ------------------------------------------------------------------------


async def test_a_pool_without_a_router():
    """An application of one's own keeps its pool going in its lifespan."""
    async with patient() as one, patient() as two:
        two.status = 500
        pool = UpstreamPool([one.url, two.url], health=often(interval=60))
        app = FastAPI(lifespan=lambda _app: serving(pool))

        @app.get("/report")
        async def report(request: Request, upstream: Upstream = Depends(pool)):
            return await proxy_pass(request, upstream)

        async with serve(app) as gateway:
            assert [upstream.health.state for upstream in pool.upstreams] == [
                "healthy",
                "unhealthy",
            ]
            assert status(await get_raw(gateway, "/report")) == 200
        assert probes() == 0


async def test_a_pool_in_two_routers_is_probed_once():
    """And until the last of them ends."""
    async with patient() as one:
        pool = UpstreamPool(one.url, health=often(interval=60))
        async with serving(pool):
            async with serving(pool), serving(pool):
                assert (len(one.requests), probes()) == (1, 1)
            assert probes() == 1
            assert pool.upstreams[0].transport is not None
        assert probes() == 0
        assert len(one.requests) == 1


async def test_two_that_begin_at_once_wait_for_the_same_first_probe():
    """Neither serves before it."""
    async with patient() as one:
        one.silent = True
        pool = UpstreamPool(one.url, health=often(timeout=0.2, interval=60))

        async def use() -> str:
            async with serving(pool):
                return pool.upstreams[0].health.state

        assert set(await asyncio.gather(use(), use())) == {"unhealthy"}
        assert len(one.requests) == 1


async def test_one_that_begins_after_another_gave_up():
    """Whoever is cancelled in its beginning does not take the other with it."""
    async with patient() as one:
        one.silent = True
        pool = UpstreamPool(one.url, health=often(timeout=0.3, interval=60))

        async def use() -> str:
            async with serving(pool):
                return pool.upstreams[0].health.state

        first, second = asyncio.create_task(use()), asyncio.create_task(use())
        await until(lambda: len(one.requests) == 1)
        first.cancel()

        assert await second == "unhealthy"
        assert first.cancelled()
        assert probes() == 0


def test_a_lifespan_that_runs_again():
    """The same application in two test clients, each with an event loop of its own."""

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.method)
        return httpx.Response(200)

    asked: list[str] = []
    upstream = Upstream("http://test", transport=httpx.MockTransport(handler))
    app = FastAPI()
    app.include_router(ProxyRouter(UpstreamPool(upstream, health=often(interval=60))))
    for _ in range(2):
        with TestClient(app) as client:
            assert client.get("/").status_code == 200

    assert asked == ["HEAD", "GET"] * 2


async def test_shadow_pools_are_served_too():
    """A pool that requests are copied to has its own checks."""
    async with patient() as one, patient() as shadow:
        copies = UpstreamPool(shadow.url, health=often(interval=60))
        async with serving(UpstreamPool(one.url, mirror=Mirror(pool=copies))):
            assert shadow.lines == ["HEAD /"]


async def test_the_pools_of_a_split_are_served():
    """All of them, whatever their weight."""
    async with patient() as one, patient() as two:
        pools = [UpstreamPool(each.url, health=often(interval=60)) for each in (one, two)]
        async with serving(Split({pools[0]: 1, pools[1]: 0})):
            assert (one.lines, two.lines) == (["HEAD /"], ["HEAD /"])


async def test_the_pools_of_a_block_begin_together():
    """One that hangs does not hold up the checks of another."""
    async with patient() as one, patient() as two:
        one.silent = True
        hanging = UpstreamPool(one.url, health=often(timeout=60))
        pool = UpstreamPool(two.url, health=often())

        async def use() -> None:
            async with serving(hanging, pool):
                pass

        task = asyncio.create_task(use())
        await two.asked(3)
        task.cancel()
        await asyncio.wait([task])
        assert probes() == 0


async def test_nothing_keeps_a_pool_that_is_over():
    """It can be collected after its block."""
    async with patient() as one:
        pool = UpstreamPool(one.url, health=often())
        async with serving(pool):
            pass
        gone = weakref.ref(pool)
        del pool
        gc.collect()
        assert gone() is None


# --- Connections ------------------------------------------------------------------------------


async def test_the_transport_of_one_that_has_left_is_closed():
    """At once, if nothing is in flight, and only that one."""
    stays, leaves = Closing(), Closing()
    pool = UpstreamPool(
        [Upstream("http://a", transport=stays), Upstream("http://b", transport=leaves)]
    )
    async with serving(pool):
        pool.remove(pool.upstreams[1])
        await until(lambda: leaves.closed == 1)
        assert stays.closed == 0
    assert (stays.closed, leaves.closed) == (1, 1)


async def test_a_transport_that_is_being_closed_is_waited_for():
    """When the block is over, so is that."""
    began = asyncio.Event()

    class Slow(Closing):
        async def aclose(self) -> None:
            began.set()
            await asyncio.sleep(0.01)
            await super().aclose()

    leaves = Slow()
    pool = UpstreamPool(["http://a", Upstream("http://b", transport=leaves)])
    async with serving(pool):
        pool.remove(pool.upstreams[1])
        await began.wait()
    assert leaves.closed == 1


async def test_what_is_in_flight_may_end_before_its_transport_is_closed():
    """A request to an upstream that is removed meanwhile gets its answer."""
    began, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_request: httpx.Request) -> httpx.Response:
        began.set()
        await go_on.wait()
        return httpx.Response(200, text="late")

    transport = Closing(slow)
    pool = UpstreamPool([Upstream("http://a", transport=transport), "http://127.0.0.1:1"])
    pool.upstreams[1].weight = 0
    app = FastAPI()
    app.include_router(ProxyRouter(pool))
    async with serve(app) as gateway, asyncio.timeout(LIMIT):
        asking = asyncio.create_task(get_raw(gateway))
        await began.wait()
        pool.remove(pool.upstreams[0])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert transport.closed == 0
        go_on.set()

        assert (await asking).endswith(b"late")
        await until(lambda: transport.closed == 1)


async def test_idle_connections_of_one_that_has_left_are_closed():
    """Also those of our own engine, which would expire by themselves."""
    async with raw_upstream() as one, raw_upstream() as two:
        pool = UpstreamPool(one.url)
        app = FastAPI()
        app.include_router(ProxyRouter(pool))
        async with serve(app) as gateway, asyncio.timeout(2):
            assert status(await get_raw(gateway)) == 200
            pool.add(two.url)
            pool.remove(pool.upstreams[0])
            await one.closed.wait()
            assert status(await get_raw(gateway)) == 200
        assert (len(one.requests), len(two.requests)) == (1, 1)


async def test_a_transport_that_another_upstream_uses_stays_open():
    """Two upstreams may share one: the last that leaves closes it."""
    shared = Closing()
    pool = UpstreamPool([Upstream(f"http://{name}", transport=shared) for name in "abc"])
    async with serving(pool):
        for left in (2, 1):
            pool.remove(pool.upstreams[0])
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert (len(pool.upstreams), shared.closed) == (left, 0)
        pool.remove(pool.upstreams[0])
        await until(lambda: shared.closed == 1)


async def test_one_that_moves_to_another_pool_keeps_its_connections():
    """It is not over."""
    transport = Closing()
    upstream = Upstream("http://a", transport=transport)
    here, there = UpstreamPool([upstream, "http://b"]), UpstreamPool("http://c")
    async with serving(here):
        here.remove(upstream)
        there.add(upstream)
    assert transport.closed == 0


async def test_a_relay_to_one_that_has_left_ends_with_the_pool():
    """It goes on as long as the pool is served, and no longer."""
    async with ws_upstream() as upstream:
        pool = UpstreamPool([upstream.url, Upstream("http://127.0.0.1:1", weight=0)])
        app = FastAPI()

        @app.websocket("/chat")
        async def chat(websocket: WebSocket, upstream: Upstream = Depends(pool)):
            await proxy_pass_websocket(websocket, upstream)

        async with serve(app) as gateway, asyncio.timeout(LIMIT):
            async with serving(pool):
                websocket = await dial(f"{gateway.ws}/chat", proxy=None)
                pool.remove(pool.upstreams[0])
                await websocket.send("hello")
                assert await websocket.recv() == "hello"
            await websocket.wait_closed()
        assert websocket.close_code == 1012
