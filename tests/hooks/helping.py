"""What the tests of hooks share: applications, answers, and what has to hold when all is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI

from fastapi_proxy_router import HeaderEdits, ProxyRouter, RequestOverride, UpstreamPool
from tests.servers import RawUpstream, Served, raw_upstream, serve

#: Seconds after which something is late that a test waits for.
SOON = 5.0


def app_of(*routers: Any, **including: Any) -> FastAPI:
    """Return an application with all of *routers*."""
    app = FastAPI()
    for router in routers:
        app.include_router(router, **including)
    return app


def answering(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """Return a whole response of an upstream's; its length is told."""
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def json_answer(text: str, *headers: str, status: str = "200 OK") -> bytes:
    """Return a response with JSON."""
    return answering(text.encode(), "Content-Type: application/json", *headers, status=status)


def text(answer: bytes) -> bytes:
    """Return the body of a raw answer that says its length."""
    return answer.partition(b"\r\n\r\n")[2]


def lines(answer: bytes, name: str) -> list[str]:
    """Return the value of every line of a header in a raw answer."""
    head = answer.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
    pairs = (line.partition(":") for line in head)
    return [value.strip() for key, _, value in pairs if key.lower() == name]


def tell(**values: Any) -> RequestOverride:
    """Tell the upstream what a hook has got, in headers."""
    shown = {f"x-{name}": str(value) for name, value in values.items()}
    return RequestOverride(headers=HeaderEdits(set=shown))


async def until(condition: Callable[[], Any], seconds: float = SOON) -> None:
    """Wait until *condition* holds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def proxied(
    answer: Any = None, server: str = "uvicorn-httptools", **options: Any
) -> AsyncIterator[Proxied]:
    """Give a router with one upstream to declare hooks on; ``serve`` it then.

    When the block ends, nobody may be in flight, and nobody may have been blamed.
    """
    async with raw_upstream(*([] if answer is None else [answer])) as upstream:
        pool = UpstreamPool(upstream.url)
        one = Proxied(ProxyRouter(pool, **options), pool, upstream, server)
        yield one
        await until(lambda: not any(member.in_flight for member in pool.upstreams))


class Proxied:
    """A router in front of one upstream."""

    def __init__(
        self, router: ProxyRouter, pool: UpstreamPool, upstream: RawUpstream, server: str
    ) -> None:
        self.router = router
        self.pool = pool
        self.upstream = upstream
        self._server = server

    @asynccontextmanager
    async def serve(self, app: Any = None, **options: Any) -> AsyncIterator[Served]:
        """Serve the router, in *app* or one of its own."""
        async with serve(app or app_of(self.router), self._server, **options) as gateway:
            yield gateway


@asynccontextmanager
async def client_of(gateway: Served) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client."""
    async with httpx.AsyncClient(base_url=gateway.url) as client:
        yield client
