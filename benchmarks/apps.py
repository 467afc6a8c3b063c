"""The contenders in Python: each one an ASGI app in front of one upstream, in a process of its own.

    python -m benchmarks.apps router http://127.0.0.1:9000      prints its port and serves

A function imports what it needs, so that a process has in it only what it measures.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response, WebSocket
from starlette.types import ASGIApp, Receive, Scope, Send

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


async def answer() -> dict[str, str]:
    return {"message": "Hello World"}


def hello(_url: str) -> FastAPI:
    """FastAPI's own hello world: no proxy, no upstream."""
    app = FastAPI()
    app.get("/")(answer)
    return app


def hello_100_routes(_url: str) -> FastAPI:
    """Put the hello world behind 100 routes that do not match, as in ``router_100_routes``."""
    app = FastAPI()
    add_routes(app)
    app.get("/")(answer)
    return app


def router(url: str) -> FastAPI:
    """Build this library's gateway, as in its README."""
    from fastapi_proxy_router import ProxyRouter

    app = FastAPI()
    app.include_router(ProxyRouter(url))
    return app


def router_100_routes(url: str) -> FastAPI:
    """Put 100 routes that do not match before the catch-all."""
    from fastapi_proxy_router import ProxyRouter

    app = FastAPI()
    add_routes(app)
    app.include_router(ProxyRouter(url))
    return app


def router_100_upstreams(url: str) -> FastAPI:
    """Put 100 addresses of the upstream in one pool: 127.0.0.1 to 127.0.0.100."""
    from fastapi_proxy_router import ProxyRouter

    app = FastAPI()
    app.include_router(
        ProxyRouter([url.replace("127.0.0.1", f"127.0.0.{number}") for number in range(1, 101)])
    )
    return app


def router_3_upstreams(url: str) -> FastAPI:
    """Put three addresses of the upstream in one pool."""
    return _three(url, [url.replace("127.0.0.1", "127.0.0.3")])


def router_black_hole(url: str) -> FastAPI:
    """Put a listener in the third place that lets nobody connect: its queue is full."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    address = listener.getsockname()
    _open.append(listener)
    for _ in range(4):
        client = socket.socket()
        client.settimeout(0)
        client.connect_ex(address)
        _open.append(client)
    return _three(url, [f"http://127.0.0.1:{address[1]}"])


#: What stays open until the process ends.
_open: list[socket.socket] = []


def _three(url: str, third: list[str]) -> FastAPI:
    from fastapi_proxy_router import ProxyRouter

    app = FastAPI()
    app.include_router(ProxyRouter([url, url.replace("127.0.0.1", "127.0.0.2"), *third]))
    return app


def add_routes(app: FastAPI) -> None:
    for number in range(100):
        app.get(f"/service-{number}/{{item}}")(answer)


async def _echo(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "websocket":
        raise NotImplementedError(scope["type"])
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


def echo(_url: str) -> ASGIApp:
    """Return each message of a WebSocket: no proxy, no upstream, no FastAPI."""
    return _echo


def reverse_proxy(url: str) -> FastAPI:
    """Build fastapi-reverse-proxy's gateway, as in its README."""
    from fastapi_reverse_proxy import Proxy, proxy_pass, proxy_pass_websocket

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with Proxy(app):
            yield

    app = FastAPI(lifespan=lifespan)

    @app.api_route("/{path:path}", methods=METHODS)
    async def index(request: Request) -> Any:
        return await proxy_pass(request, url)

    @app.websocket("/{path:path}")
    async def index_websocket(websocket: WebSocket) -> None:
        await proxy_pass_websocket(websocket, url)

    return app


def proxy_lib(url: str) -> FastAPI:
    """Build fastapi-proxy-lib's gateway, as in its README."""
    from fastapi_proxy_lib.fastapi.app import reverse_http_app

    app: FastAPI = reverse_http_app(base_url=f"{url}/")
    return app


def proxy_lib_websocket(url: str) -> FastAPI:
    """Build fastapi-proxy-lib's gateway for WebSockets; httpx allows 100 connections by default."""
    import httpx
    from fastapi_proxy_lib.fastapi.app import reverse_ws_app

    client = httpx.AsyncClient(limits=httpx.Limits(max_connections=None))
    app: FastAPI = reverse_ws_app(client, base_url=f"{url.replace('http', 'ws', 1)}/")
    return app


def snippet(url: str) -> FastAPI:
    """Build the gateway of the StackOverflow answer 74556972."""
    import httpx
    from fastapi.responses import StreamingResponse
    from starlette.background import BackgroundTask

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with httpx.AsyncClient(base_url=url) as client:
            app.state.client = client
            yield

    async def forward(request: Request) -> Response:
        client = request.app.state.client
        target = httpx.URL(path=request.url.path, query=request.url.query.encode())
        outgoing = client.build_request(
            request.method, target, headers=request.headers.raw, content=request.stream()
        )
        incoming = await client.send(outgoing, stream=True)
        return StreamingResponse(
            incoming.aiter_raw(),
            status_code=incoming.status_code,
            headers=incoming.headers,
            background=BackgroundTask(incoming.aclose),
        )

    app = FastAPI(lifespan=lifespan)
    app.add_route("/{path:path}", forward, METHODS)
    return app


APPS: dict[str, Callable[[str], ASGIApp]] = {
    app.__name__: app
    for app in (
        router,
        router_100_routes,
        router_100_upstreams,
        router_3_upstreams,
        router_black_hole,
        reverse_proxy,
        proxy_lib,
        proxy_lib_websocket,
        snippet,
        hello,
        echo,
        hello_100_routes,
    )
}


def serve(app: ASGIApp) -> None:
    import uvicorn

    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=1,
    )
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    serve(APPS[sys.argv[1]](sys.argv[2]))
