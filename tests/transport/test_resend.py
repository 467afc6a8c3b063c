"""What is sent a second time, after a connection that was used before has failed, and what not."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from fastapi_proxy_router.transport import ConnectionLimits, HTTP1Transport
from fastapi_proxy_router.transport.limits import failure
from tests.servers import OK, RawUpstream
from tests.transport.wire import (
    BOTH_LOOPS,
    PATIENT,
    Handler,
    ask,
    fetch,
    origin,
    read_body,
    reset,
    scripted,
    unix_listener,
    was_sent,
    within_a_second,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled"), BOTH_LOOPS]

HINT = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"


def failing(*answers: bytes, how: str = "close") -> Handler:
    """Return a handler that gives one answer for each request; it fails unless that is ``OK``."""
    left = list(answers)

    async def handler(request, reader, writer):
        request.body = await read_body(request, reader)
        answer = left.pop(0)
        writer.write(answer)
        await writer.drain()
        if answer != OK:
            if how == "reset":
                reset(writer)
            raise ConnectionAbortedError

    return handler


def asked(upstream: RawUpstream) -> list[bytes]:
    return [request.target for request in upstream.requests]


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PROPFIND"])
async def test_an_idempotent_request_is_sent_again(method, how):
    """Once, whole, on a connection of its own."""
    body = b"hello" if method == "PUT" else b""
    async with scripted(failing(OK, b"", OK, how=how)) as upstream:
        async with HTTP1Transport() as transport:
            await fetch(transport, upstream)
            answer = await fetch(transport, upstream, ask(method, body=body, target=b"/x"))

        assert answer.status == 200
        assert asked(upstream) == [b"/", b"/x", b"/x"]
        assert [request.body for request in upstream.requests] == [b"", body, body]
        assert upstream.connections == 2


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("method", ["POST", "PATCH", "LOCK", "get", "UNKNOWN"])
async def test_anything_else_is_not(method, how):
    """The upstream may have done it."""
    async with scripted(failing(OK, b"", how=how)) as upstream:
        async with HTTP1Transport() as transport:
            await fetch(transport, upstream)
            with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)) as error:
                await fetch(transport, upstream, ask(method, body=b"hello", target=b"/x"))

        assert was_sent(error.value) is True
        assert asked(upstream) == [b"/", b"/x"]


async def test_a_body_that_is_gone_is_not_sent_again():
    """It came from somebody who will not send it twice."""

    async def body():
        yield b"hello"

    async with scripted(failing(OK, b"")) as upstream, HTTP1Transport() as transport:
        await fetch(transport, upstream)
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
            await fetch(transport, upstream, ask("PUT", body=body(), target=b"/x"))

        assert asked(upstream) == [b"/", b"/x"]


@pytest.mark.parametrize("method", ["PUT", "POST"])
@pytest.mark.parametrize("kind", [httpx.ConnectError, httpx.RemoteProtocolError])
async def test_an_error_of_the_bodys_own_is_not_one_of_the_connection(method, kind):
    """A body that comes from another upstream, whose request failed unsent, is not begun again."""
    bodies = []

    async def body():
        yield b"first"
        raise failure(kind, "of another upstream", request_sent=False)

    async def recording(request, reader, writer):
        bodies.append(b"")
        if request.line.startswith(b"GET"):
            bodies[-1] = b"-"
            writer.write(OK)
            return
        bodies[-1] = await reader.read()
        raise ConnectionAbortedError

    async with scripted(recording) as upstream, HTTP1Transport() as transport:
        await fetch(transport, upstream)
        with pytest.raises(kind, match="of another upstream"):
            await fetch(transport, upstream, ask(method, body=body(), target=b"/x"))
        await within_a_second(upstream.closed)

        assert asked(upstream) in ([b"/", b"/x"], [b"/"])
        assert not any(received.endswith(b"0\r\n\r\n") for received in bodies)


@pytest.mark.parametrize("part", [b"H", b"HTTP/1.1 200 OK\r\nContent-Le", HINT, OK[:-1]])
async def test_nothing_is_sent_again_once_a_byte_has_come(part):
    """The upstream was at work."""
    async with scripted(failing(OK, part)) as upstream, HTTP1Transport() as transport:
        await fetch(transport, upstream)
        with pytest.raises(httpx.RemoteProtocolError) as error:
            await fetch(transport, upstream, ask(target=b"/x"))

        assert was_sent(error.value) is True
        assert asked(upstream) == [b"/", b"/x"]


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_nothing_is_sent_again_after_a_new_connection(how):
    """It was not closed for having idled."""
    async with scripted(failing(b"", how=how)) as upstream, HTTP1Transport() as transport:
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)) as error:
            await fetch(transport, upstream)

        assert was_sent(error.value) is True
        assert len(upstream.requests) == 1


async def test_nothing_is_sent_a_third_time():
    """An upstream that fails twice fails."""
    async with scripted(failing(OK, b"", b"")) as upstream, HTTP1Transport() as transport:
        await fetch(transport, upstream)
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
            await fetch(transport, upstream, ask(target=b"/x"))

        assert asked(upstream) == [b"/", b"/x", b"/x"]


async def test_the_second_time_is_on_a_new_connection():
    """Others that idle may be as stale as the first."""
    async with scripted(failing(OK, OK, OK, b"", OK)) as upstream:
        async with HTTP1Transport() as transport:
            await asyncio.gather(*(fetch(transport, upstream) for _ in range(3)))
            assert upstream.connections == 3
            await fetch(transport, upstream, ask(target=b"/x"))

        assert asked(upstream)[3:] == [b"/x", b"/x"]
        assert upstream.connections == 4


async def test_a_deadline_that_passed_is_not_started_again():
    """A request that took too long is not asked for a second time."""

    async def silent(request, reader, writer):
        if request.target == b"/x":
            await reader.read()
        writer.write(OK)

    async with scripted(silent) as upstream, HTTP1Transport() as transport:
        await fetch(transport, upstream)
        with pytest.raises(httpx.ReadTimeout):
            await fetch(transport, upstream, ask(target=b"/x"), PATIENT._replace(response=0.05))

        assert asked(upstream) == [b"/", b"/x"]


async def test_the_second_time_keeps_its_place():
    """It does not queue again, and takes no second place either."""
    limits = ConnectionLimits(max_connections=1, max_waiting=0)
    async with scripted(failing(OK, b"", OK, OK)) as upstream:
        async with HTTP1Transport(limits=limits) as transport:
            for _ in range(2):
                assert (await fetch(transport, upstream)).body == b"ok"
            assert upstream.connections == 2
            held = await transport.exchange(origin(upstream), ask(), PATIENT)
            with pytest.raises(httpx.PoolTimeout):
                await fetch(transport, upstream)
            await held.aclose()

        assert upstream.connections == 2


async def test_a_second_time_that_cannot_connect_was_sent_all_the_same(tmp_path):
    """The first time counts for what the error says of it."""
    path = tmp_path / "upstream.sock"

    async def leaving(request, _reader, writer):
        if request.target == b"/x":
            path.unlink()
            raise ConnectionAbortedError
        writer.write(OK)

    async with scripted(leaving, listener=unix_listener(path)) as upstream:
        async with HTTP1Transport(uds=str(path)) as transport:
            await fetch(transport, upstream)
            with pytest.raises(httpx.ConnectError) as error:
                await fetch(transport, upstream, ask(target=b"/x"))

    assert was_sent(error.value) is True
