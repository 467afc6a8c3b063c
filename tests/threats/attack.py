"""How the catalogue is played: bytes in, and what came of them on both sides."""

from __future__ import annotations

import asyncio
import contextlib
import re
from dataclasses import dataclass

from tests.servers import RawRequest, RawUpstream, Served, get_raw, status

#: A whole request where none may be seen.
SMUGGLED = b"GET /smug HTTP/1.1\r\nHost: smug\r\nConnection: close\r\n\r\n"
CLOSE = b"Connection: close"
CHUNKED = b"Transfer-Encoding: chunked"
#: The last chunk.
LAST = b"0\r\n\r\n"
#: Stands at the end of what was read from a connection that the server has not closed.
OPEN = b"<still open>"

_H11 = ("uvicorn-h11", "hypercorn")

#: What a server does by itself, before the proxy sees the request or instead of telling it. The
#: table in docs/security.md is this one; a test compares them.
KNOWN: dict[str, tuple[str, ...]] = {
    "Trailers of a request stand among its headers": ("uvicorn-httptools",),
    "A WebSocket handshake with a body is never answered": ("uvicorn-httptools",),
    "Bytes right behind a WebSocket handshake keep the upstream's connection open": ("hypercorn",),
    "`Upgrade: h2c` is obeyed": ("hypercorn",),
    "HTTP/2 is spoken without TLS": ("hypercorn", "granian"),
    "The connection lives on after a refused WebSocket": ("granian",),
    "A bare LF ends a line": (*_H11, "granian"),
    "Folded header lines are joined": _H11,
    "Two equal `Content-Length` lines are read as one": (*_H11, "granian"),
    "`Content-Length: 3, 3` is read as 3": _H11,
    "`Content-Length` beside chunks is dropped": ("granian",),
    "Spaces after a chunk's size are skipped": (*_H11, "granian"),
    "A missing `Host` is made up": ("granian",),
    "Of `http://evil.test/x` and `/x#f` only `/x` is shown": ("uvicorn-httptools", "granian"),
}


def known(server: str, limit: str | None) -> bool:
    """Tell whether *server* has this limit."""
    return limit is not None and server in KNOWN[limit]


def message(*lines: bytes, start: bytes = b"POST /x HTTP/1.1", body: bytes = b"") -> bytes:
    """Return a request in bytes."""
    return b"\r\n".join([start, b"Host: a", *lines, b"", b""]) + body


async def attack(served: Served, request: bytes, then: bytes = b"", limit: float = 3) -> bytes:
    """Send *request*, and *then* once an answer is there; return all that the client got.

    A connection that is still open after *limit* seconds leaves ``OPEN`` at the end.
    """
    reader, writer = await asyncio.open_connection(served.host, served.port)
    got = bytearray()
    writer.write(request)
    # A server may reset a connection that has more to say.
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        try:
            async with asyncio.timeout(limit):
                if then:
                    got += await reader.readuntil(b"\r\n\r\n")
                    writer.write(then)
                while chunk := await reader.read(65536):
                    got += chunk
        except TimeoutError:
            got += OPEN
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return bytes(got)


def statuses(got: bytes) -> list[int]:
    """Return the status of every final answer in what a client got."""
    return [int(code) for code in re.findall(rb"HTTP/[0-9.]+ ([2-9][0-9]{2})", got)]


@dataclass
class World:
    """A gateway on one server, and its upstream."""

    server: str
    gw: Served
    upstream: RawUpstream

    async def arrived(self) -> list[RawRequest]:
        """Return what the upstream has heard, after one more request has passed unharmed."""
        assert status(await get_raw(self.gw, "/canary")) == 200
        return [request for request in self.upstream.requests if request.target != b"/canary"]
