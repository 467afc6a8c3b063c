"""Endpoints that forward with changes of a test's, and what came of it."""

import asyncio
import gc
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, Response

from fastapi_proxy_router import METHODS, ForwardedResponse, ProxyRouter, Upstream, UpstreamPool
from fastapi_proxy_router.client import ClientStream
from fastapi_proxy_router.core.changes import NO_CHANGES, Changes, Transform
from fastapi_proxy_router.failover import Forwarding
from fastapi_proxy_router.forwarder import send_request
from tests.faults.settling import _ended, _exchanges, descriptors, until
from tests.retries.pools import _LATER, Gateway, Pools, first
from tests.servers import RawUpstream, Script, Served, serve

MIB = 1024 * 1024
HELLO = b"hello hello hello"
GZIPPED = gzip.compress(HELLO, mtime=0)

#: What an endpoint does with the response before it returns it, or another.
Then = Callable[[ForwardedResponse], Awaitable[Response | None]]


class Streaming(Gateway):
    """A gateway, and what its application has raised to the server."""

    def __init__(self, served: Served, pool: UpstreamPool, raised: list[BaseException]) -> None:
        super().__init__(served, pool)
        self.raised = raised

    def blamed(self) -> int:
        """Return how many failures are counted against the upstreams."""
        return sum(one.failures for one in self.pool.upstreams)


class Streams(Pools):
    """The invariants, for gateways whose endpoint changes bodies."""

    @asynccontextmanager
    async def gateway_with(
        self,
        *upstreams: Upstream | RawUpstream,
        changes: Changes = NO_CHANGES,
        then: Then | None = None,
        server: str = "uvicorn-httptools",
        app: FastAPI | None = None,
        **options: Any,
    ) -> AsyncIterator[Streaming]:
        """Serve a gateway to *upstreams*, and check at the end that nothing is left.

        Args:
            upstreams: Where it forwards to, in this order.
            changes: The override of every request.
            then: What is done with every response.
            server: The ASGI server.
            app: The application, where it is another; it finds the pool in its state.
            options: The pool's.
        """
        options.setdefault("balancer", first)
        members = [one if isinstance(one, Upstream) else Upstream(one.url) for one in upstreams]
        pool = UpstreamPool(members, **options)
        raised: list[BaseException] = []
        if app is None:
            app = FastAPI()
            _forward_all(app, pool, changes, then)
        app.state.pool = pool
        # Its lifespan closes what the pool has opened.
        app.include_router(ProxyRouter(pool, prefix="/unused"))
        opened = descriptors()
        async with serve(_noting(app, raised), server) as served:
            self._of_servers += descriptors() - opened
            if server == "granian":
                self._of_servers += _LATER
            gateway, running = Streaming(served, pool, raised), _exchanges()
            yield gateway
            await _ended(lambda: _exchanges() - running)
            await until(gateway.idle, lambda: f"not idle: {pool!r} {pool.upstreams!r}")
            gc.collect(1)


def _forward_all(app: FastAPI, pool: UpstreamPool, changes: Changes, then: Then | None) -> None:
    @app.api_route("/{path:path}", methods=list(METHODS))
    async def forward(request: Request, upstream: Annotated[Upstream, Depends(pool)]) -> Response:
        response = await send_request(request, upstream, changes=changes)
        if then is None:
            return response
        return await then(response) or response


def _noting(app: Any, raised: list[BaseException]) -> Any:
    async def noting(scope: Any, receive: Any, send: Any) -> None:
        try:
            await app(scope, receive, send)
        except Exception as error:
            raised.append(error)
            raise

    return noting


def transformed_by(*transforms: Transform) -> Then:
    """Return what sends the response through *transforms*."""

    async def then(response: ForwardedResponse) -> None:
        for transform in transforms:
            response.transform(transform)

    return then


async def upper(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Be a transform: capital letters."""
    async for chunk in chunks:
        yield chunk.upper()


async def same(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Be a transform: nothing changes."""
    async for chunk in chunks:
        yield chunk


class Noted:
    """A transform that notes when it begins, what it reads, and that it is closed."""

    def __init__(self) -> None:
        self.began = 0
        self.read: list[bytes] = []
        self.closed = asyncio.Event()
        self.raised: list[BaseException] = []

    async def __call__(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        self.began += 1
        try:
            async for chunk in chunks:
                self.read.append(chunk)
                yield chunk
        except BaseException as error:
            self.raised.append(error)
            raise
        finally:
            self.closed.set()


async def call(
    upstream: Upstream,
    *parts: bytes,
    changes: Changes = NO_CHANGES,
    transforms: tuple[Transform, ...] = (),
    **scope: Any,
) -> list[dict[str, Any]]:
    """Forward a request as a server would ask for it, and return what it would send.

    Args:
        upstream: Where to.
        parts: The messages of the request's body.
        changes: The override.
        transforms: What the response's body passes through.
        scope: What is said of the request.
    """
    sent: list[dict[str, Any]] = []
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    messages[-1:] = [{**message, "more_body": False} for message in messages[-1:]]
    defaults = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "headers": [(b"host", b"x")],
        "client": ("127.0.0.1", 1),
        "scheme": "http",
    }

    async def receive() -> Any:
        return messages.pop(0) if messages else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    client = ClientStream({**defaults, **scope}, receive)
    try:
        exchange = await Forwarding(client, upstream, changes=changes).open()
        await exchange.relay(send, exchange.status, exchange.headers, transforms)
    finally:
        await client.aclose()
    return sent


def in_chunks(*parts: bytes, end: bool = True) -> bytes:
    """Return *parts* in chunks."""
    body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return body + b"0\r\n\r\n" if end else body


def out_of_chunks(body: bytes) -> bytes:
    """Return what the chunks of *body* hold."""
    data = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        data += body[:length]
        body = body[length + 2 :]
    return data


def answer_of(*headers: str, body: bytes = b"", status: str = "200 OK") -> bytes:
    """Return a response with *body* and its length."""
    lines = (f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", "")
    return "\r\n".join(lines).encode() + body


def parts_of(*parts: bytes, after: asyncio.Event | None = None, stay: bool = False) -> Script:
    """Answer with the first of *parts*, wait for *after*, send the rest, and close."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for index, part in enumerate(parts):
            if index and after is not None:
                await after.wait()
            writer.write(part)
            await writer.drain()
        while stay and await reader.read(65536):
            pass

    return script
