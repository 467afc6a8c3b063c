"""Both bodies move at the same time, and an answer before the end of the upload is not lost."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import threading
from typing import Any

import pytest
import trustme

from fastapi_proxy_router.transport import HTTP1Transport
from tests.servers import Served, raw_upstream
from tests.transport.wire import (
    BOTH_LOOPS,
    PATIENT,
    ask,
    fetch,
    origin,
    pool_of,
    reset,
    say,
    until,
    within_a_second,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled"), BOTH_LOOPS]

TOO_LARGE = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nno!"
AUTHORITY = trustme.CA()


def tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the settings of a server and of a client that believes it."""
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    AUTHORITY.issue_cert("127.0.0.1").configure_cert(server)
    AUTHORITY.configure_trust(client)
    return server, client


async def echo(reader, writer):
    """Answer at once with what arrives, in its chunks."""
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while data := await reader.read(65536):
        await say(writer, data)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_an_echo(scheme):
    """Every part of the body comes back before the next is sent."""
    server, client = tls()
    options: dict[str, Any] = {"ssl": server} if scheme == "https" else {}
    came: asyncio.Queue[bytes] = asyncio.Queue()
    parts = [b"one", b"two", b"three"]

    async def body():
        for part in parts:
            yield part
            async with asyncio.timeout(2):
                assert await came.get() == part

    async with raw_upstream(echo, **options) as upstream:
        async with HTTP1Transport(verify=client) as transport:
            request = ask("POST", body=body())
            response = await transport.exchange(origin(upstream, scheme), request, PATIENT)
            while chunk := await response.next_chunk():
                came.put_nowait(chunk)
            await response.aclose()

            assert response.complete


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_large_echo(scheme):
    """Sixteen megabytes there and back, with neither side collecting them."""
    server, client = tls()
    options: dict[str, Any] = {"ssl": server} if scheme == "https" else {}
    sent, size, ahead = 0, 16 * 1024 * 1024, 0
    received = 0

    async def body():
        nonlocal sent, ahead
        while sent < size:
            yield bytes(65536)
            sent += 65536
            ahead = max(ahead, sent - received)

    async with raw_upstream(echo, **options) as upstream:
        async with HTTP1Transport(verify=client) as transport:
            request = ask("POST", body=body())
            response = await transport.exchange(origin(upstream, scheme), request, PATIENT)
            while chunk := await response.next_chunk():
                received += len(chunk)
                await asyncio.sleep(0)
            await response.aclose()

    assert received == size
    assert ahead < size


async def test_a_reader_that_stops_stops_the_upstream():
    """What nobody takes is not read, whatever is sent meanwhile."""
    written = 0

    async def flood(_reader, writer):
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % 2**30)
        while True:
            await say(writer, bytes(65536))
            written += 65536

    async with raw_upstream(flood) as upstream, HTTP1Transport() as transport:
        response = await transport.exchange(origin(upstream), ask(), PATIENT)
        reading = response._connection._transport
        assert reading is not None
        await until(lambda: not reading.is_reading())
        assert response._connection._response.buffered < 256 * 1024
        await response.next_chunk()
        await until(lambda: response._connection._response.buffered > 0)
        await response.aclose()
        await within_a_second(upstream.closed)

    assert written < 2**30


async def early_keeping(_reader, writer):
    writer.write(TOO_LARGE)
    writer.transport.pause_reading()
    await asyncio.Event().wait()


async def early_closing(_reader, writer):
    writer.write(TOO_LARGE)
    await writer.drain()


async def early_resetting(_reader, writer):
    writer.write(TOO_LARGE)
    await writer.drain()
    reset(writer)


EARLY = {"kept": early_keeping, "closed": early_closing, "reset": early_resetting}


async def endless():
    while True:
        yield bytes(16384)


async def slow():
    while True:
        yield b"a"
        await asyncio.sleep(0)


def _bytes() -> bytes:
    return bytes(8 * 1024 * 1024)


@pytest.mark.parametrize("how", EARLY)
@pytest.mark.parametrize("body", [endless, slow, _bytes], ids=["endless", "slow", "bytes"])
async def test_an_early_answer(how, body):
    """It is read in whole, twenty times of twenty, and its connection is not used again."""
    for _ in range(20):
        async with raw_upstream(EARLY[how]) as upstream, HTTP1Transport() as transport:
            answer = await fetch(transport, upstream, ask("POST", body=body()))

            assert (answer.status, answer.body) == (413, b"no!")
            async with asyncio.timeout(1):
                if how != "kept":
                    await upstream.closed.wait()
            assert not pool_of(transport)._idle


@pytest.mark.parametrize("how", EARLY)
async def test_an_early_answer_over_tls(how):
    """The same where TLS is between."""
    server, client = tls()
    for _ in range(20):
        async with raw_upstream(EARLY[how], ssl=server) as upstream:
            async with HTTP1Transport(verify=client) as transport:
                request = ask("POST", body=endless())
                answer = await fetch(transport, upstream, request, scheme="https")

                assert (answer.status, answer.body) == (413, b"no!")


async def test_an_early_answer_with_a_length_declared():
    """A body of a declared length that was not sent in whole is no different."""
    async with raw_upstream(early_keeping) as upstream, HTTP1Transport() as transport:
        request = ask("POST", (b"content-length", b"%d" % 2**30), body=endless())

        assert (await fetch(transport, upstream, request)).status == 413


class Resetting:
    """An upstream in a thread: it answers and resets while the event loop does something else."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(2)
        self._may_reset, self._has_reset = threading.Event(), threading.Event()
        self.at = Served(self._listener.getsockname()[1])

    def serve(self, until_read: bytes) -> None:
        with self._listener, self._listener.accept()[0] as connection:
            connection.settimeout(2)
            received = b""
            while until_read not in received:
                received += connection.recv(65536)
            self._may_reset.wait(2)
            connection.sendall(TOO_LARGE)
            linger = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._has_reset.set()

    def reset_now(self) -> None:
        """Return once the connection is reset, not giving the event loop a turn."""
        self._may_reset.set()
        assert self._has_reset.wait(2)


@pytest.mark.parametrize("framing", ["chunks", "length"])
@pytest.mark.parametrize("left", [1, 3])
async def test_a_reset_just_before_the_end_of_the_upload(left, framing):
    """The answer is read although the write that failed was the last, or nearly."""
    upstream = Resetting()

    async def body():
        yield b"first"
        await asyncio.sleep(0.01)
        upstream.reset_now()
        for _ in range(left):
            yield b"later"

    serving = asyncio.create_task(asyncio.to_thread(upstream.serve, b"first"))
    headers = [(b"content-length", b"%d" % (5 + 5 * left))] if framing == "length" else []
    async with HTTP1Transport() as transport:
        try:
            answer = await fetch(transport, upstream.at, ask("POST", *headers, body=body()))
        finally:
            await serving

    assert (answer.status, answer.body) == (413, b"no!")


async def test_an_upload_ends_with_its_connection():
    """A body that never waits for anything does not keep the event loop from noticing the end."""
    upstream, later = Resetting(), 0

    async def body():
        nonlocal later
        yield b"first"
        await asyncio.sleep(0.01)
        upstream.reset_now()
        while later < 10_000:
            later += 1
            yield bytes(4096)

    serving = asyncio.create_task(asyncio.to_thread(upstream.serve, b"first"))
    async with HTTP1Transport() as transport:
        try:
            answer = await fetch(transport, upstream.at, ask("POST", body=body()))
        finally:
            await serving

    assert answer.status == 413
    assert later < 1000
