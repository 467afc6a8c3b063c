"""Gateways with declared overrides, and what a client gets from them."""

# No postponed annotations here: FastAPI reads those of functions inside functions.

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import Depends, FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from fastapi_proxy_router import ProxyRouter, RouteOverride, UpstreamPool
from tests.health.patient import until
from tests.servers import OK, RawRequest, RawUpstream, Script, Served, raw_upstream, send_raw, serve

#: The ways through a gateway: past FastAPI, through it, and as a path operation with a hook.
WAYS = ("straight", "dependency", "hook")
HOOKED = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")
LIMIT = 10

Declared = RouteOverride | Mapping[str, Any]


async def nothing() -> None:
    """Be a dependency, or a hook that changes nothing."""


def application(
    upstreams: Any,
    *overrides: Declared,
    way: str = "straight",
    include: str = "",
    **options: Any,
) -> FastAPI:
    """Return an application that forwards to *upstreams* with these overrides."""
    router = ProxyRouter(upstreams, overrides=overrides, **options)
    if way == "hook":
        for prefix in router.pools:
            router.override(f"{prefix}/{{any:path}}", methods=HOOKED)(nothing)
    app = FastAPI()
    dependencies = [Depends(nothing)] if way == "dependency" else []
    app.include_router(router, prefix=include, dependencies=dependencies)
    return app


def empty(name: str = "") -> UpstreamPool:
    """Return a pool that has lost its only upstream."""
    pool = UpstreamPool("http://gone.test", name=name)
    pool.remove(pool.upstreams[0])
    return pool


@dataclass
class Got:
    """What a client got: the answer as it stood on the wire."""

    raw: bytes

    @property
    def head(self) -> RawRequest:
        return RawRequest(self.raw.partition(b"\r\n\r\n")[0])

    @property
    def status(self) -> int:
        return int(self.raw.split(b" ", 2)[1])

    @property
    def body(self) -> bytes:
        """The body, out of its chunks if it came in some."""
        body = self.raw.partition(b"\r\n\r\n")[2]
        if self.values("transfer-encoding") != [b"chunked"]:
            return body
        whole, size = b"", -1
        while size:
            line, _, body = body.partition(b"\r\n")
            size = int(line, 16)
            whole, body = whole + body[:size], body[size + 2 :]
        return whole

    def values(self, name: str) -> list[bytes]:
        """Return the value of every line of this name."""
        return self.head.values(name.encode())


@dataclass
class Gateway(Served):
    """A gateway that is served, with the upstream behind it."""

    upstream: RawUpstream = None  # type: ignore[assignment]

    async def get(
        self,
        target: str | bytes = "/",
        *headers: str,
        method: str = "GET",
        body: bytes = b"",
        chunked: bytes = b"",
        host: str = "",
    ) -> Got:
        """Ask for *target* on a connection of its own; *chunked* is a body in its chunks."""
        lines = [f"Host: {host or self.authority}", "Connection: close", *headers]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        if chunked:
            lines.append("Transfer-Encoding: chunked")
        raw = target if isinstance(target, bytes) else target.encode("latin-1")
        start = method.encode() + b" " + raw + b" HTTP/1.1\r\n"
        head = start + "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
        return Got(await send_raw(self, head + body + chunked))

    @property
    def sent(self) -> RawRequest:
        """What the upstream was sent last."""
        return self.upstream.last


class Busy:
    """An application that knows how many requests it is at."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.requests += scope["type"] == "http"
        try:
            await self.app(scope, receive, send)
        finally:
            self.requests -= scope["type"] == "http"

    async def idle(self) -> None:
        """Wait until it is at none: granian leaves what it is in the middle of when it stops."""
        await until(lambda: not self.requests)


@asynccontextmanager
async def gateway(
    *overrides: Declared,
    answer: bytes | Script = OK,
    server: str = "uvicorn-httptools",
    base: str = "",
    upstreams: Any = None,
    **options: Any,
) -> AsyncIterator[Gateway]:
    """Serve overrides before one upstream.

    Args:
        overrides: The overrides.
        answer: What the upstream answers.
        server: The gateway's server.
        base: The base path of the upstream.
        upstreams: Makes of the upstream's URL what the router is given.
        options: Those of ``application``.
    """
    async with raw_upstream(answer) as upstream:
        url = upstream.url + base
        app = application(upstreams(url) if upstreams else url, *overrides, **options)
        busy = Busy(app)
        async with serve(busy, server) as served:
            yield Gateway(served.port, served.host, upstream)
            await busy.idle()


def response(status: int = 200, *headers: str, body: bytes = b"ok") -> bytes:
    """Return an upstream's answer in bytes."""
    lines = [f"HTTP/1.1 {status} -", *headers]
    if status not in (204, 304):
        lines.append(f"Content-Length: {len(body)}")
    else:
        body = b""
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


async def on_one_connection(served: Served, requests: Sequence[bytes]) -> list[Got]:
    """Send requests on one connection, each when the answer before it is here.

    The last has to say ``Connection: close``.
    """
    reader, writer = await asyncio.open_connection(served.host, served.port)
    got = []
    try:
        async with asyncio.timeout(LIMIT):
            for request in requests[:-1]:
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                length = RawRequest(head[:-4]).values(b"content-length")
                got.append(Got(head + await reader.readexactly(int(length[0]))))
            writer.write(requests[-1])
            got.append(Got(await reader.read()))
    finally:
        writer.close()
    return got
