"""A client takes its time, or goes another way than most: upstreams are not judged by that."""

import asyncio
import contextlib
from typing import Any

import pytest
from websockets.frames import Opcode

from fastapi_proxy_router import (
    ConnectionLimits,
    HTTP1Transport,
    Timeout,
    Upstream,
    UpstreamPool,
    forward,
)
from fastapi_proxy_router.transport import close_transports
from tests.retries.pools import SHORT, fast, first, holding, silent, true
from tests.servers import raw_upstream
from tests.websocket.wire import small_listener, wire_client, wire_upstream

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("pools")]


async def test_a_slow_upload_is_not_latency(pools):
    """The upstream has answered at once when it had the body."""
    async with raw_upstream() as good, pools.gateway_to(good) as gw, gw.client() as client:
        await client.send(gw.head("PUT", "/x", "Content-Length: 4"))
        for sign in b"body":
            await asyncio.sleep(SHORT / 2)
            await client.send(bytes([sign]))
        assert (await client.answer()).status == 200

        [upstream] = gw.pool.upstreams
        assert upstream.latency.at(gw.pool.clock()) < SHORT / 2


async def test_the_rest_of_the_total_that_an_upload_leaves_is_too_short_to_blame(pools):
    """An upstream that got its first chance at the very end has not failed."""
    async with silent() as one, pools.gateway_to(one, timeout=Timeout(total=SHORT * 2)) as gw:
        async with gw.client() as client:
            await client.send(gw.head("PUT", "/x", "Content-Length: 4") + b"bod")
            await asyncio.sleep(SHORT * 1.6)
            await client.send(b"y")

            assert (await client.answer()).status == 504
        assert gw.pool.upstreams[0].failures == 0


async def test_a_client_that_opens_a_stream_and_says_nothing_uses_up_no_try():
    """In HTTP/2 nothing announces a body, so that it has to be waited for."""
    said: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    messages: list[Any] = []

    async def send(message):
        messages.append(message)

    scope = {
        "type": "http", "http_version": "2", "method": "PUT", "scheme": "http", "path": "/x",
        "raw_path": b"/x", "root_path": "", "query_string": b"",
        "headers": [(b"host", b"public.test")],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
    }  # fmt: skip
    async with raw_upstream() as good, raw_upstream() as other:
        upstreams = [Upstream(good.url), Upstream(other.url)]
        UpstreamPool(upstreams, balancer=first, retry=fast(per_try=SHORT))
        asyncio.get_running_loop().call_later(
            SHORT * 2.5,
            said.set_result,
            {"type": "http.request", "body": b"hello", "more_body": False},
        )
        await forward(scope, lambda: asyncio.shield(said), send, upstreams[0])

        assert (messages[0]["status"], other.connections) == (200, 0)
        assert [one.failures for one in upstreams] == [0, 0]
        await close_transports(upstreams)


async def test_who_waits_for_a_connection_of_ours_blames_nobody(pools):
    """The transport has one connection, and another client has that."""
    transport = HTTP1Transport(limits=ConnectionLimits(max_connections=1))
    async with holding() as one:
        long, short = (Upstream(one.url, transport=transport) for _ in range(2))
        async with pools.gateway_to(long) as gw, gw.client() as client:
            await client.send(gw.head("GET", "/first"))
            await true(one.received.is_set)
            async with pools.gateway_to(short, retry=fast(per_try=SHORT)) as other:
                assert (await other.ask()).status == 504
                assert short.failures == 0
                one.go.set()
                assert (await client.answer()).status == 200


async def test_an_upstream_that_gives_up_a_client_that_does_not_read_has_not_failed(pools):
    """A server may limit the time in which its client has to take something."""
    gave_up = asyncio.Event()

    async def give_up(_reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.5):
                while True:
                    writer.write(bytes(100_000))
                    await writer.drain()
        writer.transport.abort()
        gave_up.set()

    async with raw_upstream(give_up) as one, pools.gateway_to(one) as gw:
        async with gw.client() as client:
            await client.send(gw.head())
            await client.until(b" 200 ")
            await gave_up.wait()
            answer = await client.answer()
        assert not answer.complete
        assert gw.pool.upstreams[0].failures == 0


async def test_nor_has_one_that_gives_up_a_websocket_whose_client_does_not_read(pools):
    """The gateway does not read it either, so that it may wait for a pong in vain."""
    gave_up = asyncio.Event()

    async def give_up(wire):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.5):
                while True:
                    wire.write(Opcode.BINARY, bytes(100_000))
                    await wire.writer.drain()
        wire.writer.transport.abort()
        gave_up.set()

    async with wire_upstream(give_up, listener=small_listener()) as raw:
        upstream = Upstream(raw.url)
        async with pools.gateway_to(upstream) as gw, wire_client(gw.served) as client:
            await gave_up.wait()
            await client.read_until(Opcode.CLOSE)
        assert (upstream.requests, upstream.failures) == (1, 0)
