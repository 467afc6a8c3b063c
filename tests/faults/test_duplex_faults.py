"""Requests and responses that move at the same time.

====  ==============================================  ============================================
F18   an answer during the upload, and the upstream   test_an_early_answer_...
      keeps the connection, closes or resets it
F19   an echo while the upload goes on                test_an_echo_needs_no_end_of_the_upload
====  ==============================================  ============================================

All four servers can do both. A client that goes on sending after an early answer leaves a task of
hypercorn's behind until that stops, with any application, so such a client is not tested on it.
"""

import asyncio
import contextlib

import pytest

from tests.faults.client import Client
from tests.faults.settling import Gateway
from tests.faults.upstreams import faulty, reset
from tests.servers import SERVERS

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]

EARLY = {
    401: b"HTTP/1.1 401 No\r\nWWW-Authenticate: Basic\r\nContent-Length: 5\r\n\r\nearly",
    413: b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 5\r\n\r\nearly",
    303: b"HTTP/1.1 303 See Other\r\nLocation: /y\r\nContent-Length: 5\r\n\r\nearly",
    403: b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nearly\r\n0\r\n\r\n",
}
#: More than all the buffers on the way hold.
LARGE = 64 * 1024 * 1024


def early(answer: bytes, how: str, answered: asyncio.Event):
    """Answer once the upload has begun, and read no more of it before the client is answered."""

    async def script(reader, writer):
        await reader.readexactly(1000)
        writer.write(answer)
        await writer.drain()
        if how == "reset":
            reset(writer)
        elif how == "keep":
            await answered.wait()
            while await reader.read(65536):
                pass

    return script


@contextlib.asynccontextmanager
async def uploading(client: Client, framing: str):
    """Go on sending a body until the block ends, whatever happens to the connection."""
    chunk = bytes(16384)
    if framing == "chunked":
        chunk = b"%x\r\n%b\r\n" % (len(chunk), chunk)

    async def upload():
        with contextlib.suppress(ConnectionError, TimeoutError):
            for _ in range(LARGE // 16384):
                await client.send(chunk)

    task = asyncio.create_task(upload())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def head(gw: Gateway, framing: str) -> bytes:
    how = "Transfer-Encoding: chunked" if framing == "chunked" else f"Content-Length: {LARGE}"
    return gw.head("POST", "/x", how)


@pytest.mark.parametrize("code", EARLY)
@pytest.mark.parametrize("how", ["keep", "close", "reset"])
async def test_an_early_answer_is_relayed(settled, code, how):
    """F18: whatever the upstream does to the connection, and however much is still to be sent."""
    answered = asyncio.Event()
    script = early(EARLY[code], how, answered)
    async with faulty(script) as upstream, settled.gateway(upstream) as gw:
        gw.whole = {b"early"}
        async with gw.client() as client:
            await client.send(head(gw, "length"))
            async with uploading(client, "length"):
                answer = gw.note(await client.answer())
                answered.set()

        assert (answer.status, answer.body) == (code, b"early")
        async with asyncio.timeout(1):
            await upstream.closed.wait()


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("server", [server for server in SERVERS if server != "hypercorn"])
async def test_an_early_answer_reaches_a_client_that_goes_on_sending(settled, server, framing):
    """F18: it has the whole answer, although it is not done."""
    how = "reset"
    answered = asyncio.Event()
    async with faulty(early(EARLY[413], how, answered)) as upstream:
        async with settled.gateway(upstream, server) as gw, gw.client() as client:
            await client.send(head(gw, framing))
            async with uploading(client, framing):
                answer = gw.note(await client.answer())
                answered.set()

            assert (answer.status, answer.body) == (413, b"early")


async def test_an_early_answer_survives_a_reset(settled):
    """F18: not by luck, but each time."""
    async with faulty(early(EARLY[413], "reset", asyncio.Event())) as upstream:
        async with settled.gateway(upstream) as gw:
            for _ in range(20):
                async with gw.client() as client:
                    await client.send(head(gw, "length"))
                    async with uploading(client, "length"):
                        answer = gw.note(await client.answer())

                assert (answer.status, answer.body) == (413, b"early")


@pytest.mark.parametrize("how", ["keep", "close", "reset"])
async def test_an_early_answer_reaches_a_client_that_waits(settled, server, how):
    """F18: it sends nothing more before it has been answered."""
    answered = asyncio.Event()
    async with faulty(early(EARLY[401], how, answered)) as upstream:
        async with settled.gateway(upstream, server) as gw, gw.client() as client:
            await client.send(head(gw, "length") + bytes(1000))
            answer = gw.note(await client.answer())
            answered.set()

            assert (answer.status, answer.body) == (401, b"early")
            assert answer.values(b"www-authenticate") == [b"Basic"]


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_an_echo_needs_no_end_of_the_upload(settled, server, framing):
    """F19: the client sends each part only after the last one has come back."""
    parts = [b"part %d" % number for number in range(10)]
    length = sum(map(len, parts))

    async def echo(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length)
        for part in parts:
            await reader.readuntil(part)
            writer.write(part)
        if framing == "chunked":
            await reader.readuntil(b"0\r\n\r\n")
        return True

    async with faulty(echo) as upstream, settled.gateway(upstream, server) as gw:
        gw.whole = {b"".join(parts)}
        how = "Transfer-Encoding: chunked" if framing == "chunked" else f"Content-Length: {length}"
        async with gw.client() as client:
            await client.send(gw.head("POST", "/x", how))
            for part in parts:
                data = b"%x\r\n%b\r\n" % (len(part), part) if framing == "chunked" else part
                await client.send(data)
                await client.until(part)
            if framing == "chunked":
                await client.send(b"0\r\n\r\n")
            assert gw.note(await client.answer()).complete


async def test_an_answer_that_ends_before_the_upload_is_whole(settled):
    """F19: the upload does not go on for nobody, and the answer is not held back for it."""

    async def script(reader, writer):
        await reader.readexactly(5)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await reader.read()

    async with faulty(script) as upstream, settled.gateway(upstream) as gw:
        async with gw.client() as client:
            await client.send(gw.head("POST", "/x", "Content-Length: 10") + b"hello")
            answer = gw.note(await client.answer())

        assert answer.body == b"ok"
        async with asyncio.timeout(1):
            await upstream.closed.wait()
