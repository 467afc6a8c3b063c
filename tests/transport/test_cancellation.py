"""Cancelled at any of its steps, a request leaves nothing behind: no task, no socket, no place."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import trustme

from fastapi_proxy_router.transport import ConnectionLimits, HTTP1Transport
from tests.servers import OK, RawUpstream
from tests.transport.stepping import HOWS, How, cancelled_at
from tests.transport.wire import (
    BOTH_LOOPS,
    PATIENT,
    ask,
    body_of,
    fetch,
    open_sockets,
    origin,
    pool_of,
    read_body,
    say,
    scripted,
    until,
)

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("settled"),
    BOTH_LOOPS,
    pytest.mark.parametrize("how", HOWS),
]

PLACES = 3
LIMITS = ConnectionLimits(max_connections=PLACES, max_waiting=1)
AUTHORITY = trustme.CA()
#: Runs one request to its end, from whatever it needs before.
Request = Callable[[HTTP1Transport, RawUpstream], Coroutine[Any, Any, Any]]


async def handler(request, reader, writer):
    """Answer as the target says, in many packets."""
    if request.target == b"/slowly":
        await say(writer, b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n")
        for _ in range(4):
            await asyncio.sleep(0.001)
            await say(writer, b"yes")
        if request.line.startswith(b"GET"):
            return
        raise ConnectionAbortedError
    if request.target == b"/never":
        await say(writer, b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n")
        await reader.read()
        raise ConnectionAbortedError
    if request.target == b"/hints":
        for _ in range(2):
            await say(writer, b"HTTP/1.1 103 Early Hints\r\n\r\n")
            await asyncio.sleep(0.001)
    await read_body(request, reader)
    await say(writer, OK)


async def cancel_everywhere(
    request: Request,
    how: How,
    *,
    scheme: str = "http",
    before: Callable[[HTTP1Transport, RawUpstream], Awaitable[Any]] | None = None,
    **server: Any,
) -> int:
    """Cancel *request* at every step, checking after each that nothing is left; count them."""
    async with scripted(handler, **server) as upstream:
        baseline, tasks = open_sockets(), len(asyncio.all_tasks())
        step, going_on = 0, True
        while going_on:
            step += 1
            async with HTTP1Transport(limits=LIMITS, verify=False) as transport:
                if before is not None:
                    await before(transport, upstream)
                going_on = await cancelled_at(request(transport, upstream), step, how)
                await fill(transport, upstream, scheme)
            await until(lambda: open_sockets() == baseline)
            await until(lambda: len(asyncio.all_tasks()) <= tasks)
        return step - 1


async def fill(transport: HTTP1Transport, upstream: RawUpstream, scheme: str) -> None:
    """Use all places at the same time, and find that there is not one more than that."""
    at, soon = origin(upstream, scheme), PATIENT._replace(pool=1)
    responses = await asyncio.gather(*(transport.exchange(at, ask(), soon) for _ in range(PLACES)))
    with pytest.raises(httpx.PoolTimeout):
        await transport.exchange(at, ask(), PATIENT._replace(pool=0.001))
    assert [await body_of(response) for response in responses] == [b"ok"] * PLACES
    for response in responses:
        await response.aclose()


async def plain(transport, upstream):
    """Make a request whose body comes in pieces."""
    assert (await fetch(transport, upstream, ask(target=b"/slowly"))).body == b"yes" * 4


async def test_on_a_new_connection(how):
    """While it connects, waits for the head, reads the body and gives the connection back."""
    assert await cancel_everywhere(plain, how) >= 4


async def test_on_a_connection_that_was_used(how):
    """The same without connecting."""
    assert await cancel_everywhere(plain, how, before=plain) >= 3


async def test_with_a_hook(how):
    """Early hints are handed to a hook that waits, too."""

    async def early_hint(_head):
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def hinted(transport, upstream):
        await fetch(transport, upstream, ask(target=b"/hints"), early_hint=early_hint)

    assert await cancel_everywhere(hinted, how) >= 7


@asynccontextmanager
async def all_taken(
    transport: HTTP1Transport, upstream: RawUpstream, target: bytes
) -> AsyncIterator[None]:
    """Hold every place until somebody waits for one, then give them back, one by one."""

    async def give_back():
        await until(lambda: pool_of(transport)._waiters or left.is_set())
        for response in responses:
            await response.aclose()

    left = asyncio.Event()
    request = ask(target=target)
    responses = [
        await transport.exchange(origin(upstream), request, PATIENT) for _ in range(PLACES)
    ]
    giving = asyncio.create_task(give_back())
    try:
        yield
    finally:
        left.set()
        await giving


@pytest.mark.parametrize("target", [b"/", b"/never"])
async def test_while_it_waits_for_a_place(how, target):
    """Whether it is then given a connection, or only the place of one that was not clean."""
    async with scripted(handler) as upstream:
        baseline, step, going_on = open_sockets(), 0, True
        while going_on:
            step += 1
            async with HTTP1Transport(limits=LIMITS) as transport:
                async with all_taken(transport, upstream, target):
                    going_on = await cancelled_at(plain(transport, upstream), step, how)
                await fill(transport, upstream, "http")
            await until(lambda: open_sockets() == baseline)

    assert step > 4


async def test_while_tls_is_negotiated(how):
    """A handshake that is broken off leaves no socket."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert("127.0.0.1").configure_cert(context)

    async def secure(transport, upstream):
        await fetch(transport, upstream, ask(target=b"/slowly"), scheme="https")

    assert await cancel_everywhere(secure, how, scheme="https", ssl=context) >= 4


@pytest.mark.parametrize("framing", ["chunks", "length"])
async def test_while_a_body_is_sent(how, framing):
    """The caller's generator is closed, and the upload's task is gone."""
    begun = ended = 0

    async def body():
        nonlocal begun, ended
        begun += 1
        try:
            for _ in range(4):
                yield b"a" * 10
                await asyncio.sleep(0.001)
        finally:
            ended += 1

    async def upload(transport, upstream):
        headers = [(b"content-length", b"40")] if framing == "length" else []
        await fetch(transport, upstream, ask("PUT", *headers, body=body()))

    assert await cancel_everywhere(upload, how) >= 3
    assert begun == ended > 0


async def test_while_a_body_is_sent_that_nobody_reads(how):
    """An upload that waits for the upstream to take more is no different."""

    async def body():
        while True:
            yield bytes(65536)

    async def stuck(transport, upstream):
        request = ask("PUT", body=body(), target=b"/slowly")
        response = await transport.exchange(origin(upstream), request, PATIENT)
        try:
            await body_of(response)
        finally:
            await response.aclose()

    assert await cancel_everywhere(stuck, how) >= 4


async def test_through_httpx(how):
    """Also with httpx's own client in between."""

    async def get(transport, upstream):
        client = httpx.AsyncClient(transport=transport)
        async with client.stream("GET", f"{upstream.url}/slowly") as response:
            assert await response.aread() == b"yes" * 4

    assert await cancel_everywhere(get, how) >= 4


async def test_every_step_is_a_step(how):
    """The instrument itself: each step of three is cancelled, and a fourth is none."""
    done = []

    async def three_steps():
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        await asyncio.wait([asyncio.ensure_future(asyncio.sleep(0))])
        done.append(True)

    for step in (1, 2, 3):
        assert await cancelled_at(three_steps(), step, how)
        assert not done
    assert not await cancelled_at(three_steps(), 4, how)
    assert done
