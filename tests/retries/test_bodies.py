"""Bodies that are kept for another try, and those that are too large for that."""

import asyncio

import httpx
import pytest
from fastapi import Depends, FastAPI, Request

from fastapi_proxy_router import ProxyRouter, Timeout, Upstream, UpstreamPool
from fastapi_proxy_router.client import ClientStream
from tests.retries.pools import SHORT, closing, fast, first, silent, true
from tests.servers import get_raw, raw_upstream, serve, status

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("pools")]

LIMIT = 10_000


def data(size: int) -> bytes:
    return (b"%06d " % size * (size // 7 + 1))[:size]


@pytest.mark.parametrize("size", [1, LIMIT])
async def test_a_small_body_is_sent_again(pools, server, size):
    """As it came, byte for byte, up to the limit."""
    async with closing(after=size) as broken, raw_upstream() as good:
        retry = fast(body_limit=LIMIT)
        async with pools.gateway_to(broken, good, server=server, retry=retry) as gw:
            assert (await gw.ask("PUT", body=data(size))).status == 200

        assert [request.body for request in good.requests] == [data(size)]


@pytest.mark.parametrize("size", [LIMIT + 1, 1_000_000])
async def test_a_large_body_is_sent_once(pools, server, size):
    """Above the limit the request is simply not repeated."""
    async with closing(after=LIMIT) as broken, raw_upstream() as good:
        retry = fast(body_limit=LIMIT)
        async with pools.gateway_to(broken, good, server=server, retry=retry) as gw:
            async with gw.client() as client:
                head = gw.head("PUT", "/x", "Connection: close", f"Content-Length: {size}")
                await client.send(head + data(LIMIT))
                answer = await client.answer()

        assert answer.status == 502
        assert good.connections == 0


@pytest.mark.parametrize("chunks", [[5], [5, 5, 5]])
async def test_a_small_chunked_body_is_sent_again(pools, server, chunks):
    """Also the parts of it that come when the second upstream is asked already."""

    async def take_one(reader, _writer):
        await reader.readuntil(b"\r\n")

    async with raw_upstream(take_one) as broken, raw_upstream() as good:
        async with pools.gateway_to(broken, good, server=server, retry=fast()) as gw:
            async with gw.client() as client:
                await client.send(gw.head("PUT", "/x", "Transfer-Encoding: chunked"))
                for index, size in enumerate(chunks):
                    await client.send(b"%x\r\n%b\r\n" % (size, data(size)))
                    if index == 0:
                        async with asyncio.timeout(5):
                            await broken.closed.wait()
                        await true(lambda: good.connections, "the second is not asked")
                await client.send(b"0\r\n\r\n")

                assert (await client.answer()).status == 200
        body = b"".join(good.last.body.split(b"\r\n")[1::2])
        assert body == b"".join(data(size) for size in chunks)


async def test_what_comes_when_a_try_has_just_failed_is_not_lost(pools, server):
    """The gateway waits for it then, and has to wait on."""

    async def take_one(reader, _writer):
        await reader.readuntil(b"one")

    async with raw_upstream(take_one) as broken, raw_upstream() as good:
        async with pools.gateway_to(broken, good, server=server, retry=fast()) as gw:
            for number in range(1, 6):
                async with gw.client() as client:
                    await client.send(gw.head("PUT", "/x", "Transfer-Encoding: chunked"))
                    await client.send(b"3\r\none\r\n")
                    await true(
                        lambda n=number: len(good.requests) + good.connections >= n,
                        "the second is not asked",
                    )
                    for part in (b"two", b"six"):
                        await client.send(b"3\r\n%b\r\n" % part)
                        await asyncio.sleep(0.01)
                    await client.send(b"0\r\n\r\n")
                    assert (await client.answer()).status == 200
                body = b"".join(good.last.body.split(b"\r\n")[1::2])
                assert body == b"onetwosix"


async def test_a_chunked_body_that_grows_too_large_is_forgotten(pools):
    """Its length is not known before; what was kept is let go at the limit."""
    async with closing(after=LIMIT * 2) as broken, raw_upstream() as good:
        retry = fast(body_limit=LIMIT)
        async with pools.gateway_to(broken, good, retry=retry) as gw, gw.client() as client:
            await client.send(gw.head("PUT", "/x", "Transfer-Encoding: chunked"))
            for _ in range(3):
                await client.send(b"%x\r\n%b\r\n" % (LIMIT, data(LIMIT)))

            assert (await client.answer()).status == 502
        assert good.connections == 0


@pytest.mark.parametrize("declared", [True, False])
async def test_no_more_is_kept_than_the_limit(declared):
    """However much comes, and nothing at all of a body that is declared to be larger."""
    header = (
        (b"content-length", b"%d" % (LIMIT * 10))
        if declared
        else (
            b"transfer-encoding",
            b"chunked",
        )
    )
    left = 10

    async def receive():
        nonlocal left
        left -= 1
        return {"type": "http.request", "body": data(LIMIT), "more_body": left > 0}

    scope = {"headers": [header], "http_version": "1.1", "method": "PUT"}
    client = ClientStream(scope, receive)
    client.keep(LIMIT)
    kept, read = [], 0
    body = await client.body(None)
    assert not isinstance(body, bytes)
    async for chunk in body:
        read += len(chunk)
        kept.append(len(client._measure.replay or b""))

    assert read == LIMIT * 10
    assert max(kept) == (0 if declared else LIMIT)
    assert not client.is_replayable
    await client.aclose()


@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_nothing_is_kept_that_is_never_sent_twice(pools, method):
    """A body of a request that is not idempotent is gone once it was sent."""
    async with closing(after=5) as broken, raw_upstream() as good:
        async with pools.gateway_to(broken, good, retry=fast()) as gw:
            assert (await gw.ask(method, body=b"hello")).status == 502

        assert good.connections == 0


async def test_a_client_that_waited_for_100_continue_sends_its_body_once(pools, server):
    """It is told to go on by the first try; the second has what was kept."""
    async with closing(after=5) as broken, raw_upstream() as good:
        async with pools.gateway_to(broken, good, server=server, retry=fast()) as gw:
            async with gw.client() as client:
                headers = ("Expect: 100-continue", "Content-Length: 5")
                await client.send(gw.head("PUT", "/x", *headers))
                await client.until(b"HTTP/1.1 100 ")
                await client.send(b"hello")

                assert (await client.answer()).status == 200
                assert client.received.count(b"HTTP/1.1 100 ") == 1
        assert good.last.body == b"hello"


async def test_a_body_that_a_dependency_has_read_is_sent_again_whatever_its_size(pools):
    """It is in memory anyway."""

    async def read(request: Request) -> None:
        await request.body()

    app = FastAPI(dependencies=[Depends(read)])
    body = data(LIMIT * 10)
    async with closing(after=10) as broken, raw_upstream() as good:
        retry = fast(body_limit=LIMIT)
        pool = UpstreamPool([broken.url, good.url], balancer=first, retry=retry)
        app.include_router(ProxyRouter(pool))
        async with serve(app) as served:
            answer = await get_raw(served, method="PUT", body=body)

        assert status(answer) == 200
        assert good.last.body == body


async def test_a_slow_upload_does_not_use_up_the_time_of_a_try(pools):
    """The upstream answers in no time once it has the body; it is not to blame for the client."""
    async with raw_upstream() as good, raw_upstream() as other:
        async with pools.gateway_to(good, other, retry=fast(per_try=SHORT)) as gw:
            async with gw.client() as client:
                await client.send(gw.head("PUT", "/x", "Content-Length: 10"))
                for sign in b"0123456789":
                    await client.send(bytes([sign]))
                    await asyncio.sleep(SHORT / 5)

                assert (await client.answer()).status == 200
        assert good.last.body == b"0123456789"
        assert other.connections == 0
        assert gw.pool.upstreams[0].failures == 0


async def test_the_time_of_a_try_begins_when_the_body_is_sent(pools):
    """An upstream that has the whole body and does not answer is given up."""
    async with silent() as hanging, raw_upstream() as good:
        async with pools.gateway_to(hanging, good, retry=fast(per_try=SHORT)) as gw:
            assert (await gw.ask("PUT", body=b"hello")).status == 200

        assert good.last.body == b"hello"
        assert gw.pool.upstreams[0].failures == 1


async def test_an_upload_that_takes_too_long_in_all_is_not_the_upstreams_fault(pools):
    """``Timeout.total`` is used up by the client."""
    async with silent() as waiting, raw_upstream() as other:
        timeout = Timeout(total=SHORT)
        async with pools.gateway_to(waiting, other, timeout=timeout) as gw:
            async with gw.client() as client:
                await client.send(gw.head("PUT", "/x", "Content-Length: 10") + b"1")

                assert (await client.answer()).status == 504
        assert gw.pool.upstreams[0].failures == 0
        assert other.connections == 0


async def test_an_answer_during_an_upload_ends_the_time_of_the_try(pools):
    """What is left is the client's body and the upstream's, which may take their time."""

    async def answer_at_once(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
        await reader.readexactly(10)
        await asyncio.sleep(SHORT * 2)
        writer.write(b"k")
        await writer.drain()

    async with raw_upstream(answer_at_once) as early, raw_upstream() as other:
        options = {"retry": fast(per_try=SHORT), "timeout": Timeout(total=10)}
        async with pools.gateway_to(early, other, **options) as gw, gw.client() as client:
            await client.send(gw.head("PUT", "/x", "Content-Length: 10"))
            await client.until(b" 200 ")
            for sign in b"0123456789":
                await client.send(bytes([sign]))
                await asyncio.sleep(SHORT / 5)

            answer = await client.answer()
        assert (answer.status, answer.body) == (200, b"ok")


async def test_a_transport_of_httpx_that_fails_in_the_middle_is_made_good(pools):
    """What it has taken of the body is sent again, and its stream is left behind."""

    class Broken(httpx.AsyncBaseTransport):
        taken = b""

        async def handle_async_request(self, request):
            async for chunk in request.stream:
                self.taken += chunk
                raise httpx.ReadError("gone")

    broken = Broken()
    async with raw_upstream() as good:
        upstream = Upstream("http://127.0.0.1:9", transport=broken)
        async with pools.gateway_to(upstream, good, retry=fast(per_try=5)) as gw:
            async with gw.client() as client:
                await client.send(gw.head("PUT", "/x", "Content-Length: 10") + b"hello")
                await true(lambda: good.connections)
                await client.send(b"world")
                assert (await client.answer()).status == 200

    assert (broken.taken, good.last.body) == (b"hello", b"helloworld")
