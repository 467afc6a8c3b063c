"""Every failure is one of httpx's errors and says whether anything of the request was sent."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import resource
import socket
from pathlib import Path

import httpx
import pytest

from fastapi_proxy_router.core.policy import Deadlines
from fastapi_proxy_router.transport import ConnectionLimits, HTTP1Transport
from tests.servers import OK, Script, Served, listening_socket, raw_upstream
from tests.transport.wire import (
    BOTH_LOOPS,
    PATIENT,
    ask,
    fetch,
    origin,
    reset,
    until,
    was_sent,
    within_a_second,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled"), BOTH_LOOPS]

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


async def failing(
    kind: type[Exception], answer: bytes | Script, request=None, deadlines: Deadlines = PATIENT
) -> Exception:
    """Return the error of one exchange, having checked that its connection is dropped."""
    async with raw_upstream(answer) as upstream, HTTP1Transport() as transport:
        with pytest.raises(httpx.TransportError) as error:
            await fetch(transport, upstream, request, deadlines)
        await within_a_second(upstream.closed)

    assert type(error.value) is kind
    return error.value


def then(*data: bytes, how: str) -> Script:
    """Return a script that writes *data* and then waits, closes or resets."""

    async def script(reader, writer):
        for part in data:
            writer.write(part)
            await writer.drain()
        if how == "wait":
            await reader.read()
        elif how == "reset":
            reset(writer)

    return script


async def test_a_refused_connection():
    """ConnectError, and nothing was sent."""
    with listening_socket() as listener:
        port = listener.getsockname()[1]
    async with HTTP1Transport() as transport:
        with pytest.raises(httpx.ConnectError, match="ConnectionRefusedError") as error:
            await fetch(transport, Served(port))

    assert was_sent(error.value) is False
    assert isinstance(error.value.__cause__, ConnectionRefusedError)


async def test_a_connection_that_nobody_takes():
    """ConnectTimeout while the upstream's queue is full, and nothing was sent."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        async with HTTP1Transport() as transport:
            at = Served(listener.getsockname()[1])
            with pytest.raises(httpx.ConnectTimeout) as error:
                await fetch(transport, at, None, PATIENT._replace(connect=0.1))

    assert was_sent(error.value) is False


async def test_no_place_in_the_pool():
    """PoolTimeout, and nothing was sent."""
    limits = ConnectionLimits(max_connections=1)
    async with raw_upstream() as upstream, HTTP1Transport(limits=limits) as transport:
        first = await transport.exchange(origin(upstream), ask(), PATIENT)
        with pytest.raises(httpx.PoolTimeout) as error:
            await fetch(transport, upstream, None, PATIENT._replace(pool=0.02))
        await first.aclose()

    assert was_sent(error.value) is False


@pytest.mark.parametrize(
    ("how", "kind"), [("close", httpx.RemoteProtocolError), ("reset", httpx.ReadError)]
)
@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 200 OK\r\nConte", HEAD, HEAD + b"hello"])
async def test_an_upstream_that_breaks_off(data, how, kind):
    """An end too early is RemoteProtocolError, a reset is ReadError; the request was sent."""
    assert was_sent(await failing(kind, then(data, how=how))) is True


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("data", [CHUNKED, CHUNKED + b"5\r\nhel", CHUNKED + b"5\r\nhello\r\n0\r\n"])
async def test_chunks_without_an_end(data, how):
    """Nothing but the last chunk ends them."""
    kind = httpx.RemoteProtocolError if how == "close" else httpx.ReadError

    assert was_sent(await failing(kind, then(data, how=how))) is True


async def test_what_came_before_the_end_is_delivered_first():
    """The body's beginning is read, then the error."""
    async with raw_upstream(then(HEAD, b"hello", how="close")) as upstream:
        async with HTTP1Transport() as transport:
            response = await transport.exchange(origin(upstream), ask(), PATIENT)
            await until(lambda: response._connection._transport is None)
            assert await response.next_chunk() == b"hello"
            for _ in range(2):
                with pytest.raises(httpx.RemoteProtocolError):
                    await response.next_chunk()
            await response.aclose()


@pytest.mark.parametrize(
    "answer",
    [b"garbage\r\n\r\n", b"HTTP/1.1 600 X\r\n\r\n", CHUNKED + b"x\r\n", CHUNKED + b"2\r\nokay\r\n"],
)
async def test_what_is_no_http(answer):
    """RemoteProtocolError, and the request was sent."""
    error = await failing(httpx.RemoteProtocolError, answer)

    assert was_sent(error) is True


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length:", b"HTTP/1.1 100 Continue\r\n\r\n"]
)
async def test_a_head_that_does_not_come(answer):
    """ReadTimeout, whatever part of it came; the request was sent."""
    deadlines = PATIENT._replace(response=0.05)
    error = await failing(httpx.ReadTimeout, then(answer, how="wait"), None, deadlines)

    assert was_sent(error) is True
    assert "head" in str(error)


