"""Upstreams of the examples, and how to connect to what is served."""

import websockets
from fastapi import FastAPI, Request, WebSocket
from starlette.routing import Router

from tests.servers import Served, serve


def named(name: str) -> FastAPI:
    """Return an upstream that says its name and what it was asked, and echoes WebSockets."""
    app = FastAPI()

    @app.api_route("/{path:path}", methods=["GET", "POST"])
    async def answer(request: Request):
        return {
            "name": name,
            "target": request.scope["raw_path"].decode(),
            "headers": dict(request.headers),
            "body": (await request.body()).decode(),
        }

    @app.websocket("/{path:path}")
    async def echo(websocket: WebSocket):
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(f"{name}: {text}")

    return app


def connect(served: Served, path: str = "/", **options) -> websockets.connect:
    return websockets.connect(f"{served.ws}{path}", proxy=None, open_timeout=10, **options)


async def closed_port() -> str:
    """Return a URL that nobody listens on any more."""
    async with serve(Router(), lifespan="off") as gone:
        return gone.url
