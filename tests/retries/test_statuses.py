"""Statuses that are tried again: the last real response is what the client gets, and all of it."""

import asyncio
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI, Request

from fastapi_proxy_router import (
    Ejection,
    ProxyRouter,
    Timeout,
    Upstream,
    UpstreamPool,
    proxy_pass,
)
from tests.retries.pools import (
    SHORT,
    WAYS,
    answering,
    blackhole,
    closing,
    fast,
    first,
    refusing,
    script_of,
    silent,
    true,
)
from tests.servers import OK, get_raw, raw_upstream, serve, status

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("pools")]

BUSY = answering("503 Busy", b"busy", "X-From: first", "Set-Cookie: a=first", "Retry-After: 7")
LIMITED = answering("429 Slow", b"slow down", "X-From: second", "Retry-After: 9")
CHOSEN = fast(statuses={429, 503})


@pytest.mark.parametrize("way", WAYS)
async def test_a_chosen_status_is_tried_again(pools, server, way):
    """Nothing of the first response reaches the client."""
    good = answering("201 Created", b"good", "X-From: second")
    async with raw_upstream(BUSY) as bad, raw_upstream(good) as other:
        async with pools.gateway_to(bad, other, server=server, way=way, retry=CHOSEN) as gw:
            answer = await gw.ask("GET")

        assert (answer.status, answer.body) == (201, b"good")
        assert answer.values(b"x-from") == [b"second"]
        assert answer.values(b"set-cookie") == answer.values(b"retry-after") == []


async def test_another_status_is_an_answer(pools):
    """500 was not chosen."""
    async with raw_upstream(answering("500 Oops", b"oops")) as bad, raw_upstream() as other:
        async with pools.gateway_to(bad, other, retry=CHOSEN) as gw:
            answer = await gw.ask()

        assert (answer.status, answer.body, other.connections) == (500, b"oops", 0)


async def test_no_status_is_tried_again_by_default(pools):
    """F29: an answer is an answer."""
    async with raw_upstream(BUSY) as bad, raw_upstream() as other:
        async with pools.gateway_to(bad, other) as gw:
            assert (await gw.ask()).status == 503

        assert other.connections == 0


async def test_a_post_is_not_tried_again(pools):
    """F29: the upstream may have done something of it."""
    async with raw_upstream(BUSY) as bad, raw_upstream() as other:
        async with pools.gateway_to(bad, other, retry=CHOSEN) as gw:
            answer = await gw.ask("POST", body=b"hello")

        assert (answer.status, answer.body, other.connections) == (503, b"busy", 0)


@pytest.mark.parametrize("way", WAYS)
async def test_the_client_gets_the_last_of_the_rejected(pools, server, way):
    """Not the first, and no 502 of ours, with all its headers."""
    async with raw_upstream(BUSY) as one, raw_upstream(LIMITED) as two:
        async with pools.gateway_to(one, two, server=server, way=way, retry=CHOSEN) as gw:
            answer = await gw.ask()

        assert (answer.status, answer.body) == (429, b"slow down")
        assert (answer.values(b"x-from"), answer.values(b"retry-after")) == ([b"second"], [b"9"])
        assert answer.values(b"set-cookie") == []


@pytest.mark.parametrize("last", [refusing, closing, blackhole, silent])
async def test_the_client_gets_the_last_real_response(pools, last):
    """An upstream that says something says more than one that fails."""
    options = {"retry": fast(statuses={503, 429}, per_try=SHORT)}
    async with raw_upstream(BUSY) as one, raw_upstream(LIMITED) as two, last() as three:
        async with pools.gateway_to(one, two, three, **options) as gw:
            answer = await gw.ask()

        assert (answer.status, answer.body, answer.complete) == (429, b"slow down", True)


async def test_a_failure_before_a_rejected_status_does_not_hide_it(pools):
    """502 for the first, 503 from the second: the client gets the 503."""
    async with refusing() as one, raw_upstream(BUSY) as two:
        async with pools.gateway_to(one, two, retry=CHOSEN) as gw:
            answer = await gw.ask()

        assert (answer.status, answer.body) == (503, b"busy")


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_large_rejected_response_is_given_whole(pools, server, chunked):
    """It waits in its connection, not in memory, while the others are asked."""
    body = bytes(range(256)) * 4000
    if chunked:
        head = b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n"
        raw = head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    else:
        raw = answering("503 Busy", body)
    async with raw_upstream(raw) as one, closing() as two:
        async with pools.gateway_to(one, two, server=server, retry=CHOSEN) as gw:
            answer = await gw.ask()

        assert (answer.status, answer.complete) == (503, True)
        assert answer.body == body


async def test_a_large_rejected_response_that_is_not_wanted_is_dropped(pools):
    """Its connection is closed, not read to its end."""
    async with raw_upstream(answering("503 Busy", b"x" * 4_000_000)) as one, raw_upstream() as two:
        async with pools.gateway_to(one, two, retry=CHOSEN) as gw:
            assert (await gw.ask()).status == 200
            await true(one.closed.is_set)


