"""Real servers on port 0: every ASGI server the suite names, and scripted raw upstreams."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

#: The servers that the end-to-end tests run on. uvicorn's parsers for HTTP and for WebSocket go in
#: pairs here: httptools with websockets (Sans-I/O), h11 with wsproto.
SERVERS = ("uvicorn-httptools", "uvicorn-h11", "hypercorn", "granian")


def waits_for_clients(server: str) -> bool:
    """Tell whether *server*, when it stops, waits for its clients to leave, however long it takes.

    hypercorn waits for the sockets it listens on, which since Python 3.12 includes their clients.
    """
    return server == "hypercorn" and sys.version_info >= (3, 12)


@dataclass
class Served:
    """A server that is listening."""

    port: int
    host: str = "127.0.0.1"

    @property
    def authority(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.authority}"

    @property
    def ws(self) -> str:
        return f"ws://{self.authority}"


def listening_socket() -> socket.socket:
    # Spelled out, else asyncio does not turn off the delay of small packets.
    listener = socket.socket(proto=socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    listener.setblocking(False)
    return listener


class _Uvicorn(uvicorn.Server):
    """A server that leaves signals alone and stops at once, not at its next tick."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.stop = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self):
        yield

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self.stop.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # As uvicorn does it, without the tenth of a second that it always waits.
        for server in self.servers:
            server.close()
        state = self.server_state
        for connection in list(state.connections):
            connection.shutdown()
        try:
            await _until(lambda: not state.connections and not state.tasks, seconds=2)
        except TimeoutError:
            for task in state.tasks:
                task.cancel()
        await self.lifespan.shutdown()


@asynccontextmanager
async def serve(
    app: Any, server: str = "uvicorn-httptools", **options: Any
) -> AsyncIterator[Served]:
    """Serve *app* in this event loop until the block ends; options are uvicorn's."""
    runner = {"hypercorn": _hypercorn, "granian": _granian}.get(server, _uvicorn)
    if runner is _uvicorn:
        options["http"] = server.removeprefix("uvicorn-")
        options.setdefault("ws", "wsproto" if server == "uvicorn-h11" else "websockets-sansio")
    async with runner(app, **options) as served:
        yield served


@asynccontextmanager
async def _uvicorn(app: Any, **options: Any) -> AsyncIterator[Served]:
    listener = listening_socket()
    async with _running(app, listener, **options):
        yield Served(listener.getsockname()[1])


@asynccontextmanager
async def serve_unix(app: Any, path: str) -> AsyncIterator[None]:
    """Serve *app* with uvicorn on a unix socket."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    async with _running(app, listener):
        yield
    Path(path).unlink()


@asynccontextmanager
async def _running(app: Any, listener: socket.socket, **options: Any) -> AsyncIterator[None]:
    # Without proxy_headers the peer is what the socket says, and X-Forwarded-For is only a header.
    defaults = {"log_level": "critical", "proxy_headers": False}
    options = {**defaults, **options}
    server = _Uvicorn(uvicorn.Config(app, timeout_graceful_shutdown=2, **options))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    await _until(lambda: server.started or task.done())
    if task.done():
        listener.close()
        await task
    try:
        yield
    finally:
        server.stop.set()
        await task
        listener.close()


@asynccontextmanager
async def _hypercorn(app: Any, **_options: Any) -> AsyncIterator[Served]:
    from hypercorn.asyncio import serve as hypercorn_serve
    from hypercorn.config import Config

    listener = listening_socket()
    config = Config()
    port = listener.getsockname()[1]
    config.bind = [f"fd://{listener.detach()}"]
    config.errorlog = None
    config.graceful_timeout = 2
    stop = asyncio.Event()
    task = asyncio.create_task(hypercorn_serve(app, config, shutdown_trigger=stop.wait))
    try:
        yield Served(port)
    finally:
        stop.set()
        await task


@asynccontextmanager
async def _granian(app: Any, **_options: Any) -> AsyncIterator[Served]:
    from granian.constants import Interfaces
    from granian.server.embed import Server

    with listening_socket() as probe:
        port = probe.getsockname()[1]
    server = Server(app, port=port, interface=Interfaces.ASGI, log_enabled=False)
    task = asyncio.create_task(server.serve())
    await _until_open(port, task)
    try:
        yield Served(port)
    finally:
        server.stop()
        await task


async def _until(condition: Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


async def _until_open(port: int, task: asyncio.Task[Any]) -> None:
    async with asyncio.timeout(10):
        while not task.done():
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.005)


@dataclass
class RawRequest:
    """One request as it stood on the wire."""

    head: bytes
    body: bytes = b""

    @property
    def line(self) -> bytes:
        return self.head.split(b"\r\n", 1)[0]

    @property
    def target(self) -> bytes:
        return self.line.split(b" ")[1]

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        lines = self.head.split(b"\r\n")[1:]
        return [
            (name.lower(), value.strip())
            for name, _, value in (line.partition(b":") for line in lines if line)
        ]

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class RawUpstream(Served):
    """An upstream whose every byte is a test's: it records what arrives and answers a script."""

    requests: list[RawRequest] = field(default_factory=list)
    connections: int = 0
    #: Set when a connection from the proxy has ended.
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    #: Set when a request's head has arrived.
    received: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def last(self) -> RawRequest:
        return self.requests[-1]


