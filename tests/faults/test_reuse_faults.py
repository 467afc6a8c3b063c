"""Connections that are used for another request, and those that must not be.

====  ==============================================  ============================================
F3    reset before the answer, on a reused one        test_a_stale_connection_...
F4    closed before the answer, on a reused one       test_a_stale_connection_...
F6    a part of the answer, on a reused one           test_a_part_of_an_answer_is_not_asked_again
F20   closed after the response                       ONCE, test_a_connection_is_used_once
F21   closed just as we send                          test_a_stale_connection_...
F22   closed while idle                               test_a_connection_that_closed_...
F23   bytes after a response                          SURPLUS; `tests/test_forwarding.py`
F31   bodiless answers that announce a body           AGAIN, SURPLUS
====  ==============================================  ============================================
"""

import asyncio

import pytest
from fastapi import Depends, FastAPI, Request

from tests.faults.upstreams import faulty, reset
from tests.servers import OK, RawUpstream

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]

REPEATABLE = ("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PROPFIND")
ONCE_ONLY = ("POST", "PATCH")


def answering(answer: bytes):
    """Answer every request, and keep the connection whatever the answer says."""

    async def script(_reader, writer):
        writer.write(answer)
        await writer.drain()
        return True

    return script


AGAIN = {
    "length": OK,
    "length, kept in words": b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n" + OK[17:],
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "nothing": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "304": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n",
    "HEAD": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
    "HEAD, chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    "after 103": b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK,
}


@pytest.mark.parametrize("kind", AGAIN)
async def test_a_clean_connection_is_used_again(settled, kind):
    """F20, F31: when the answer has ended as it said, the next request needs no other."""
    method = kind.partition(",")[0] if kind.startswith("HEAD") else "GET"
    async with faulty(answering(AGAIN[kind])) as upstream, settled.gateway(upstream) as gw:
        gw.whole = {b"ok", b""}
        for _ in range(5):
            assert (await gw.ask(method)).status in (200, 204, 304)

        assert upstream.connections == 1


async def test_a_connection_is_used_again_after_a_body(settled):
    """A request with a body leaves its connection as clean as one without."""

    async def script(reader, writer):
        await reader.readexactly(int(upstream.last.values(b"content-length")[0]))
        writer.write(OK)
        await writer.drain()
        return True

    async with faulty(script) as upstream, settled.gateway(upstream) as gw:
        for _ in range(3):
            assert (await gw.ask("POST", body=b"x" * 300_000)).status == 200

        assert upstream.connections == 1


ONCE = {
    "Connection: close": b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
    "close among others": b"HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
}


@pytest.mark.parametrize("kind", ONCE)
async def test_a_connection_is_used_once_if_the_upstream_says_so(settled, kind):
    """F20: we close it, also if the upstream forgets to."""
    async with faulty(answering(ONCE[kind])) as upstream, settled.gateway(upstream) as gw:
        for count in (1, 2, 3):
            upstream.closed.clear()
            assert (await gw.ask()).status == 200
            async with asyncio.timeout(1):
                await upstream.closed.wait()
            assert upstream.connections == count