async def test_the_body_of_a_request_is_sent_again(pools):
    """As far as it was kept."""
    async with raw_upstream(BUSY) as one, raw_upstream() as two:
        async with pools.gateway_to(one, two, retry=CHOSEN) as gw:
            assert (await gw.ask("PUT", body=b"hello")).status == 200

        assert (one.last.body, two.last.body) == (b"hello", b"hello")


async def test_the_body_of_a_request_is_sent_again_on_every_server(pools, server):
    """Also where the server tells of its end in a message of its own."""
    async with raw_upstream(BUSY) as one, raw_upstream() as two:
        async with pools.gateway_to(one, two, server=server, retry=CHOSEN) as gw:
            async with gw.client() as client:
                await client.send(gw.head("PUT", "/x", "Content-Length: 10") + b"hello")
                await true(lambda: one.connections)
                await client.send(b"world")
                assert (await client.answer()).status == 200

        assert two.last.body == b"helloworld"


async def test_a_rejected_status_during_an_upload_is_the_answer(pools):
    """F18: two upstreams cannot be sent the same body at the same time."""

    async def refuse_early(reader, writer):
        writer.write(answering("503 Busy", b"busy"))
        await writer.drain()
        await reader.read()

    async with raw_upstream(refuse_early) as one, raw_upstream() as two:
        async with pools.gateway_to(one, two, retry=CHOSEN) as gw, gw.client() as client:
            await client.send(gw.head("PUT", "/x", "Content-Length: 10") + b"hello")
            await client.until(b" 503 ")
            await client.send(b"world")
            assert (await client.answer()).body == b"busy"

        assert two.connections == 0


async def test_a_body_that_is_too_large_makes_a_rejected_status_the_answer(pools):
    """It is gone."""
    retry = fast(statuses={503}, body_limit=10)
    async with raw_upstream(BUSY) as one, raw_upstream() as two:
        async with pools.gateway_to(one, two, retry=retry) as gw:
            assert (await gw.ask("PUT", body=b"x" * 11)).status == 503
            assert (await gw.ask("PUT", body=b"x" * 10)).status == 200

        assert len(two.requests) == 1


async def test_a_status_that_is_tried_again_is_no_failure(pools):
    """Passive health has its own list."""
    async with raw_upstream(BUSY) as one, raw_upstream() as two:
        async with pools.gateway_to(one, two, retry=CHOSEN) as gw:
            for _ in range(10):
                assert (await gw.ask()).status == 200

        assert gw.pool.upstreams[0].failures == 0
        assert gw.pool.upstreams[0].health.state == "healthy"


async def test_a_status_may_be_both_tried_again_and_a_failure(pools):
    """The upstream is ejected, and asked no more."""
    ejection = Ejection(consecutive=3, statuses={503})
    async with raw_upstream(BUSY) as one, raw_upstream() as two:
        async with pools.gateway_to(one, two, retry=CHOSEN, ejection=ejection) as gw:
            for _ in range(10):
                assert (await gw.ask()).status == 200

        assert (len(one.requests), gw.pool.upstreams[0].health.state) == (3, "ejected")


async def test_the_total_holds_for_a_response_that_was_held(pools):
    """And a response that is complete is given to the client although time is up."""
    options = {"retry": fast(statuses={503}), "timeout": Timeout(total=SHORT)}
    async with raw_upstream(BUSY) as one, silent() as two:
        async with pools.gateway_to(one, two, **options) as gw:
            async with asyncio.timeout(5):
                answer = await gw.ask()

        assert answer.status in (503, 504)
        assert answer.complete or answer.status == 503


async def test_the_second_answer_of_the_same_upstream_is_taken(pools):
    """``same_upstream``, in a pool of one."""
    retry = fast(statuses={503}, same_upstream=True)
    async with raw_upstream(script_of(BUSY, OK)) as one:
        async with pools.gateway_to(one, retry=retry) as gw:
            assert (await gw.ask()).status == 200

        assert len(one.requests) == 2


async def test_a_body_of_an_endpoint_is_sent_again_though_nobody_reads_the_clients(pools):
    """The client's is not sent to anybody, so that it does not matter how far it has come."""
    app = FastAPI()
    async with raw_upstream(BUSY) as bad, raw_upstream() as other:
        pool = UpstreamPool([bad.url, other.url], balancer=first, retry=CHOSEN)

        @app.put("/x")
        async def put(request: Request, upstream: Annotated[Upstream, Depends(pool)]):
            return await proxy_pass(request, upstream, body=b"ours")

        app.include_router(ProxyRouter(pool, prefix="/unused"))
        async with serve(app) as served:
            answer = await get_raw(served, "/x", method="PUT", body=b"theirs")

        assert (status(answer), other.last.body) == (200, b"ours")
