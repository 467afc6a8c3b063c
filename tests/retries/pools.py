"""Gateways to pools of several upstreams, and what has to hold when they are done."""

import asyncio
import contextlib
import gc
import socket
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, WebSocket

from fastapi_proxy_router import (
    METHODS,
    HTTP1Transport,
    ProxyRouter,
    Retry,
    Upstream,
    UpstreamPool,
    proxy_pass,
    proxy_pass_websocket,
)
from tests.faults.client import Asked
from tests.faults.settling import Settled, _ended, _exchanges, descriptors, until
from tests.faults.upstreams import gate
from tests.servers import OK, RawRequest, RawUpstream, Script, Served, raw_upstream, serve

#: The ways to an upstream: past FastAPI, through it, and from an endpoint of one's own.
WAYS = ("straight", "dependency", "by hand")

#: Soon enough for a test, and late enough for a machine that is busy.
SHORT = 0.4


#: What granian opens when it comes to it, later than it listens.
_LATER = Counter({"anon_inode:[eventpoll]": 2, "anon_inode:[eventfd]": 2})


def first(upstreams: Sequence[Upstream], _connection: object) -> Upstream:
    """Pick the first, so that a test knows who is asked."""
    return upstreams[0]


async def nothing() -> None:
    """Be a dependency."""


class Gateway(Asked):
    """A gateway to a pool."""

    def __init__(self, served: Served, pool: UpstreamPool) -> None:
        super().__init__(served)
        self.pool = pool

    def idle(self) -> bool:
        """Tell whether nothing is counted or kept for any exchange."""
        pool = self.pool
        return (
            pool.in_flight == 0
            and not pool.waiting
            and all(
                one.in_flight == 0 and not one.health.on_trial and _is_idle(one.transport)
                for one in pool.upstreams
            )
        )


def _is_idle(transport: object) -> bool:
    """Tell whether no connection of ours is used, opened or waited for."""
    if not isinstance(transport, HTTP1Transport):
        return True
    return all(
        pool._open == set(pool._idle) and not pool._opening and not pool._waiters
        for pool in transport._pools.values()
    )


class Pools(Settled):
    """The invariants, for gateways to pools."""

    @asynccontextmanager
    async def gateway_to(
        self,
        *upstreams: Upstream | RawUpstream,
        server: str = "uvicorn-httptools",
        way: str = "straight",
        prefix: str = "",
        **options: Any,
    ) -> AsyncIterator[Gateway]:
        """Serve a gateway to *upstreams*, which are asked in this order, and check it at the end.

        Args:
            upstreams: Where it forwards to.
            server: The ASGI server.
            way: How; one of ``WAYS``.
            prefix: The prefix of the catch-all.
            options: The pool's.
        """
        options.setdefault("balancer", first)
        members = [one if isinstance(one, Upstream) else Upstream(one.url) for one in upstreams]
        pool = UpstreamPool(members, **options)
        opened = descriptors()
        async with serve(_app(pool, way, prefix), server) as served:
            self._of_servers += descriptors() - opened
            if server == "granian":
                self._of_servers += _LATER
            gateway, running = Gateway(served, pool), _exchanges()
            yield gateway
            # Not only because the server stops.
            await _ended(lambda: _exchanges() - running)
            await until(gateway.idle, lambda: f"not idle: {pool!r} {pool.upstreams!r}")
            # What was left without being closed complains now, not in a later test.
            gc.collect(1)


def _app(pool: UpstreamPool, way: str, prefix: str) -> FastAPI:
    if way != "by hand":
        app = FastAPI(dependencies=[Depends(nothing)] if way == "dependency" else None)
        app.include_router(ProxyRouter(pool, prefix=prefix))
        return app
    app = FastAPI()
    # Its routes come after the endpoint's, but its lifespan closes what the pool has opened.
    proxy = ProxyRouter(pool, prefix="/unused")

    @app.api_route(f"{prefix}/{{path:path}}", methods=list(METHODS))
    async def forward(request: Request, upstream: Annotated[Upstream, Depends(pool)]):
        return await proxy_pass(request, upstream)

    @app.websocket(f"{prefix}/{{path:path}}")
    async def relay(websocket: WebSocket, upstream: Annotated[Upstream, Depends(pool)]):
        await proxy_pass_websocket(websocket, upstream)

    app.include_router(proxy)
    return app


@asynccontextmanager
async def refusing() -> AsyncIterator[Upstream]:
    """Return an upstream that refuses connections."""
    async with gate(backlog=None) as entrance:
        yield Upstream(entrance.upstream.url)


@asynccontextmanager
async def blackhole() -> AsyncIterator[Upstream]:
    """Return an upstream to which a connection never stands."""
    async with gate(backlog=0) as entrance:
        with contextlib.ExitStack() as stack:
            for _ in range(4):
                filler = stack.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", entrance.upstream.port))
            yield Upstream(entrance.upstream.url)


@asynccontextmanager
async def closing(after: int = 0) -> AsyncIterator[RawUpstream]:
    """Listen, read a request's head and *after* bytes of its body, and close."""

    async def script(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(after)

    async with raw_upstream(script) as upstream:
        yield upstream


@asynccontextmanager
async def silent() -> AsyncIterator[RawUpstream]:
    """Listen, read what comes, and never answer."""

    async def script(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            pass

    async with raw_upstream(script) as upstream:
        yield upstream


class Holding(RawUpstream):
    """An upstream that answers when it is told to."""

    def __init__(self) -> None:
        super().__init__(0)
        self.go = asyncio.Event()
        #: Those that wait for an answer.
        self.held = 0


@asynccontextmanager
async def holding(answer: bytes = OK) -> AsyncIterator[Holding]:
    """Answer every request with *answer*, but not before ``go`` is set."""
    held = Holding()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            held.requests.append(upstream.requests[-1])
            held.received.set()
            held.held += 1
            await held.go.wait()
            held.held -= 1
            writer.write(answer)
            await writer.drain()
            upstream.requests.append(RawRequest((await reader.readuntil(b"\r\n\r\n"))[:-4]))

    async with raw_upstream(script) as upstream:
        held.port = upstream.port
        held.closed = upstream.closed
        yield held


def answering(status: str, body: bytes = b"", *headers: str) -> bytes:
    """Return a response."""
    lines = (f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", "")
    return "\r\n".join(lines).encode() + body


def script_of(*answers: bytes) -> Script:
    """Answer the n-th request of all with the n-th answer, the last one for ever."""
    left = list(answers)

    async def script(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(left.pop(0) if len(left) > 1 else left[0])
        await writer.drain()

    return script


def fast(**options: Any) -> Retry:
    """Return a ``Retry`` that hardly waits between two tries."""
    return Retry(**{"backoff": 0.001, **options})


async def true(condition: Any, what: str = "") -> None:
    """Wait until *condition* holds."""
    await until(condition, lambda: what or repr(condition))
