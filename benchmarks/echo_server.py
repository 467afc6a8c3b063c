"""The upstream of the WebSockets, which is to cost little: bytes in, bytes out.

python -m benchmarks.echo_server        prints its port and serves

/                 returns each message
/send/<blocks>    sends that many blocks of 64 KiB, as fast as they are taken
/hold/<blocks>    reads nothing until somebody asks for /resume without a WebSocket; then takes
                  that many blocks, and says so
"""

from __future__ import annotations

import asyncio
import socket
from typing import ClassVar, cast

import uvloop

from .frames import BINARY, BLOCK, CLOSE, FIN, MASKED, PING, PONG, TEXT, Reader, accept, build, xor

BLOCK_FRAME = build(BINARY, BLOCK)
MESSAGES = (FIN | TEXT, FIN | BINARY)


class Connection(asyncio.Protocol):
    """An open WebSocket that answers pings and closes; what it does with messages differs."""

    def __init__(self, transport: asyncio.Transport, argument: str) -> None:
        self.transport = transport
        self.argument = argument
        self.reader = Reader()

    def begin(self) -> None:
        """Do what is to be done without being asked."""

    def data_received(self, data: bytes) -> None:
        for first, payload in self.reader.feed(data):
            if first in MESSAGES:
                self.take(first, payload)
            elif first == FIN | PING:
                self.transport.write(build(PONG, payload))
            elif first == FIN | CLOSE:
                self.transport.write(build(CLOSE, payload))
                self.transport.close()

    def take(self, first: int, payload: bytes) -> None:
        """Return a message."""
        self.transport.write(build(first & 15, payload))


class Echo(Connection):
    """Returns each message."""

    def data_received(self, data: bytes) -> None:
        if data[0] in MESSAGES and not self.reader.rest and len(data) > 8:
            # A whole message and nothing else goes past the reader.
            if (length := data[1] ^ MASKED) < 126 and len(data) == 6 + length:
                payload = xor(data[6:], data[2:6])
                self.transport.write(bytes((data[0], length)) + payload)
                return
            if length == 126 and len(data) == 8 + int.from_bytes(data[2:4], "big"):
                payload = xor(data[8:], data[4:8])
                self.transport.write(b"%c\x7e%b%b" % (data[0], data[2:4], payload))
                return
        super().data_received(data)


class Send(Connection):
    """Sends blocks as long as they are taken."""

    _left = 0

    def begin(self) -> None:
        self._left = int(self.argument)
        self.transport.set_write_buffer_limits(4 * len(BLOCK))
        self.resume_writing()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        while self._left and not self._paused:
            self._left -= 1
            self.transport.write(BLOCK_FRAME)


class Hold(Connection):
    """Reads nothing until it is told to, then counts blocks."""

    waiting: ClassVar[set[Hold]] = set()

    def begin(self) -> None:
        self._left = int(self.argument)
        self.transport.pause_reading()
        self.waiting.add(self)

    def connection_lost(self, _error: Exception | None) -> None:
        self.waiting.discard(self)

    def take(self, first: int, payload: bytes) -> None:
        self._left -= payload == BLOCK
        if not self._left:
            self.transport.write(build(TEXT, self.argument.encode()))

    @classmethod
    def resume_all(cls) -> None:
        while cls.waiting:
            cls.waiting.pop().transport.resume_reading()


KINDS: dict[str, type[Connection]] = {"": Echo, "send": Send, "hold": Hold}


class Handshake(asyncio.Protocol):
    """A connection that has not asked for anything yet."""

    def __init__(self) -> None:
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        answer = accept(head)
        if answer is None:
            Hold.resume_all()
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            self._transport.close()
            return
        self._transport.write(answer)
        kind, _, argument = head.split()[1].decode()[1:].partition("/")
        connection = KINDS[kind](self._transport, argument)
        self._transport.set_protocol(connection)
        connection.begin()
        if rest:
            connection.data_received(rest)


async def serve() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    server = await asyncio.get_running_loop().create_server(Handshake, sock=listener)
    print(listener.getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve())
