"""WebSockets in bytes: frames by hand, a client and an upstream that may say anything."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.servers import OK, RawUpstream, Served, listening_socket, raw_upstream

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
RSV1, RSV2, RSV3 = 4, 2, 1
#: How a connection ended that was not closed by a frame with a code.
NO_CODE, LOST, OPEN = "a close without a code", "no close frame", "still open"

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE = (
    b"Connection: Upgrade",
    b"Upgrade: websocket",
    b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Key: " + KEY,
)
DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate"


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    masked: bool = False,
    length: int | None = None,
) -> bytes:
    """Return a frame; a *length* of one's own need not be that of the payload."""
    size = len(payload) if length is None else length
    mask = 0x80 if masked else 0
    head = bytes([fin << 7 | rsv << 4 | opcode])
    if size < 126:
        head += bytes([mask | size])
    elif size < 1 << 16:
        head += bytes([mask | 126]) + struct.pack("!H", size)
    else:
        head += bytes([mask | 127]) + struct.pack("!Q", size)
    # A key of zeros leaves the payload as it is.
    return head + (b"\0\0\0\0" if masked else b"") + payload


def close_frame(code: int | None = None, reason: bytes = b"", *, masked: bool = False) -> bytes:
    """Return a close frame."""
    payload = b"" if code is None else struct.pack("!H", code) + reason
    return frame(CLOSE, payload, masked=masked)


class Frame(NamedTuple):
    """A frame that has arrived."""

    opcode: int
    payload: bytes
    fin: bool
    rsv: int


class End(NamedTuple):
    """How the other side ended a connection."""

    code: int | str
    reason: bytes = b""


