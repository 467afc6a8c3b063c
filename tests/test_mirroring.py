"""Copies of requests for a shadow pool, of which the client never hears."""

import asyncio
import random
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Request

from fastapi_proxy_router import (
    ConfigurationError,
    Mirror,
    ProxyRouter,
    Upstream,
    UpstreamPool,
    proxy_pass,
)
from tests.servers import RawUpstream, get_raw, raw_upstream, send_raw, serve, status

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]


def gateway(upstream: RawUpstream, shadow: UpstreamPool, **options: Any) -> FastAPI:
    pool = UpstreamPool(upstream.url, mirror=Mirror(pool=shadow, **options))
    app = FastAPI()
    app.include_router(ProxyRouter(pool, prefix="/api"))
    return app


async def copied(shadow: RawUpstream) -> None:
    async with asyncio.timeout(3):
        await shadow.received.wait()


async def test_a_request_is_copied_with_its_body(server):
    """Target, headers and body; Host and base path are the shadow's own."""
    async with raw_upstream() as upstream, raw_upstream() as shadow:
        app = gateway(upstream, UpstreamPool(f"{shadow.url}/v2"))
        async with serve(app, server) as gw:
            answer = await get_raw(gw, "/api/a%2Fb?x=1", "X-Id: 7", method="POST", body=b"hello")
            await copied(shadow)

    assert (status(answer), len(upstream.requests)) == (200, 1)
    copy = shadow.last
    assert (copy.target, copy.body) == (b"/v2/a%2Fb?x=1", b"hello")
    assert copy.values(b"x-id") == [b"7"]
    assert copy.values(b"host") == [shadow.authority.encode()]


async def test_a_chunked_body_is_copied_too():
    """It has come in full when the answer is here."""
    request = (
        b"PUT /api/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5\r\nhello\r\n0\r\n\r\n"
    )
    async with raw_upstream() as upstream, raw_upstream() as shadow:
        async with serve(gateway(upstream, UpstreamPool(shadow.url))) as gw:
            assert status(await send_raw(gw, request)) == 200
            await copied(shadow)

    assert shadow.last.body == b"5\r\nhello\r\n0\r\n\r\n"


async def test_a_body_of_an_endpoint_is_copied_in_place_of_the_clients():
    """Nobody reads the client's."""
    app = FastAPI()
    async with raw_upstream() as upstream, raw_upstream() as shadow:
        pool = UpstreamPool(upstream.url, mirror=Mirror(pool=UpstreamPool(shadow.url)))

        @app.post("/x")
        async def post(request: Request, picked: Annotated[Upstream, Depends(pool)]):
            return await proxy_pass(request, picked, body=b"ours")

        app.include_router(ProxyRouter(pool, prefix="/unused"))
        async with serve(app) as gw:
            assert status(await get_raw(gw, "/x", method="POST", body=b"theirs")) == 200
            await copied(shadow)

    assert [upstream.last.body, shadow.last.body] == [b"ours", b"ours"]


async def test_a_body_over_the_limit_is_not_copied():
    """The request itself passes, and the next one is copied."""
    async with raw_upstream() as upstream, raw_upstream() as shadow:
        async with serve(gateway(upstream, UpstreamPool(shadow.url), body_limit=4)) as gw:
            await get_raw(gw, "/api/large", method="POST", body=b"hello")
            await get_raw(gw, "/api/small", method="POST", body=b"four")
            await copied(shadow)

    assert [request.body for request in upstream.requests] == [b"hello", b"four"]
    assert [request.target for request in shadow.requests] == [b"/small"]


async def test_a_shadow_that_hangs_holds_nothing_up():
    """Its copies are ended with the application."""
    arrived = asyncio.Event()

    async def hang(reader, writer):
        arrived.set()
        await reader.read()

    async with raw_upstream() as upstream, raw_upstream(hang) as shadow:
        async with serve(gateway(upstream, UpstreamPool(shadow.url))) as gw:
            assert status(await get_raw(gw, "/api/x")) == 200
            await arrived.wait()
        await shadow.closed.wait()


async def test_a_shadow_that_is_not_there_is_not_noticed():
    """The client gets its answer, and the upstream's health does not hear of it."""
    async with raw_upstream() as gone:
        url = gone.url
    async with raw_upstream() as upstream:
        shadow = UpstreamPool(url)
        app = gateway(upstream, shadow)
        async with serve(app) as gw:
            for _ in range(3):
                assert status(await get_raw(gw, "/api/x")) == 200
            async with asyncio.timeout(3):
                while shadow.upstreams[0].failures < 3:
                    await asyncio.sleep(0.005)
    assert shadow.upstreams[0].in_flight == 0


async def test_only_so_many_copies_are_on_their_way():
    """More requests are not copied then."""
    arrived = asyncio.Event()
    both = asyncio.Event()

    async def hang(reader, writer):
        if arrived.is_set():
            both.set()
        arrived.set()
        await reader.read()

    async with raw_upstream() as upstream, raw_upstream(hang) as shadow:
        app = gateway(upstream, UpstreamPool(shadow.url), max_concurrent=2)
        async with serve(app) as gw:
            await get_raw(gw, "/api/1")
            await arrived.wait()
            for number in range(2, 6):
                await get_raw(gw, f"/api/{number}")
            await both.wait()
    assert sorted(request.target for request in shadow.requests) == [b"/1", b"/2"]


def test_a_share_of_the_requests_is_copied():
    """As chance has it."""
    mirror = Mirror(pool=UpstreamPool("http://shadow"), share=0.2)
    chance = random.Random(1)

    assert 150 < sum(mirror.wants(chance) for _ in range(1000)) < 250


def test_wrong_values_are_refused_together():
    """Each is named."""
    with pytest.raises(ConfigurationError) as raised:
        Mirror(
            pool=UpstreamPool("http://shadow"),
            share=1.5,
            body_limit=-1,
            max_concurrent=0,
            timeout=0,
        )

    assert len(raised.value.mistakes) == 4


def test_a_shadow_is_a_pool():
    """A URL is refused here, and not when the application starts."""
    url: Any = "http://shadow"
    with pytest.raises(ConfigurationError, match="pool must be an UpstreamPool"):
        Mirror(pool=url)


async def test_a_copy_whose_answer_has_no_end_is_given_up():
    """Else a client of event streams could keep all others from being copied."""

    async def stream(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        await reader.read()

    async with raw_upstream() as upstream, raw_upstream(stream) as shadow:
        pool = UpstreamPool(shadow.url)
        async with serve(gateway(upstream, pool, max_concurrent=1, timeout=0.05)) as gw:
            await get_raw(gw, "/api/1")
            await shadow.closed.wait()
            shadow.received.clear()
            async with asyncio.timeout(3):
                while not shadow.received.is_set():
                    await get_raw(gw, "/api/2")
    assert [request.target for request in shadow.requests][:2] == [b"/1", b"/2"]


async def test_a_mistake_of_the_shadow_is_logged(caplog):
    """The client has its answer all the same."""

    def balancer(upstreams, connection):
        raise LookupError("no such star")

    async with raw_upstream() as upstream:
        shadow = UpstreamPool(["http://a", "http://b"], balancer=balancer)
        async with serve(gateway(upstream, shadow)) as gw:
            assert status(await get_raw(gw, "/api/x")) == 200
            async with asyncio.timeout(3):
                while "no such star" not in caplog.text:
                    await asyncio.sleep(0.005)
