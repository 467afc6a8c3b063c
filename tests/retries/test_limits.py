"""Limits: how much an upstream and a pool may be given at the same time, and in a time."""

import asyncio
from contextlib import AsyncExitStack
from typing import Annotated

import pytest
import websockets
from fastapi import Depends, FastAPI, Request, WebSocket

from fastapi_proxy_router import RateLimit, Upstream, UpstreamPool, proxy_pass
from fastapi_proxy_router.transport import close_transports
from tests.retries.pools import WAYS, answering, fast, first, holding, true
from tests.servers import get_raw, raw_upstream, serve, status

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("pools")]


@pytest.mark.parametrize("way", WAYS)
async def test_an_upstream_that_is_full_is_a_503_at_once(pools, server, way):
    """``max_concurrent`` of an upstream; Retry-After says when to come back."""
    async with holding() as busy:
        full = Upstream(busy.url, max_concurrent=1)
        async with pools.gateway_to(full, server=server, way=way) as gw, gw.client() as client:
            await client.send(gw.head())
            await true(lambda: busy.held == 1)
            answer = await gw.ask("POST", body=b"hello")
            busy.go.set()

            assert answer.status == 503
            assert answer.values(b"retry-after") == [b"1"]
            assert (await client.answer()).status == 200
            assert (await gw.ask()).status == 200


@pytest.mark.parametrize("way", WAYS)
async def test_a_pool_that_is_full_is_a_503_at_once(pools, way):
    """``max_concurrent`` of a pool, however many upstreams it has."""
    async with holding() as one, holding() as two, AsyncExitStack() as stack:
        gw = await stack.enter_async_context(pools.gateway_to(one, two, way=way, max_concurrent=2))
        clients = [await stack.enter_async_context(gw.client()) for _ in range(2)]
        for client in clients:
            await client.send(gw.head())
        await true(lambda: one.held + two.held == 2)
        answer = await gw.ask()
        one.go.set()
        two.go.set()

        assert (answer.status, answer.values(b"retry-after")) == (503, [b"1"])
        assert [(await client.answer()).status for client in clients] == [200, 200]


@pytest.mark.parametrize("way", WAYS)
async def test_the_others_take_what_is_too_much_for_one(pools, way):
    """Whatever the balancer would like best."""
    async with holding() as busy, raw_upstream() as other:
        full = Upstream(busy.url, max_concurrent=1)
        async with pools.gateway_to(full, other, way=way) as gw, gw.client() as client:
            await client.send(gw.head())
            await true(lambda: busy.held == 1)
            assert (await gw.ask()).status == 200
            busy.go.set()
            assert (await client.answer()).status == 200

        assert len(other.requests) == 1


