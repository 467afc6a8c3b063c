"""F3 to F9: a request that an upstream may have got is repeated only if that does no harm."""

import asyncio

import pytest
from fastapi import FastAPI
from starlette.types import Message

from fastapi_proxy_router import HeaderEdits, ProxyRouter, RouteOverride, Timeout, UpstreamPool
from fastapi_proxy_router.transport import close_transports
from tests.retries.pools import SHORT, closing, fast, first, silent
from tests.servers import OK, get_raw, raw_upstream, serve, status

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("pools")]

SCOPE = {
    "type": "http",
    "http_version": "2",
    "method": "GET",
    "scheme": "http",
    "path": "/x",
    "raw_path": b"/x",
    "root_path": "",
    "query_string": b"",
    "headers": [(b"host", b"public.test")],
    "client": ("127.0.0.1", 1),
    "server": ("127.0.0.1", 2),
}
REPEATABLE = ("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "QUERY", "PROPFIND")
ONCE = ("POST", "PATCH", "LOCK")


@pytest.mark.parametrize("method", REPEATABLE)
async def test_an_idempotent_request_is_repeated(pools, method):
    """F4: RFC 9110, 9.2.2."""
    async with closing() as broken, raw_upstream() as good:
        async with pools.gateway_to(broken, good, retry=fast()) as gw:
            assert (await gw.ask(method)).status == 200

        assert (len(broken.requests), len(good.requests)) == (1, 1)


@pytest.mark.parametrize("method", ONCE)
async def test_another_request_is_not_repeated(pools, method):
    """F4: the upstream may have done what it says."""
    async with closing() as broken, raw_upstream() as good:
        async with pools.gateway_to(broken, good, retry=fast()) as gw:
            assert (await gw.ask(method, body=b"hello")).status == 502

        assert (len(broken.requests), good.connections) == (1, 0)


async def test_a_method_may_be_said_to_be_repeatable(pools):
    """``methods``."""
    async with closing() as broken, raw_upstream() as good:
        async with pools.gateway_to(broken, good, retry=fast(methods={"POST"})) as gw:
            assert (await gw.ask("POST", body=b"hello")).status == 200

        assert good.last.body == b"hello"


@pytest.mark.parametrize(("believed", "expected"), [(True, 200), (False, 502)])
async def test_an_idempotency_key_makes_repeatable_if_it_is_believed(pools, believed, expected):
    """``idempotency_key``; the second upstream sees the same key."""
    retry = fast(idempotency_key=believed)
    async with closing() as broken, raw_upstream() as good:
        async with pools.gateway_to(broken, good, retry=retry) as gw:
            answer = await gw.ask("POST", "/x", "Idempotency-Key: 7", body=b"hello")

        assert answer.status == expected
        assert len(good.requests) == (expected == 200)
        assert [r.values(b"idempotency-key") for r in good.requests] == [[b"7"]] * len(
            good.requests
        )


FAULTS = {
    "a part of a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "no HTTP": b"\x16\x03\x01\x00\x05hello\r\n\r\n",
    "a bad status line": b"HTTP/9 OK\r\n\r\n",
    "headers without an end": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000,
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("method", "expected"), [("GET", 200), ("POST", 502)])
async def test_an_answer_that_is_none_is_made_good_if_that_does_no_harm(
    pools, method, expected, fault
):
    """F6, F7, F8: an upstream that breaks the protocol."""

    async def answer(_reader, writer):
        writer.write(FAULTS[fault])
        await writer.drain()

    async with raw_upstream(answer) as broken, raw_upstream() as good:
        async with pools.gateway_to(broken, good, retry=fast()) as gw:
            assert (await gw.ask(method)).status == expected

        assert broken.connections == 1
        assert len(good.requests) == (expected == 200)


async def test_an_upstream_that_hangs_is_not_made_good(pools):
    """F5: the client would wait twice as long as the pool's timeout says."""
    async with silent() as hanging, raw_upstream() as good:
        timeout = Timeout(response=SHORT)
        async with pools.gateway_to(hanging, good, timeout=timeout, retry=fast()) as gw:
            assert (await gw.ask()).status == 504

        assert good.connections == 0


@pytest.mark.parametrize(("method", "expected"), [("GET", 200), ("POST", 504)])
async def test_a_try_that_hangs_for_its_time_is_made_good(pools, method, expected):
    """F5: with ``per_try``, and only where that does no harm."""
    async with silent() as hanging, raw_upstream() as good:
        async with pools.gateway_to(hanging, good, retry=fast(per_try=SHORT)) as gw:
            assert (await gw.ask(method)).status == expected

        assert len(good.requests) == (expected == 200)
        assert gw.pool.upstreams[0].failures == 1


async def test_a_head_that_drips_is_made_good(pools):
    """F9: no byte stops the clock of a try but the head's last."""

    async def drip(_reader, writer):
        for sign in b"HTTP/1.1 200 OK\r\n" * 100:
            writer.write(bytes([sign]))
            await writer.drain()
            await asyncio.sleep(0.02)

    async with raw_upstream(drip) as slow, raw_upstream() as good:
        async with pools.gateway_to(slow, good, retry=fast(per_try=SHORT)) as gw:
            assert (await gw.ask()).status == 200


@pytest.mark.parametrize("rest", [b"Content-Length: 9\r\n\r\nhello", b"\r\n"])
async def test_nothing_is_repeated_once_a_byte_was_sent_to_the_client(pools, rest):
    """F10, F11: the client is cut off and sees no second answer."""

    async def truncate(_reader, writer):
        head = b"HTTP/1.1 200 OK\r\n"
        chunked = b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
        writer.write(head + (rest if rest != b"\r\n" else chunked))
        await writer.drain()

    async with raw_upstream(truncate) as broken, raw_upstream() as good:
        async with pools.gateway_to(broken, good, retry=fast()) as gw:
            answer = await gw.ask()

        assert (answer.status, answer.complete, answer.rest) == (200, False, b"")
        assert good.connections == 0
        assert gw.pool.upstreams[0].failures == 1


async def test_nothing_is_repeated_after_an_early_hint(pools):
    """F17: the client has something of the first upstream's already."""

    async def hint_and_close(_reader, writer):
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n")
        await writer.drain()

    sent: list[Message] = []
    received = iter([{"type": "http.request"}])

    async def receive() -> Message:
        for message in received:
            return message
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    async with raw_upstream(hint_and_close) as broken, raw_upstream() as good:
        pool = UpstreamPool([broken.url, good.url], balancer=first, retry=fast())
        app = FastAPI()
        app.include_router(ProxyRouter(pool))
        # Of the servers only some offer it, and these for HTTP/2.
        await app({**SCOPE, "extensions": {"http.response.early_hint": {}}}, receive, send)
        await close_transports(pool.upstreams)

        assert [message.get("status") for message in sent] == [None, 502, None]
        assert good.connections == 0


async def test_a_hint_that_is_not_passed_on_does_not_stop_a_retry(pools):
    """F17: where the server has no early hints, the client has got nothing."""

    async def hint_and_close(_reader, writer):
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n")
        await writer.drain()

    async with raw_upstream(hint_and_close) as broken, raw_upstream(OK) as good:
        async with pools.gateway_to(broken, good, retry=fast()) as gw:
            assert (await gw.ask()).status == 200

        assert len(good.requests) == 1


@pytest.mark.parametrize("line", ["Connection: close, Idempotency-Key", "X-Drop: yes"])
async def test_a_key_that_is_not_sent_makes_nothing_repeatable(pools, line):
    """The client can have it dropped, and so can an override: the upstream knows of no key then."""
    app = FastAPI()
    async with closing() as broken, raw_upstream() as good:
        pool = UpstreamPool(
            [broken.url, good.url], balancer=first, retry=fast(idempotency_key=True)
        )
        edits = HeaderEdits(remove=["idempotency-key"] if "Drop" in line else [])
        override = RouteOverride(path="/x", request_headers=edits)
        app.include_router(ProxyRouter(pool, overrides=[override]))
        async with serve(app) as served:
            answer = await get_raw(served, "/x", "Idempotency-Key: 7", line, method="POST")

        assert (status(answer), len(broken.requests), good.connections) == (502, 1, 0)
