"""WebSocket upstreams and clients frame by frame, for what a library would hide or refuse."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from fastapi import FastAPI
from websockets.frames import Frame, Opcode
from websockets.utils import accept_key, apply_mask

from fastapi_proxy_router import ProxyRouter, Upstream, UpstreamPool
from tests.servers import RawUpstream, Served, listening_socket, raw_upstream
from tests.test_relay import HANDSHAKE

#: Less than a kernel would take on its own, so that back-pressure is felt at once.
SMALL = 64 * 1024


class Received(NamedTuple):
    """One frame that has arrived."""

    opcode: Opcode
    payload: bytes
    compressed: bool = False

    @property
    def code(self) -> int:
        """The code of a close frame; 1005 if it has none."""
        return int.from_bytes(self.payload[:2]) if self.payload else 1005


@dataclass
class Wire:
    """One end of an open WebSocket."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    masks: bool = False

    async def read(self) -> Received:
        """Read one frame."""
        first, second = await self.reader.readexactly(2)
        length = second & 0x7F
        if length >= 126:
            length = int.from_bytes(await self.reader.readexactly(2 if length == 126 else 8))
        mask = await self.reader.readexactly(4) if second & 0x80 else b""
        payload = await self.reader.readexactly(length)
        plain = apply_mask(payload, mask) if mask else payload
        return Received(Opcode(first & 0x0F), plain, bool(first & 0x40))

    async def read_until(self, opcode: Opcode) -> Received:
        """Read up to the first frame of a kind."""
        while (frame := await self.read()).opcode is not opcode:
            pass
        return frame

    def write(self, opcode: Opcode, payload: bytes = b"") -> None:
        """Send one frame and wait for nothing."""
        self.writer.write(Frame(opcode, payload).serialize(mask=self.masks))

    async def send(self, opcode: Opcode, payload: bytes = b"") -> None:
        """Send one frame, at the pace of the other side."""
        self.write(opcode, payload)
        await self.writer.drain()


Script = Callable[[Wire], Awaitable[None]]


@asynccontextmanager
async def wire_upstream(
    script: Script, *, extensions: str = "", listener: socket.socket | None = None
) -> AsyncIterator[RawUpstream]:
    """Accept every WebSocket, and let *script* do the rest; it ends with the connection."""

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        key = upstream.last.values(b"sec-websocket-key")[0].decode()
        lines = [
            "HTTP/1.1 101 Switching Protocols",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {accept_key(key)}",
        ]
        if extensions:
            lines.append(f"Sec-WebSocket-Extensions: {extensions}")
        writer.write("\r\n".join([*lines, "", ""]).encode())
        await script(Wire(reader, writer))

    async with raw_upstream(run, listener=listener) as upstream:
        yield upstream


def small_listener() -> socket.socket:
    """Return a listener whose connections have small buffers in the kernel."""
    listener = listening_socket()
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        listener.setsockopt(socket.SOL_SOCKET, option, SMALL)
    return listener


@asynccontextmanager
async def wire_client(gw: Served) -> AsyncIterator[Wire]:
    """Open a WebSocket to ``/ws``; what is not read stays unread, in small buffers."""
    raw = socket.socket(proto=socket.IPPROTO_TCP)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        raw.setsockopt(socket.SOL_SOCKET, option, SMALL)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, (gw.host, gw.port))
    reader, writer = await asyncio.open_connection(sock=raw, limit=SMALL)
    try:
        writer.write(HANDSHAKE)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        yield Wire(reader, writer, masks=True)
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def until(condition: Callable[[], bool], seconds: float = 1) -> None:
    """Wait for what follows within a few turns of the loop."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


def gateway_to(upstream: Upstream | str, **options: Any) -> FastAPI:
    """Return an application that relays ``/ws``; options are the pool's."""
    app = FastAPI()
    app.state.pool = UpstreamPool(upstream, **options)
    app.include_router(ProxyRouter(app.state.pool, prefix="/ws"))
    return app