async def test_a_response_counts_until_its_end(pools):
    """A body that is still to come is an exchange that is running."""
    go = asyncio.Event()

    async def slowly(_reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
        await go.wait()
        writer.write(b"k")
        await writer.drain()

    async with raw_upstream(slowly) as slow:
        full = Upstream(slow.url, max_concurrent=1)
        async with pools.gateway_to(full) as gw, gw.client() as client:
            await client.send(gw.head())
            await client.until(b" 200 ")
            assert (await gw.ask()).status == 503
            go.set()
            assert (await client.answer()).status == 200


async def test_a_refused_request_sends_nothing(pools):
    """Its upstream hears nothing of it, and nothing is counted against it."""
    async with holding() as busy:
        full = Upstream(busy.url, max_concurrent=1)
        async with pools.gateway_to(full) as gw, gw.client() as client:
            await client.send(gw.head())
            await true(lambda: busy.held == 1)
            assert [(await gw.ask()).status for _ in range(10)] == [503] * 10
            busy.go.set()
            await client.answer()

        assert (full.requests, full.failures) == (1, 0)


@pytest.mark.parametrize("way", WAYS)
async def test_requests_in_a_time_are_limited(pools, way):
    """``RateLimit``; Retry-After is the rest of the window."""
    async with raw_upstream() as good:
        limited = Upstream(good.url, rate_limit=RateLimit(3, 60))
        async with pools.gateway_to(limited, way=way) as gw:
            answers = [await gw.ask() for _ in range(5)]

        assert [answer.status for answer in answers] == [200, 200, 200, 503, 503]
        assert all(55 < int(a.values(b"retry-after")[0]) <= 60 for a in answers[3:])
        assert len(good.requests) == 3


async def test_a_window_that_is_over_lets_requests_through(pools):
    """By the pool's clock."""
    now = 100.0
    async with raw_upstream() as good:
        limited = Upstream(good.url, rate_limit=RateLimit(1, 60))
        async with pools.gateway_to(limited, clock=lambda: now) as gw:
            first_two = [(await gw.ask()).status for _ in range(2)]
            now += 60
            assert [*first_two, (await gw.ask()).status] == [200, 503, 200]


async def test_the_others_take_what_is_too_often_for_one(pools):
    """And when all have enough, Retry-After is the shortest wait."""
    async with raw_upstream() as one, raw_upstream() as two:
        upstreams = (
            Upstream(one.url, rate_limit=RateLimit(1, 60)),
            Upstream(two.url, rate_limit=RateLimit(1, 10)),
        )
        async with pools.gateway_to(*upstreams) as gw:
            answers = [await gw.ask() for _ in range(3)]

        assert [answer.status for answer in answers] == [200, 200, 503]
        assert int(answers[2].values(b"retry-after")[0]) <= 10


async def test_a_try_counts_like_any_request(pools):
    """A retry goes to nobody who may be given no more; then the client gets the last answer."""
    async with raw_upstream(answering("503 Busy", b"sorry")) as bad, holding() as busy:
        full = Upstream(busy.url, max_concurrent=1)
        retry = fast(statuses={503})
        async with pools.gateway_to(Upstream(bad.url), full, retry=retry) as gw:
            gw.pool.balancer = lambda upstreams, _connection: upstreams[-1]
            async with gw.client() as client:
                await client.send(gw.head())
                await true(lambda: busy.held == 1)
                answer = await gw.ask()
                busy.go.set()
                assert (await client.answer()).status == 200

        assert (answer.status, answer.body) == (503, b"sorry")
        assert len(busy.requests) == 1


async def test_an_upstream_in_no_pool_has_limits_too():
    """One that an endpoint names itself."""
    async with raw_upstream() as good:
        limited = Upstream(good.url, rate_limit=RateLimit(1, 60))
        app = FastAPI()

        @app.get("/x")
        async def forward(
            request: Request, upstream: Annotated[Upstream, Depends(lambda: limited)]
        ):
            return await proxy_pass(request, upstream)

        async with serve(app) as gw:
            answers = [await get_raw(gw, "/x") for _ in range(2)]
        await close_transports([limited])

    assert [status(answer) for answer in answers] == [200, 503]


@pytest.mark.parametrize("way", WAYS)
async def test_a_websocket_counts_until_it_is_closed(pools, server, way):
    """The handshake that is too much is refused with 503, and the next is accepted again."""
    app = FastAPI()

    @app.websocket("/{path:path}")
    async def echo(websocket: WebSocket):
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(text)

    async with serve(app) as upstream:
        full = Upstream(upstream.url, max_concurrent=1)
        async with pools.gateway_to(full, server=server, way=way) as gw:
            url = f"{gw.served.ws}/x"
            async with websockets.connect(url, proxy=None) as one:
                await one.send("hello")
                assert await one.recv() == "hello"
                with pytest.raises(websockets.InvalidStatus) as refused:
                    async with websockets.connect(url, proxy=None):
                        pass
            await true(gw.idle)
            async with websockets.connect(url, proxy=None) as next_one:
                await next_one.send("again")
                assert await next_one.recv() == "again"

    assert refused.value.response.status_code == 503
    assert refused.value.response.headers["Retry-After"] == "1"


def test_a_pool_knows_when_time_makes_room():
    """The end of the window that ends first; infinity if only the end of an exchange does."""
    limited = Upstream("http://a", rate_limit=RateLimit(1, 60))
    pool = UpstreamPool([limited, "http://b"], balancer=first, clock=lambda: 100.0)
    before = pool.patience()
    limited.count(100.0)

    assert (before, pool.patience()) == (float("inf"), 60.0)
