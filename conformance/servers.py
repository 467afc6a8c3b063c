"""What the suite is run against: an echo upstream, and each ASGI server with an echo or our proxy.

    python -m conformance.servers upstream                             prints its port and serves
    python -m conformance.servers hypercorn echo                       the server itself
    python -m conformance.servers hypercorn late                       the same, answering late
    python -m conformance.servers hypercorn proxy http://127.0.0.1:9   our proxy on it

The upstream is websockets' own server. It is no ASGI server, so nothing is compared with itself;
it negotiates compression, with all its parameters; it takes messages of any size in any number of
fragments, and answers in fragments, which the suite alone would not have the proxy read. The ASGI
servers keep their defaults, which are what a user meets.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websockets
from websockets.exceptions import ConnectionClosed
from websockets.typing import Data

from fastapi_proxy_router import ProxyRouter, UpstreamPool, WebSocketOptions

SERVERS = ("uvicorn-sansio", "uvicorn-wsproto", "hypercorn", "granian")
#: Each kind of proxy: what its ``UpstreamPool`` is given, and the servers on which it is tested.
PROXIES: dict[str, tuple[dict[str, Any], Sequence[str]]] = {
    "proxy": ({}, SERVERS),
    "proxy, compressing": (
        {"websocket": WebSocketOptions(compression=True)},
        ("uvicorn-sansio",),
    ),
}
#: The longest fragment of an answer from the upstream, in characters or bytes.
FRAGMENT = 1024
#: Seconds that pass before a late echo, far more than a proxy needs to ask an upstream.
LATE = 0.05


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer each message with the same message: a bare ASGI app."""
    await receive()
    if scope["type"] == "lifespan":
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        kind = "bytes" if message.get("text") is None else "text"
        await send({"type": "websocket.send", kind: message[kind]})


async def late(scope: Scope, receive: Receive, send: Send) -> None:
    """Echo after a while, and read on meanwhile, as an app does that asks somebody else."""
    answers: asyncio.Queue[Message] = asyncio.Queue()
    answering = asyncio.create_task(_answer(answers, send))

    async def put(message: Message) -> None:
        await (answers.put if message["type"] == "websocket.send" else send)(message)

    try:
        await echo(scope, receive, put)
    finally:
        answering.cancel()


async def _answer(answers: asyncio.Queue[Message], send: Send) -> None:
    while True:
        message = await answers.get()
        await asyncio.sleep(LATE)
        await send(message)


def proxy(url: str, options: dict[str, Any]) -> ASGIApp:
    """Build a gateway in front of *url*, as in the README."""
    gateway = FastAPI()
    gateway.include_router(ProxyRouter(UpstreamPool([url], **options)))
    return gateway


async def upstream() -> None:
    """Serve an echo on websockets' own server."""

    async def answer(connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await connection.send(_fragments(connection))

    async with serve_websockets(answer, "127.0.0.1", 0, max_size=None) as server:
        announce(next(iter(server.sockets)).getsockname()[1])
        await server.serve_forever()


async def _fragments(connection: ServerConnection) -> AsyncIterator[Data]:
    # Not with `recv`, which ends a message of more than 4096 fragments with 1009.
    async for fragment in connection.recv_streaming():
        for start in range(0, max(len(fragment), 1), FRAGMENT):
            yield fragment[start : start + FRAGMENT]


async def uvicorn(app: ASGIApp, implementation: str) -> None:
    """Serve with uvicorn and one of its WebSocket implementations."""
    from uvicorn import Config, Server

    listener = listening()
    announce(listener.getsockname()[1])
    config = Config(app, ws=implementation, log_level="warning", timeout_graceful_shutdown=1)
    await Server(config).serve([listener])


async def hypercorn(app: ASGIApp) -> None:
    """Serve with hypercorn."""
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    listener = listening()
    announce(listener.getsockname()[1])
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.graceful_timeout = 1
    await serve(app, config)  # type: ignore[arg-type]


async def granian(app: ASGIApp) -> None:
    """Serve with granian, which takes a port and no socket."""
    from granian.constants import Interfaces
    from granian.server.embed import Server

    with listening() as probe:
        port = probe.getsockname()[1]
    server = Server(app, port=port, interface=Interfaces.ASGI, log_enabled=False)
    task = asyncio.create_task(server.serve())
    while not task.done():
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            announce(port)
            break
        await asyncio.sleep(0.02)
    await task


SERVE: dict[str, Callable[[ASGIApp], Coroutine[Any, Any, None]]] = {
    "uvicorn-sansio": lambda app: uvicorn(app, "websockets-sansio"),
    "uvicorn-wsproto": lambda app: uvicorn(app, "wsproto"),
    "hypercorn": hypercorn,
    "granian": granian,
}


def listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0), backlog=128)


def announce(port: int) -> None:
    print(port, flush=True)


def main(server: str, kind: str = "", url: str = "") -> None:
    if server == "upstream":
        asyncio.run(upstream())
        return
    echoes: dict[str, ASGIApp] = {"echo": echo, "late": late}
    asyncio.run(SERVE[server](echoes.get(kind) or proxy(url, PROXIES[kind][0])))


if __name__ == "__main__":
    main(*sys.argv[1:])