async def read_request(reader: asyncio.StreamReader) -> RawRequest:
    """Read one request whose body has a length, or is chunked and kept in its chunks."""
    request = RawRequest((await reader.readuntil(b"\r\n\r\n"))[:-4])
    if lengths := request.values(b"content-length"):
        request.body = await reader.readexactly(int(lengths[0]))
    elif request.values(b"transfer-encoding"):
        size = 1
        while size:
            line = await reader.readuntil(b"\r\n")
            size = int(line, 16)
            request.body += line + await reader.readexactly(size + 2 if size else 0)
        while not request.body.endswith(b"\r\n\r\n"):
            request.body += await reader.readuntil(b"\r\n")
    return request


@asynccontextmanager
async def raw_upstream(
    answer: bytes | Script = OK, *, listener: socket.socket | None = None, **options: Any
) -> AsyncIterator[RawUpstream]:
    """Listen, record requests, and answer each with *answer*: bytes, or a script for the rest.

    A script is called after the request's head has been read and recorded. A *listener* of one's
    own may be of another family; options are asyncio's for a server (``ssl``).
    """
    upstream = RawUpstream(0)
    tasks: set[asyncio.Task[Any]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        upstream.connections += 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            if isinstance(answer, bytes):
                while True:
                    upstream.requests.append(await read_request(reader))
                    upstream.received.set()
                    writer.write(answer)
                    await writer.drain()
            else:
                head = (await reader.readuntil(b"\r\n\r\n"))[:-4]
                upstream.requests.append(RawRequest(head))
                upstream.received.set()
                await answer(reader, writer)
        writer.close()
        upstream.closed.set()

    listener = listener or listening_socket()
    if listener.family != socket.AF_UNIX:
        upstream.host, upstream.port = listener.getsockname()[:2]
    start = asyncio.start_unix_server if listener.family == socket.AF_UNIX else asyncio.start_server
    server = await start(connected, sock=listener, **options)
    try:
        yield upstream
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def send_raw(served: Served, request: bytes) -> bytes:
    """Send bytes and return all that comes back until the server closes."""
    reader, writer = await asyncio.open_connection(served.host, served.port)
    writer.write(request)
    try:
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def get_raw(
    served: Served, target: str | bytes = "/", *headers: str, method: str = "GET", body: bytes = b""
) -> bytes:
    """Send one request in raw bytes, with ``Connection: close``, and return the whole answer."""
    raw_target = target if isinstance(target, bytes) else target.encode("latin-1")
    lines = [f"Host: {served.authority}", "Connection: close", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    head = method.encode() + b" " + raw_target + b" HTTP/1.1\r\n"
    return await send_raw(served, head + "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)


def status(answer: bytes) -> int:
    """Return the status of a raw answer."""
    return int(answer.split(b" ", 2)[1])