async def test_a_response_that_ends_with_its_connection_ends_it(settled):
    """F20: the next request has a connection of its own."""

    async def script(_reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nok")
        await writer.drain()

    async with faulty(script) as upstream, settled.gateway(upstream) as gw:
        for count in (1, 2, 3):
            assert (await gw.ask()).status == 200
            assert upstream.connections == count


async def test_a_half_closed_connection_is_not_used_again(settled):
    """F20: an upstream that is done sending cannot answer, although it could still read."""

    async def script(_reader, writer):
        writer.write(OK)
        writer.write_eof()
        return True

    async with faulty(script) as upstream, settled.gateway(upstream) as gw:
        for count in (1, 2, 3):
            assert (await gw.ask("POST")).status == 200
            assert upstream.connections == count


POISON = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON"
SURPLUS = {
    "HEAD": b"HTTP/1.1 200 OK\r\nContent-Length: 37\r\n\r\n",
    "304": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 37\r\n\r\n",
    "204": b"HTTP/1.1 204 No Content\r\nContent-Length: 37\r\n\r\n",
    "length": OK,
}


@pytest.mark.parametrize("kind", SURPLUS)
async def test_bytes_after_a_response_end_its_connection(settled, kind):
    """F23, F31: they are nobody's answer, also where the response announced them."""
    method = "HEAD" if kind == "HEAD" else "GET"
    async with faulty(answering(SURPLUS[kind] + POISON)) as upstream:
        async with settled.gateway(upstream) as gw:
            gw.whole = {b"ok", b""}
            for count in (1, 2, 3):
                assert (await gw.ask(method)).status in (200, 204, 304)
                assert upstream.connections == count


async def test_bytes_on_an_idle_connection_end_it(settled):
    """F23: what an upstream sends unasked is nobody's answer, also when it comes late."""
    late = asyncio.Event()

    async def script(reader, writer):
        writer.write(OK)
        await late.wait()
        writer.write(POISON)
        await reader.read()

    async with faulty(script) as upstream, settled.gateway(upstream) as gw:
        assert (await gw.ask()).status == 200
        late.set()
        async with asyncio.timeout(1):
            await upstream.closed.wait()
        assert (await gw.ask()).body == b"ok"
        assert upstream.connections == 2


def stale(how: str, spoiled: int = 1):
    """Answer the first request of each connection, and break off the second, *spoiled* times."""
    answered: set[asyncio.StreamWriter] = set()
    broken = 0

    async def script(reader, writer):
        nonlocal broken
        if broken < spoiled and writer in answered:
            broken += 1
            if how == "reset":
                reset(writer)
            return False
        answered.add(writer)
        writer.write(OK)
        await writer.drain()
        return True

    return script


def lines(upstream: RawUpstream, method: str) -> list[bytes]:
    return [r.line for r in upstream.requests if r.line.startswith(method.encode() + b" /again")]


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("method", REPEATABLE)
async def test_a_stale_connection_costs_a_repeatable_request_nothing(settled, method, how):
    """F3, F4, F21: what broke on a reused connection is sent once more on a fresh one."""
    async with faulty(stale(how)) as upstream, settled.gateway(upstream) as gw:
        gw.whole = {b"ok", b""}
        await gw.ask()
        answer = await gw.ask(method, "/again")

        assert answer.status == 200
        assert len(lines(upstream, method)) == 2
        assert upstream.connections == 2


@pytest.mark.parametrize("body", [b"", b"hello"])
@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("method", ONCE_ONLY)
async def test_a_stale_connection_fails_what_may_be_done_once_only(settled, method, how, body):
    """F3, F4, F21: the upstream may have done it, so it is never sent twice."""
    async with faulty(stale(how)) as upstream, settled.gateway(upstream) as gw:
        await gw.ask()
        answer = await gw.ask(method, "/again", body=body)

        assert answer.status == 502
        assert len(lines(upstream, method)) == 1


async def test_a_request_is_sent_a_second_time_but_no_third(settled):
    """F21: on a fresh connection a failure is a failure."""
    answered = False

    async def script(_reader, writer):
        nonlocal answered
        if answered:
            return False
        answered = True
        writer.write(OK)
        await writer.drain()
        return True

    async with faulty(script) as upstream, settled.gateway(upstream) as gw:
        await gw.ask()
        answer = await gw.ask(target="/again")

        assert answer.status == 502
        assert len(lines(upstream, "GET")) == 2


async def test_a_body_that_is_gone_is_not_sent_again_in_part(settled):
    """F21: a second attempt has the whole body, or there is none."""
    bodies: list[int] = []

    async def script(reader, writer):
        target = upstream.last.target
        if target.startswith(b"/again"):
            size = int(upstream.last.values(b"content-length")[0])
            with_body = len(lines(upstream, "PUT")) > 1
            bodies.append(len(await reader.readexactly(size if with_body else 1000)))
            if not with_body:
                return False
        writer.write(OK)
        await writer.drain()
        return True

    async with faulty(script) as upstream, settled.gateway(upstream) as gw:
        await gw.ask()
        answer = await gw.ask("PUT", "/again", body=b"x" * 300_000)

        assert (answer.status, bodies) in [(502, [1000]), (200, [1000, 300_000])]


async def test_a_body_that_was_kept_may_be_sent_again(settled):
    """F21: one that a dependency has read is there a second time, or is not sent again."""

    async def keep(request: Request) -> None:
        await request.body()

    async with faulty(stale("close")) as upstream:
        app = FastAPI(dependencies=[Depends(keep)])
        async with settled.gateway(upstream, app=app) as gw:
            await gw.ask()
            answer = await gw.ask("PUT", "/again", body=b"hello")

            assert answer.status in (200, 502)
            assert len(lines(upstream, "PUT")) == (2 if answer.status == 200 else 1)


async def test_a_part_of_an_answer_is_not_asked_again(settled):
    """F6: once a byte of the response is here, the upstream is at work."""

    async def script(_reader, writer):
        if upstream.last.target.startswith(b"/again"):
            writer.write(b"HTTP/1.1 20")
            await writer.drain()
            return False
        writer.write(OK)
        await writer.drain()
        return True

    async with faulty(script) as upstream, settled.gateway(upstream) as gw:
        await gw.ask()
        answer = await gw.ask(target="/again")

        assert answer.status == 502
        assert len(lines(upstream, "GET")) == 1


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_connection_that_closed_while_it_was_idle_is_not_used(settled, how):
    """F22: a request that may be sent once only gets a fresh one."""
    go = asyncio.Event()

    async def script(_reader, writer):
        writer.write(OK)
        await writer.drain()
        await go.wait()
        if how == "reset":
            reset(writer)

    async with faulty(script) as upstream, settled.gateway(upstream) as gw:
        await gw.ask("POST")
        go.set()
        async with asyncio.timeout(1):
            await upstream.closed.wait()

        assert (await gw.ask("POST", body=b"hello")).status == 200
        assert upstream.connections == 2