@pytest.mark.parametrize(
    "answer", [HEAD, HEAD + b"hello", CHUNKED, CHUNKED + b"5\r\nhello\r\n0\r\n"]
)
async def test_a_body_that_does_not_go_on(answer):
    """ReadTimeout, wherever it stops."""
    deadlines = PATIENT._replace(read=0.05)
    error = await failing(httpx.ReadTimeout, then(answer, how="wait"), None, deadlines)

    assert was_sent(error) is True
    assert "body" in str(error)


async def _unread(_reader, writer):
    """Wait without reading what is sent."""
    writer.transport.pause_reading()
    await asyncio.Event().wait()


@pytest.mark.parametrize("framing", ["chunks", "length"])
async def test_an_upload_that_nobody_reads(framing):
    """WriteTimeout once the system takes no more."""

    async def body():
        while True:
            yield bytes(65536)

    headers = [(b"content-length", b"%d" % 2**40)] if framing == "length" else []
    async with raw_upstream(_unread) as upstream, HTTP1Transport() as transport:
        request = ask("PUT", *headers, body=body())
        with pytest.raises(httpx.WriteTimeout) as error:
            await fetch(transport, upstream, request, PATIENT._replace(write=0.05))

    assert was_sent(error.value) is True


async def test_bytes_that_nobody_reads():
    """A body at hand has the same deadline as one that comes."""
    async with raw_upstream(_unread) as upstream, HTTP1Transport() as transport:
        request = ask("PUT", body=bytes(32 * 1024 * 1024))
        with pytest.raises(httpx.WriteTimeout):
            await fetch(transport, upstream, request, PATIENT._replace(write=0.05, response=1))


@pytest.mark.parametrize(
    "request_",
    [
        ask("GET", (b"x", b"a\r\nX-Other: b")),
        ask("GET", (b"x", b"a\nX-Other: b")),
        ask("GET", (b"x", b"a\rb")),
        ask("GET", (b"x\r\ny", b"a")),
        ask("GET", (b"x", b"\r\n\r\nGET /smuggled HTTP/1.1\r\n")),
        ask(target=b"/ HTTP/1.1\r\nX-Other: b\r\n"),
        ask(target=b"/a b"),
        ask(target=b"/a\nb"),
        ask("GET / HTTP/1.1\r\nX: y\r\n\r\nGET"),
        ask("GE T"),
    ],
)
async def test_a_request_that_would_be_another(request_):
    """LocalProtocolError, and not even a connection is opened."""
    async with raw_upstream() as upstream, HTTP1Transport() as transport:
        with pytest.raises(httpx.LocalProtocolError) as error:
            await fetch(transport, upstream, request_)

        assert was_sent(error.value) is False
        assert b"smuggled" not in str(error.value).encode()
        assert upstream.connections == 0


@pytest.mark.parametrize("chunks", [[b"hel"], [b"hel", b"lo "], [b"hello", b"x"], []])
async def test_a_body_that_is_not_as_long_as_it_says(chunks):
    """LocalProtocolError; the upstream never has a whole request, nor a byte too many."""
    received = bytearray()

    async def receive(reader, _writer):
        while data := await reader.read(100):
            received.extend(data)

    async def body():
        for chunk in chunks:
            yield chunk

    request = ask("POST", (b"content-length", b"5"), body=body())
    error = await failing(httpx.LocalProtocolError, receive, request)

    assert was_sent(error) is True
    assert b"hello".startswith(bytes(received))


async def test_a_body_without_a_length_is_none():
    """A request that announces no body has none."""

    async def body():
        yield b"hello"

    request = ask("POST", body=body())._replace(headers=[(b"host", b"x")], chunked=False)
    await failing(httpx.LocalProtocolError, then(how="wait"), request)


async def test_no_more_descriptors():
    """The system's own reason is the cause, so that the upstream is not blamed; and it passes."""
    async with raw_upstream() as upstream, HTTP1Transport() as transport:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        used = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
        resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
        fillers: list[socket.socket] = []
        try:
            with contextlib.suppress(OSError):
                while True:
                    fillers.append(socket.socket())
            with pytest.raises(httpx.ConnectError) as error:
                await fetch(transport, upstream)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for filler in fillers:
                filler.close()
        cause = error.value.__cause__
        assert isinstance(cause, OSError)
        assert cause.errno == errno.EMFILE
        assert was_sent(error.value) is False

        assert (await fetch(transport, upstream)).body == b"ok"


async def test_an_error_is_no_end_of_the_pool():
    """After any of them, the next request is answered."""
    answers = [HEAD, b"garbage\r\n\r\n", CHUNKED + b"x\r\n", OK]

    async def script(_reader, writer):
        writer.write(answers.pop(0))
        await writer.drain()

    limits = ConnectionLimits(max_connections=1, max_waiting=0)
    async with raw_upstream(script) as upstream, HTTP1Transport(limits=limits) as transport:
        for _ in range(3):
            with pytest.raises(httpx.RemoteProtocolError):
                await fetch(transport, upstream)

        assert (await fetch(transport, upstream)).body == b"ok"
