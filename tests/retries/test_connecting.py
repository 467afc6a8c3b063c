"""F1, F2: an upstream that cannot be connected to has got nothing, so another one may be asked."""

import asyncio

import pytest
from fastapi import Depends, FastAPI, Request

from fastapi_proxy_router import (
    ConnectionLimits,
    HTTP1Transport,
    ProxyRouter,
    Timeout,
    Upstream,
    UpstreamPool,
)
from tests.faults.client import connected
from tests.retries.pools import SHORT, WAYS, blackhole, fast, first, holding, refusing
from tests.servers import get_raw, raw_upstream, serve, status

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("pools")]

BODY = bytes(range(256)) * 8


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "LOCK"])
async def test_a_refused_connection_is_made_good_for_any_method(pools, method):
    """F1: the next upstream gets the request, once, with its body byte for byte."""
    body = BODY if method in ("POST", "PUT", "PATCH") else b""
    async with refusing() as gone, raw_upstream() as good:
        async with pools.gateway_to(gone, good) as gw:
            answer = await gw.ask(method, body=body)

        assert answer.status == 200
        assert [request.body for request in good.requests] == [body]
        assert gone.failures == 1


@pytest.mark.parametrize("way", WAYS)
async def test_a_refused_connection_is_made_good_on_every_way_and_server(pools, server, way):
    """F1: past FastAPI, with a dependency, and from an endpoint of one's own."""
    async with refusing() as gone, raw_upstream() as good:
        async with pools.gateway_to(gone, good, server=server, way=way) as gw:
            answer = await gw.ask("POST", body=BODY)

        assert (answer.status, answer.body) == (200, b"ok")
        assert [request.body for request in good.requests] == [BODY]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_blackhole_is_made_good_after_the_connect_timeout(pools, method):
    """F2: for any method, because nothing was sent."""
    async with blackhole() as hole, raw_upstream() as good:
        timeout = Timeout(connect=SHORT)
        async with pools.gateway_to(hole, good, timeout=timeout) as gw:
            answer = await gw.ask(method, body=BODY if method == "POST" else b"")

        assert answer.status == 200
        assert len(good.requests) == 1


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("body", [b"", BODY])
async def test_a_blackhole_is_made_good_after_the_time_of_one_try(pools, method, body):
    """F2: a try that ends before its connection stands has sent nothing."""
    async with blackhole() as hole, raw_upstream() as good:
        async with pools.gateway_to(hole, good, retry=fast(per_try=SHORT)) as gw:
            answer = await gw.ask(method, body=body)

        assert answer.status == 200
        assert [request.body for request in good.requests] == [body]


async def test_a_large_body_is_untouched_and_streamed(pools):
    """F1: of a body that no memory should hold, no byte was taken by the first."""
    size = 8 * 1024 * 1024
    received = 0

    async def count(reader, writer):
        nonlocal received
        while received < size:
            received += len(await reader.read(65536))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with refusing() as gone, raw_upstream(count) as good:
        async with pools.gateway_to(gone, good) as gw, gw.client() as client:
            await client.send(gw.head("POST", "/x", f"Content-Length: {size}"))
            for _ in range(size // 65536):
                await client.send(b"x" * 65536)

            assert (await client.answer()).status == 200
        assert received == size


async def test_a_chunked_body_is_untouched(pools):
    """F1: its framing and its bytes arrive at the second."""
    async with refusing() as gone, raw_upstream() as good:
        async with pools.gateway_to(gone, good) as gw, gw.client() as client:
            await client.send(gw.head("POST", "/x", "Transfer-Encoding: chunked"))
            await client.send(b"5\r\nhello\r\n")
            await client.send(b"6\r\n world\r\n0\r\n\r\n")

            assert (await client.answer()).status == 200
        body = good.last.body
        assert b"".join(body.split(b"\r\n")[1::2]) == b"hello world"


async def test_a_client_that_waits_for_100_continue_is_told_once(pools):
    """F1: it is asked for its body by the upstream that takes it."""
    async with refusing() as gone, raw_upstream() as good:
        async with pools.gateway_to(gone, good) as gw, gw.client() as client:
            headers = ("Expect: 100-continue", "Content-Length: 5")
            await client.send(gw.head("POST", "/x", *headers))
            await client.until(b"HTTP/1.1 100 ")
            await client.send(b"hello")

            assert (await client.answer()).status == 200
            assert client.received.count(b"HTTP/1.1 100 ") == 1
        assert good.last.body == b"hello"


async def test_a_body_that_a_dependency_has_read_is_sent(pools):
    """F1: however large, because it is kept anyway."""
    seen = []

    async def read(request: Request) -> None:
        seen.append(len(await request.body()))

    app = FastAPI(dependencies=[Depends(read)])
    body = b"x" * 200_000
    async with refusing() as gone, raw_upstream() as good:
        pool = UpstreamPool([gone, good.url], balancer=first)
        app.include_router(ProxyRouter(pool))
        async with serve(app) as served:
            answer = await get_raw(served, method="POST", body=body)

        assert status(answer) == 200
        assert (seen, good.last.body) == ([len(body)], body)


async def test_all_are_tried_before_the_client_is_told(pools):
    """F1: then the answer is that of the last, 502."""
    async with refusing() as one, refusing() as two, refusing() as three:
        async with pools.gateway_to(one, two, three) as gw:
            answer = await gw.ask("POST", body=b"hello")

        assert answer.status == 502
        assert [each.requests for each in (one, two, three)] == [1, 1, 1]


async def test_there_are_no_more_tries_than_attempts(pools):
    """The first is one of them."""
    async with refusing() as one, refusing() as two, raw_upstream() as three:
        async with pools.gateway_to(one, two, three, retry=fast(attempts=2)) as gw:
            assert (await gw.ask()).status == 502

        assert (one.requests, two.requests, three.connections) == (1, 1, 0)


async def test_a_single_attempt_is_no_retry(pools):
    """As if the pool had one upstream."""
    async with refusing() as gone, raw_upstream() as good:
        async with pools.gateway_to(gone, good, retry=fast(attempts=1)) as gw:
            assert (await gw.ask()).status == 502

        assert good.connections == 0


async def test_a_name_that_is_not_found_is_made_good(pools):
    """F25: nothing was sent."""
    async with raw_upstream() as good:
        nowhere = Upstream("http://name.invalid:80")
        async with pools.gateway_to(nowhere, good) as gw:
            assert (await gw.ask("POST", body=b"hello")).status == 200


async def test_a_full_transport_is_made_good(pools):
    """A turn for a connection that does not come is our fault, and another upstream has some."""
    async with holding() as busy, raw_upstream() as good:
        transport = HTTP1Transport(limits=ConnectionLimits(max_connections=1))
        full = Upstream(busy.url, transport=transport)
        async with pools.gateway_to(full, good, timeout=Timeout(pool=SHORT)) as gw:
            async with connected(gw.served) as client:
                await client.send(gw.head())
                async with asyncio.timeout(5):
                    await busy.received.wait()
                answer = await gw.ask("POST", body=b"hello")
                busy.go.set()
                assert (await client.answer()).status == 200

        assert answer.status == 200
        assert len(good.requests) == 1
        assert full.failures == 0
