"""A gateway over two upstreams, all in one process.

Run it with ``make demo``, or ``PORT=8001 make demo`` if port 8000 is taken. The proxy is what
``gateway_app`` returns; the rest is there to have something to forward to.
"""

import asyncio
import os
import shlex
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import FileResponse, StreamingResponse

from fastapi_proxy_router import ProxyRouter, UpstreamPool

HOST = "127.0.0.1"
PAGE = Path(__file__).with_name("demo.html")


def gateway_app(upstreams: list[str]) -> FastAPI:
    """Return an app that serves one page itself and leaves everything else to the upstreams."""
    app = FastAPI()

    @app.get("/")
    async def page() -> FileResponse:
        return FileResponse(PAGE)

    app.include_router(ProxyRouter(UpstreamPool(upstreams, balancer="round_robin")))
    return app


def upstream_app(name: str) -> FastAPI:
    """Return an upstream. It knows nothing of the gateway; each answer says its name."""
    app = FastAPI()
    calls, connections, messages = count(1), count(1), count(1)

    @app.get("/hello")
    async def hello() -> dict[str, object]:
        return {"upstream": name, "calls": next(calls)}

    @app.post("/echo")
    async def echo(request: Request) -> dict[str, object]:
        body = (await request.body()).decode(errors="replace")
        seen = {"headers": dict(request.headers), "body": body}
        return {"upstream": name, "calls": next(calls), **seen}

    @app.get("/ticks")
    async def ticks() -> StreamingResponse:
        number = next(calls)

        async def events() -> AsyncIterator[str]:
            for tick in range(1, 6):
                yield f"data: tick {tick} of 5 from {name}, call {number}\n\n"
                await asyncio.sleep(0.3)

        return StreamingResponse(events(), media_type="text/event-stream")

    @app.websocket("/ws")
    async def ws(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_json({"upstream": name, "connections": next(connections)})
        async for text in websocket.iter_text():
            await websocket.send_json({"upstream": name, "messages": next(messages), "text": text})

    return app


def listen(port: int = 0) -> socket.socket:
    """Return a listening socket; port 0 is any free one."""
    return socket.create_server((HOST, port))


class Server(uvicorn.Server):
    """One of three servers in this process, which is why it leaves the signals alone."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


@asynccontextmanager
async def serving(app: FastAPI, listener: socket.socket) -> AsyncIterator[str]:
    """Serve *app* until the block ends, and yield its address."""
    server = Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    try:
        yield f"{HOST}:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


async def run(listener: socket.socket) -> None:
    """Serve until SIGINT (Ctrl-C) or SIGTERM, then stop the gateway before its upstreams."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
    async with (
        serving(upstream_app("alpha"), listen()) as alpha,
        serving(upstream_app("beta"), listen()) as beta,
        serving(gateway_app([f"http://{alpha}", f"http://{beta}"]), listener) as gateway,
    ):
        print(
            f"""
The gateway balances over two upstreams, alpha ({alpha}) and beta ({beta}).
Watch them answer on its page:

  http://{gateway}/

or in another terminal:

  curl -w '\\n' 'http://{gateway}/hello?call=[1-4]'
  curl -w '\\n' -d 'a body' http://{gateway}/echo
  curl -N http://{gateway}/ticks
  {shlex.quote(sys.executable)} -m websockets ws://{gateway}/ws

Ctrl-C stops all three.""",
            flush=True,
        )
        await stop.wait()


def main() -> None:
    """Read ``PORT`` and run, or say in one line why not."""
    port = os.environ.get("PORT", "8000")
    try:
        listener = listen(int(port))
    except (ValueError, OverflowError):
        sys.exit(f"PORT must be a number from 0 to 65535, not {port!r}.")
    except OSError as error:
        reason, another = os.strerror(error.errno or 0), max(int(port), 8000) + 1
        sys.exit(f"Cannot listen on {HOST}:{port}: {reason}. Try PORT={another} make demo")
    asyncio.run(run(listener))


if __name__ == "__main__":
    main()
