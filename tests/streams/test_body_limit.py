"""Limits of what is forwarded of a client's body."""

import asyncio
import json

import pytest
from fastapi import FastAPI, Request

from fastapi_proxy_router import Upstream
from fastapi_proxy_router.core.changes import Changes
from fastapi_proxy_router.forwarder import send_request
from tests.retries.pools import fast, true
from tests.servers import raw_upstream
from tests.streams.endpoints import MIB, Noted, in_chunks, out_of_chunks, same

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("streams")]

LIMIT = 1000
LIMITED = Changes(body_limit=LIMIT)


@pytest.mark.parametrize("size", [0, 1, LIMIT])
async def test_a_body_up_to_the_limit_is_forwarded(streams, server, size):
    """With its length, and in chunks."""
    body = b"x" * size
    async with raw_upstream() as upstream:
        async with streams.gateway_with(upstream, changes=LIMITED, server=server) as gw:
            assert (await gw.ask("POST", body=body)).status == 200
            async with gw.client() as client:
                await client.send(gw.head("POST", "/x", "Transfer-Encoding: chunked"))
                await client.send(in_chunks(*([body] if body else [])))
                assert (await client.answer()).status == 200

        assert upstream.requests[0].body == body
        assert out_of_chunks(upstream.requests[1].body) == body


async def test_a_body_that_is_declared_to_be_larger_is_refused(streams, server):
    """Before an upstream is dialled, and before the client is asked to send it."""
    async with raw_upstream() as upstream:
        async with streams.gateway_with(upstream, changes=LIMITED, server=server) as gw:
            async with gw.client() as client:
                headers = (f"Content-Length: {LIMIT + 1}", "Expect: 100-continue")
                await client.send(gw.head("POST", "/x", *headers))
                await client.end()
                answer = await client.answer()

        assert answer.status == 413
        if server != "hypercorn":  # Which says so by itself.
            assert not client.received.startswith(b"HTTP/1.1 100")
        assert json.loads(answer.body) == {"detail": "The body has more than 1000 bytes"}
        assert answer.values(b"connection") == [b"close"]
        assert upstream.connections == gw.blamed() == 0


async def test_a_body_that_grows_larger_is_refused(streams, server):
    """The upload is not completed, the connection is closed, and nobody is blamed."""
    arrived = bytearray()

    async def receive(reader, _writer):
        while data := await reader.read(65536):
            arrived.extend(data)

    async with raw_upstream(receive) as upstream, raw_upstream() as other:
        options = {"changes": LIMITED, "retry": fast(), "server": server}
        async with streams.gateway_with(upstream, other, **options) as gw, gw.client() as client:
            await client.send(gw.head("PUT", "/x", "Transfer-Encoding: chunked"))
            await client.send(in_chunks(b"x" * LIMIT, end=False))
            await true(lambda: len(arrived) >= LIMIT)
            await client.send(in_chunks(b"x"))
            await client.end()
            answer = await client.answer()
            await true(upstream.closed.is_set)

        assert (answer.status, answer.values(b"connection")) == (413, [b"close"])
        assert not arrived.endswith(b"0\r\n\r\n")
        assert other.connections == gw.blamed() == 0


async def test_a_client_that_sends_far_too_much_reads_the_refusal(streams, server):
    """While it still sends."""
    if server == "hypercorn":
        pytest.skip("hypercorn waits for ever for an application to read what it has refused")
    async with raw_upstream() as upstream:
        async with streams.gateway_with(upstream, changes=LIMITED, server=server) as gw:
            for framing in ("Transfer-Encoding: chunked", f"Content-Length: {4 * MIB}"):
                async with gw.client() as client:
                    await client.send(gw.head("POST", "/x", framing))
                    parts = [b"x" * 65536] * 64
                    body = in_chunks(*parts) if "chunked" in framing else b"".join(parts)
                    sending = asyncio.create_task(client.send(body))
                    answer = await client.answer()
                    sending.cancel()
                    await asyncio.gather(sending, return_exceptions=True)
                    assert answer.status == 413
            await true(lambda: upstream.closed.is_set() or not upstream.connections)


async def test_a_body_that_grows_too_large_after_the_answer_began_ends_it(streams):
    """There is no other way to say it any more."""

    async def duplex(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await reader.read()

    async with raw_upstream(duplex) as upstream:
        async with streams.gateway_with(upstream, changes=LIMITED) as gw, gw.client() as client:
            await client.send(gw.head("POST", "/x", "Transfer-Encoding: chunked"))
            await client.until(b"hello")
            await client.send(in_chunks(b"x" * (LIMIT + 1)))
            await client.end()
            assert not (await client.answer()).complete

        assert gw.blamed() == 0


async def test_the_limit_is_of_what_the_client_sends(streams):
    """A transform may make more of it, but cannot hide that there was more."""

    async def doubling(chunks):
        async for chunk in chunks:
            yield chunk + chunk

    async def hiding(chunks):
        try:
            async for chunk in chunks:
                yield chunk
        except Exception:  # noqa: BLE001 - that is what is tested
            return

    async with raw_upstream() as upstream:
        changes = Changes(body_limit=LIMIT, transforms=(doubling, hiding))
        async with streams.gateway_with(upstream, changes=changes) as gw:
            assert (await gw.ask("POST", body=b"x" * LIMIT)).status == 200
            async with gw.client() as client:
                await client.send(gw.head("POST", "/x", "Transfer-Encoding: chunked"))
                await client.send(in_chunks(b"x" * (LIMIT + 1)))
                assert (await client.answer()).status == 413
            await true(upstream.closed.is_set)

        assert [len(out_of_chunks(one.body)) for one in upstream.requests] == [2 * LIMIT]


async def test_the_limit_is_not_of_the_overrides_own_body(streams):
    """Nothing of the client's is forwarded then."""
    async with raw_upstream() as upstream:
        changes = Changes(body_limit=1, body=b"mine")
        async with streams.gateway_with(upstream, changes=changes) as gw:
            assert (await gw.ask("POST", body=b"hello")).status == 200

        assert upstream.last.body == b"mine"


async def test_a_body_that_was_read_before_has_the_same_limit(streams):
    """By whoever read it, with whatever limit."""
    async with raw_upstream() as upstream:
        app = FastAPI()

        @app.post("/x")
        async def forward(request: Request):
            await request.body()
            return await send_request(request, Upstream(upstream.url), changes=LIMITED)

        async with streams.gateway_with(upstream, app=app) as gw:
            async with gw.client() as client:
                await client.send(gw.head("POST", "/x", "Transfer-Encoding: chunked"))
                await client.send(in_chunks(b"x" * (LIMIT + 1)))
                assert (await client.answer()).status == 413

        assert upstream.connections == 0


async def test_no_transform_is_called_for_a_body_that_is_refused(streams):
    """It is refused before."""
    noted = Noted()
    async with raw_upstream() as upstream:
        changes = Changes(body_limit=LIMIT, transforms=(noted, same))
        async with streams.gateway_with(upstream, changes=changes) as gw:
            assert (await gw.ask("POST", body=b"x" * (LIMIT + 1))).status == 413

        assert noted.began == 0
