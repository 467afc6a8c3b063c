"""An upload's task and the caller's generator: when they go on, and when they end."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from fastapi_proxy_router.transport import HTTP1Transport
from tests.servers import raw_upstream
from tests.transport.wire import (
    BOTH_LOOPS,
    PATIENT,
    ask,
    body_of,
    fetch,
    origin,
    within_a_second,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled"), BOTH_LOOPS]


async def answer_and_read_no_more(_reader, writer):
    writer.write(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nno!")
    writer.transport.pause_reading()
    await asyncio.Event().wait()


async def test_an_upload_goes_on_after_the_head_of_the_response():
    """The head does not end it; both ends do."""
    head_read = asyncio.Event()
    rest = asyncio.get_running_loop().create_future()

    async def answering(reader, writer):
        await reader.readuntil(b"first\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
        rest.set_result(await reader.readuntil(b"0\r\n\r\n"))
        writer.write(b"ok")

    async def body():
        yield b"first"
        await within_a_second(head_read)
        yield b"later"

    async with raw_upstream(answering) as upstream, HTTP1Transport() as transport:
        response = await transport.exchange(origin(upstream), ask("POST", body=body()), PATIENT)
        head_read.set()
        assert await body_of(response) == b"ok"
        await response.aclose()

    assert rest.result() == b"5\r\nlater\r\n0\r\n\r\n"


@pytest.mark.parametrize("after", [0, 1])
async def test_the_callers_generator_is_closed(after):
    """When the response is, wherever the upload was."""
    closed = asyncio.Event()

    async def body():
        try:
            for _ in range(after):
                yield b"x"
            await asyncio.Event().wait()
        finally:
            closed.set()

    async with raw_upstream(answer_and_read_no_more) as upstream, HTTP1Transport() as transport:
        await fetch(transport, upstream, ask("POST", body=body()))

        assert closed.is_set()


@pytest.mark.parametrize("end", ["cancelled", "closed"])
async def test_an_upload_ends_with_its_exchange(end):
    """Although the caller's generator would wait for ever."""
    begun, closed = asyncio.Event(), asyncio.Event()

    async def body():
        try:
            yield b"x"
            begun.set()
            await asyncio.Event().wait()
        finally:
            closed.set()

    async def script(reader, _writer):
        if end == "cancelled":
            await reader.read()
        await begun.wait()

    async with raw_upstream(script) as upstream, HTTP1Transport() as transport:
        request = asyncio.create_task(fetch(transport, upstream, ask("POST", body=body())))
        await begun.wait()
        if end == "cancelled":
            request.cancel()
        await asyncio.wait([request], timeout=1)

        assert request.done()
        assert request.cancelled() or isinstance(request.exception(), httpx.TransportError)
        assert closed.is_set()


async def test_a_generator_that_fails_as_it_is_closed_harms_nobody():
    """The response is there already; nothing is left to complain about it later."""

    async def body():
        try:
            yield b"x" * 10_000_000
        finally:
            raise LookupError("too late")

    async with raw_upstream(answer_and_read_no_more) as upstream, HTTP1Transport() as transport:
        assert (await fetch(transport, upstream, ask("POST", body=body()))).status == 413


async def test_an_upload_that_fails_after_the_head_breaks_the_response():
    """Its error is raised where the body is read."""

    async def body():
        yield b"x"
        await head_read.wait()
        raise LookupError("no more")

    async def head_only(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
        await reader.read()

    head_read = asyncio.Event()
    async with raw_upstream(head_only) as upstream, HTTP1Transport() as transport:
        response = await transport.exchange(origin(upstream), ask("POST", body=body()), PATIENT)
        head_read.set()
        with pytest.raises(LookupError):
            await body_of(response)
        await response.aclose()
        await within_a_second(upstream.closed)
