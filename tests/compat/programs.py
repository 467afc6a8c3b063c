"""Programs written for fastapi-reverse-proxy, with our import, and upstreams for them."""

# No postponed annotations here: FastAPI reads those of functions inside functions.

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI, Request, WebSocket

from fastapi_proxy_router.compat import Proxy, proxy_pass, proxy_pass_websocket
from tests.servers import RawRequest, get_raw, raw_upstream, serve, status

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"]


def application(**options: Any) -> FastAPI:
    """Return an app with a ``Proxy`` for as long as it lives."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with Proxy(app, **options):
            yield

    return FastAPI(lifespan=lifespan)


def passing(host: str, app: FastAPI | None = None, **arguments: Any) -> FastAPI:
    """Return an app that passes everything to *host*; a *path* may be a function of the rest."""
    app = app or application()

    @app.api_route("/{rest:path}", methods=METHODS)
    async def passed(request: Request, rest: str):
        return await proxy_pass(request, host, **_filled(arguments, rest))

    @app.websocket("/{rest:path}")
    async def relayed(websocket: WebSocket, rest: str):
        await proxy_pass_websocket(websocket, host, **_filled(arguments, rest))

    return app


def _filled(arguments: dict[str, Any], rest: str) -> dict[str, Any]:
    path = arguments.get("path")
    return {**arguments, "path": path(rest)} if callable(path) else arguments


async def received(
    target: str = "/x", *headers: str, base: str = "", body: bytes = b"", **arguments: Any
) -> RawRequest:
    """Return what an upstream receives of one request that is passed on with *arguments*."""
    method = arguments.pop("as_method", "GET")
    async with raw_upstream() as upstream, serve(passing(upstream.url + base, **arguments)) as gw:
        answer = await get_raw(gw, target, *headers, method=method, body=body)
        assert status(answer) == 200, answer
    return upstream.last


def named(name: str) -> FastAPI:
    """Return an upstream that says its name and what it was asked, and echoes WebSockets."""
    app = FastAPI()

    @app.api_route("/{path:path}", methods=METHODS)
    async def answer(request: Request):
        return {
            "name": name,
            "method": request.method,
            "target": request.scope["raw_path"].decode(),
            "body": (await request.body()).decode(),
        }

    @app.websocket("/{path:path}")
    async def echo(websocket: WebSocket):
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(f"{name}: {text}")

    return app


@asynccontextmanager
async def client_of(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """Return a client of a gateway."""
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=10) as client:
        yield client


async def closed_port() -> str:
    """Return a URL that nobody listens on any more."""
    async with raw_upstream() as gone:
        return gone.url