async def read_frame(reader: asyncio.StreamReader) -> Frame:
    """Read one frame and take its mask off."""
    first, second = await reader.readexactly(2)
    size = second & 127
    if size == 126:
        (size,) = struct.unpack("!H", await reader.readexactly(2))
    elif size == 127:
        (size,) = struct.unpack("!Q", await reader.readexactly(8))
    key = await reader.readexactly(4) if second & 0x80 else bytes(4)
    payload = await reader.readexactly(size)
    if any(key) and payload:
        mask = (key * (size // 4 + 1))[:size]
        xored = int.from_bytes(payload, "big") ^ int.from_bytes(mask, "big")
        payload = xored.to_bytes(size, "big")
    return Frame(first & 15, payload, bool(first & 128), first >> 4 & 7)


class Peer:
    """One end of a raw connection."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, masks: bool
    ) -> None:
        self.reader = reader
        self.writer = writer
        self._masks = masks

    async def send(self, *data: bytes) -> None:
        """Send bytes, at the pace of the other side."""
        self.writer.write(b"".join(data))
        await self.writer.drain()

    async def message(self, payload: bytes | str) -> None:
        """Send a whole message."""
        text = isinstance(payload, str)
        data = payload.encode() if isinstance(payload, str) else payload
        await self.send(frame(TEXT if text else BINARY, data, masked=self._masks))

    async def greet(self) -> None:
        """Send a message and wait until ``greet`` has sent it back."""
        await self.message(b"hello")
        assert (await self.receive()).payload == b"hello"

    async def receive(self, limit: float = 3) -> Frame:
        """Return the next frame that is no ping."""
        async with asyncio.timeout(limit):
            while (got := await read_frame(self.reader)).opcode == PING:
                pass
        return got

    async def end(self, limit: float = 3) -> tuple[list[bytes], End]:
        """Return the payloads that still come, and how the connection ends."""
        received, ended = [], End(LOST)
        try:
            async with asyncio.timeout(limit):
                while True:
                    got = await read_frame(self.reader)
                    if got.opcode == CLOSE:
                        ended = _ending(got.payload)
                        break
                    received += [got.payload] if got.opcode < CLOSE else []
        except TimeoutError:
            ended = End(OPEN)
        except (OSError, asyncio.IncompleteReadError):
            pass
        return received, ended

    async def eof(self, limit: float = 3) -> bool:
        """Tell whether the connection is closed, whatever comes before."""
        with contextlib.suppress(OSError):
            try:
                async with asyncio.timeout(limit):
                    while await self.reader.read(65536):
                        pass
            except TimeoutError:
                return False
        return True

    def reset(self) -> None:
        """Break the connection off by RST."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


def _ending(payload: bytes) -> End:
    if len(payload) < 2:
        return End(NO_CODE)
    (code,) = struct.unpack("!H", payload[:2])
    return End(code, payload[2:])


@asynccontextmanager
async def connected(served: Served, *, small: bool = False) -> AsyncIterator[Peer]:
    """Connect a client; a *small* one takes little that it does not read."""
    raw = socket.socket()
    raw.setblocking(False)
    if small:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
    await asyncio.get_running_loop().sock_connect(raw, (served.host, served.port))
    reader, writer = await asyncio.open_connection(sock=raw, limit=32 * 1024 if small else 1 << 18)
    try:
        yield Peer(reader, writer, masks=True)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def handshake(*lines: bytes, target: bytes = b"/x") -> bytes:
    """Return a client's handshake."""
    start = b"GET " + target + b" HTTP/1.1"
    return b"\r\n".join([start, b"Host: a", *UPGRADE, *lines, b"", b""])


@asynccontextmanager
async def relayed(
    served: Served, *lines: bytes, target: bytes = b"/x", small: bool = False
) -> AsyncIterator[Peer]:
    """Connect a client and open a WebSocket."""
    async with connected(served, small=small) as client:
        await client.send(handshake(*lines, target=target))
        async with asyncio.timeout(5):
            head = await client.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101"), head
        yield client


#: Does what the upstream of a test does once the WebSocket is open.
Behaviour = Callable[[Peer], Awaitable[None]]
#: Answers a handshake that has a key.
Answer = Callable[[Peer, bytes], Awaitable[None]]


def accept(key: bytes) -> bytes:
    """Return what proves that a handshake was understood."""
    digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    return b"Sec-WebSocket-Accept: " + base64.b64encode(digest)


def switching(key: bytes, *lines: bytes, start: bytes = b"HTTP/1.1 101 Switching") -> bytes:
    """Return the 101 that answers a handshake with *key*."""
    head = (start, b"Upgrade: websocket", b"Connection: Upgrade", accept(key))
    return b"\r\n".join([*head, *lines, b"", b""])


@dataclass
class Upstream:
    """A raw upstream that opens every WebSocket and then behaves as a test likes."""

    raw: RawUpstream
    behaviour: Behaviour | None = None
    #: What the last connection has heard, and how the gateway ended it.
    received: list[bytes] = field(default_factory=list)
    ended: End | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event)
    opened: int = 0
    #: Answers the handshake instead.
    answer: Answer | None = None

    def reset(self) -> None:
        """Forget what the last test has done."""
        self.behaviour = self.answer = None
        self.received, self.ended, self.over = [], None, asyncio.Event()
        self.opened = 0
        self.raw.requests.clear()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Open the WebSocket, behave, and see how the gateway ends it; a close is answered."""
        request = self.raw.last
        peer, over = Peer(reader, writer, masks=False), self.over
        try:
            if not request.values(b"upgrade"):
                await peer.send(OK)
                return
            (key,) = request.values(b"sec-websocket-key")
            if self.answer is not None:
                await self.answer(peer, key)
                return
            await peer.send(switching(key))
            self.opened += 1
            if self.behaviour is not None:
                await self.behaviour(peer)
            if self.ended is None:
                self.received, self.ended = await peer.end(limit=8)
            if isinstance(self.ended.code, int):
                await peer.send(close_frame(self.ended.code))
        finally:
            over.set()

    async def end(self, limit: float = 3) -> End:
        """Wait until the gateway has ended the last connection, and return how."""
        async with asyncio.timeout(limit):
            await self.over.wait()
        assert self.ended is not None
        return self.ended


@asynccontextmanager
async def upstream(*, small: bool = False) -> AsyncIterator[Upstream]:
    """Listen; a *small* upstream takes little that it does not read."""
    listener = listening_socket()
    if small:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await sides.serve(reader, writer)

    async with raw_upstream(script, listener=listener) as raw:
        sides = Upstream(raw)
        yield sides


@dataclass
class World:
    """A gateway on one server, and its upstream."""

    server: str
    gw: Served
    upstream: Upstream

    @property
    def is_uvicorn(self) -> bool:
        return self.server.startswith("uvicorn")

    async def still_works(self) -> None:
        """Pass one message both ways on the next connection."""
        await alive(self.gw, self.upstream)


async def greet(peer: Peer) -> None:
    """Send the first message back."""
    await peer.message((await peer.receive()).payload)


async def alive(gw: Served, up: Upstream) -> None:
    """Pass one message both ways on the next connection."""
    up.reset()
    up.behaviour = greet
    async with relayed(gw) as client:
        await client.greet()
        await client.send(close_frame(1000, masked=True))
        assert (await client.end())[1].code == 1000
    await up.end()
