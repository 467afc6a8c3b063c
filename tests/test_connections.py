"""What one exchange leaves behind on its connection, and how much an upstream may make us hold."""

import asyncio
import ssl
from contextlib import asynccontextmanager

import httpx
import pytest
import trustme
from fastapi import Depends, FastAPI, Request, Response
from starlette.middleware.base import BaseHTTPMiddleware

from fastapi_proxy_router import ProxyRouter, Timeout, Upstream, UpstreamPool, proxy_pass
from fastapi_proxy_router.core.policy import Deadlines
from fastapi_proxy_router.core.upstream import Origin
from fastapi_proxy_router.transport import ConnectionLimits, HTTP1Transport, RawRequest
from fastapi_proxy_router.transport.parser import ResponseParser
from tests.servers import OK, get_raw, raw_upstream, serve, status

pytestmark = pytest.mark.anyio

LARGE = b"HTTP/1.1 503 Busy\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000
GET = RawRequest("GET", b"/", [(b"host", b"x")], b"")


def gateway(upstream: str | Upstream | UpstreamPool) -> FastAPI:
    app = FastAPI()
    app.include_router(ProxyRouter(upstream))
    return app


async def test_a_large_response_that_nobody_read_does_not_stall_the_next():
    """An endpoint may look at the status alone; the next request is answered all the same."""
    sent = asyncio.Event()

    async def script(reader, writer):
        while True:
            writer.write(LARGE if b"/large" in upstream.last.line else OK)
            await writer.drain()
            sent.set()
            upstream.requests.append(type(upstream.last)(await reader.readuntil(b"\r\n\r\n")))

    async with raw_upstream(script) as upstream:
        pool = UpstreamPool(upstream.url, timeout=Timeout(response=3))
        app = gateway(pool)

        @app.get("/large")
        async def large(request: Request) -> Response:
            response = await proxy_pass(request, pool.upstreams[0])
            await sent.wait()
            # All of it is here by now, or is read in these turns of the event loop.
            for _ in range(20):
                await asyncio.sleep(0)
            return Response("fallback") if response.status_code == 503 else response

        app.router.routes.insert(0, app.router.routes.pop())
        async with serve(app) as gw:
            assert (await get_raw(gw, "/large")).endswith(b"fallback")
            assert status(await get_raw(gw, "/small")) == 200


async def test_a_turn_that_comes_as_the_request_is_cancelled():
    """Whoever cancels a request that waits for a connection sees a cancellation, nothing else."""
    async with raw_upstream() as upstream:
        origin = Origin("http", upstream.host, upstream.port)
        transport = HTTP1Transport(limits=ConnectionLimits(max_connections=1))
        held = await transport.exchange(origin, GET, Deadlines())
        waiting = asyncio.create_task(transport.exchange(origin, GET, Deadlines()))
        await asyncio.sleep(0)
        waiting.cancel()
        await held.next_chunk()
        await held.aclose()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        again = await transport.exchange(origin, GET, Deadlines())
        assert await again.next_chunk() == b"ok"
        await again.aclose()
        await transport.aclose()


@pytest.mark.parametrize("flood", [b"X-Trailer: y\r\n", b"y" * 1000], ids=["many", "long"])
async def test_trailers_without_end_are_refused(flood):
    """They are limited like a head, so an upstream cannot fill the memory with them."""
    sent = 0

    async def script(_reader, writer):
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Trailer: ")
        while True:
            writer.write(flood * 100)
            await writer.drain()
            sent += 100 * len(flood)
            assert sent < 50_000_000

    async with raw_upstream(script) as upstream, serve(gateway(upstream.url)) as gw:
        answer = await get_raw(gw)

    assert status(answer) == 200
    assert not answer.endswith(b"0\r\n\r\n")


def test_the_headers_of_a_second_response_are_no_trailers():
    """What follows a response belongs to nobody."""
    parser = ResponseParser(ConnectionLimits())
    parser.begin(to_head=False)
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Ours: 1\r\n\r\n"
    parser.feed(head + b"HTTP/1.1 200 OK\r\nSet-Cookie: theirs=1\r\nContent-Length: 0\r\n\r\n")
    assert parser.complete
    assert parser.trailers == [(b"X-Ours", b"1")]
    assert not parser.reusable


@asynccontextmanager
async def tls_upstream(*, orderly: bool):
    """Answer with a body that lasts until the end, which TLS announces or a cut makes."""
    authority = trustme.CA()
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server_side)
    client_side = ssl.create_default_context()
    authority.configure_trust(client_side)

    async def script(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")
        await writer.drain()
        if not orderly:
            # Below TLS, so that it does not say goodbye.
            writer.transport.get_extra_info("socket")._sock.shutdown(1)
            await reader.read()

    transport = HTTP1Transport(verify=client_side)
    async with raw_upstream(script, ssl=server_side) as raw:
        yield Upstream(f"https://localhost:{raw.port}", transport=transport)
        await transport.aclose()


@pytest.mark.parametrize("orderly", [True, False], ids=["close_notify", "cut"])
async def test_a_body_that_ends_with_a_tls_connection(orderly):
    """Only an end that TLS announces is one: a TCP connection may be cut by anybody."""
    async with tls_upstream(orderly=orderly) as upstream, serve(gateway(upstream)) as gw:
        answer = await get_raw(gw)

    assert b"until the end" in answer
    assert answer.endswith(b"0\r\n\r\n") is orderly


async def test_an_error_of_others_does_not_end_a_response_cleanly():
    """What a middleware raises from receive() drops the connection, behind any middleware."""

    class Through(BaseHTTPMiddleware):
        async def dispatch(self, request, call_next):
            return await call_next(request)

    class Limit:
        def __init__(self, app):
            self.app = app

        async def __call__(self, scope, receive, send):
            async def limited():
                message = await receive()
                if b"too much" in message.get("body", b""):
                    raise ValueError("too much")
                return message

            await self.app(scope, limited, send)

    async def script(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
        await reader.read()

    async with raw_upstream(script) as upstream:
        app = gateway(upstream.url)
        app.add_middleware(Limit)
        app.add_middleware(Through)
        async with serve(app) as gw, asyncio.timeout(10):
            reader, writer = await asyncio.open_connection(gw.host, gw.port)
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            await reader.readuntil(b"half\r\n")
            writer.write(b"8\r\ntoo much\r\n")
            assert await reader.read() == b""
            writer.close()


async def test_the_time_to_send_a_kept_body_is_not_that_to_answer():
    """The deadline for the head runs from the end of the request, also of a body at hand."""
    size = 20_000_000
    received, began = asyncio.Event(), asyncio.Event()

    async def keep(request: Request) -> None:
        assert len(await request.body()) == size

    async def slow(reader, writer):
        left = size - len(await reader.read(1))
        began.set()
        await received.wait()
        while left:
            left -= len(await reader.read(left))
        writer.write(OK)
        await writer.drain()
        await reader.read()

    async with raw_upstream(slow) as upstream:
        app = FastAPI()
        pool = UpstreamPool(upstream.url, timeout=Timeout(response=0.5))
        app.include_router(ProxyRouter(pool, dependencies=[Depends(keep)]))
        async with serve(app) as gw, httpx.AsyncClient(base_url=gw.url, timeout=20) as client:
            putting = asyncio.create_task(client.put("/", content=b"x" * size))
            await began.wait()
            # Longer than the deadline; a request that failed meanwhile would be done.
            await asyncio.wait([putting], timeout=1)
            received.set()
            assert (await putting).status_code == 200
