"""A client on a bare socket, which sees every byte that it is answered."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.servers import Served

#: Seconds that a client waits for anything.
LIMIT = 10
_BODILESS = (204, 205, 304)


@dataclass(frozen=True)
class Answer:
    """What a client was answered, complete or not."""

    status: int = 0
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""
    complete: bool = False
    #: What came after the end of the response.
    rest: bytes = b""

    @property
    def failed(self) -> bool:
        """Whether the gateway could not do what was asked, and had to say so or to break off."""
        gateways_own = self.status in (502, 503, 504) and self.body.startswith(b'{"detail":')
        return gateways_own or not self.complete

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]


def parse(raw: bytes, method: str = "GET") -> Answer:
    """Read the final response in *raw* as a strict client would; what is missing is missing."""
    status = 100
    while 100 <= status < 200:
        head, separator, raw = raw.partition(b"\r\n\r\n")
        if not separator:
            return Answer()
        status = int(head.split(b" ", 2)[1])
    lines = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    headers = tuple((name.lower(), value.strip()) for name, _, value in lines)
    body, complete, rest = _body(
        raw, dict(headers), bodiless=method == "HEAD" or status in _BODILESS
    )
    return Answer(status, headers, body, complete, rest)


def _body(raw: bytes, headers: dict[bytes, bytes], *, bodiless: bool) -> tuple[bytes, bool, bytes]:
    if bodiless:
        return b"", True, raw
    if b"transfer-encoding" in headers:
        return _chunks(raw)
    # A server that gives neither would leave the client to guess.
    length = int(headers[b"content-length"])
    return raw[:length], len(raw) >= length, raw[length:]


def _chunks(raw: bytes) -> tuple[bytes, bool, bytes]:
    body = b""
    while True:
        line, separator, after = raw.partition(b"\r\n")
        if not separator:
            return body, False, b""
        size = int(line.partition(b";")[0], 16)
        if size == 0:
            trailers, complete, rest = (b"\r\n" + after).partition(b"\r\n\r\n")
            return body, bool(complete), rest if complete else trailers
        body += after[:size]
        if len(after) < size + 2:
            return body, False, b""
        raw = after[size + 2 :]


class Client:
    """One connection of a client. What is written and what is read do not disturb each other."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self.received = bytearray()

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(LIMIT):
            await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def _more(self) -> bool:
        """Read on; the end and a reset are both the end, of which the bytes before are kept."""
        try:
            data = await asyncio.get_running_loop().sock_recv(self._socket, 65536)
        except ConnectionError:
            return False
        self.received += data
        return bool(data)

    async def until(self, data: bytes) -> None:
        """Read until *data* has come."""
        async with asyncio.timeout(LIMIT):
            while data not in self.received:
                assert await self._more(), f"no {data!r} in {self.received!r}"

    async def end(self) -> bytes:
        """Read until the server closes, and return all that has come."""
        async with asyncio.timeout(LIMIT):
            while await self._more():
                pass
        return bytes(self.received)

    async def answer(self, method: str = "GET") -> Answer:
        """Read one whole answer, or what there is of it; the connection may stay open."""
        async with asyncio.timeout(LIMIT):
            while not (answer := parse(bytes(self.received), method)).complete:
                if not await self._more():
                    break
        return answer

    def leave(self, how: str = "close") -> None:
        """Leave by FIN (``close``), by RST (``reset``), or half (``half``): only done sending."""
        if how == "half":
            self._socket.shutdown(socket.SHUT_WR)
            return
        if how == "reset":
            linger = struct.pack("ii", 1, 0)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._socket.close()


@asynccontextmanager
async def connected(served: Served) -> AsyncIterator[Client]:
    """Connect to *served*, and leave at the end if it has not happened before."""
    connection = socket.socket()
    connection.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(connection, (served.host, served.port))
        yield Client(connection)
    finally:
        connection.close()


class Asked:
    """A server that clients ask."""

    def __init__(self, served: Served) -> None:
        self.served = served

    def head(self, method: str = "GET", target: str = "/x", *headers: str) -> bytes:
        """Return the head of a request."""
        lines = (f"{method} {target} HTTP/1.1", "Host: public.test", *headers, "", "")
        return "\r\n".join(lines).encode()

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """Connect a client."""
        async with connected(self.served) as client:
            yield client

    async def ask(
        self, method: str = "GET", target: str = "/x", *headers: str, body: bytes = b""
    ) -> Answer:
        """Send a request on a connection of its own, and return all that comes back."""
        framing = (f"Content-Length: {len(body)}",) if body else ()
        async with self.client() as client:
            await client.send(self.head(method, target, "Connection: close", *headers, *framing))
            if body:
                await client.send(body)
            await client.end()
            return self.note(await client.answer(method))

    def note(self, answer: Answer) -> Answer:
        """Take note of an answer to a client that stayed to the end."""
        return answer
