"""``per_try`` and ``Timeout.total``."""

import asyncio
import random

import httpx
import pytest

from fastapi_proxy_router import HTTP1Transport, Queue, Timeout, Upstream
from fastapi_proxy_router.core.policy import Deadlines
from fastapi_proxy_router.transport import RawRequest
from tests.retries.pools import SHORT, blackhole, closing, fast, refusing, silent, true
from tests.servers import raw_upstream

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("pools")]


async def test_the_total_includes_all_tries(pools):
    """Three that hang for a while are together not longer than it."""
    options = {"retry": fast(per_try=SHORT), "timeout": Timeout(total=SHORT * 1.5)}
    async with silent() as one, silent() as two, silent() as three:
        async with pools.gateway_to(one, two, three, **options) as gw:
            assert (await gw.ask()).status == 504

        assert (len(one.requests), len(two.requests), three.connections) == (1, 1, 0)


async def test_the_total_includes_the_waits_between_tries(pools):
    """There is no try when it is over, and nobody is blamed for one."""

    class Longest(random.Random):
        def uniform(self, a, b):
            return b

    options = {
        "retry": fast(backoff=SHORT * 2, max_backoff=SHORT * 2),
        "timeout": Timeout(total=SHORT),
        "chance": Longest(),
    }
    async with closing() as one, raw_upstream() as two:
        async with pools.gateway_to(one, two, **options) as gw:
            assert (await gw.ask()).status in (502, 504)

        assert two.connections == 0
        assert [each.failures for each in gw.pool.upstreams] == [1, 0]


async def test_nobody_waits_for_a_retry_that_would_come_too_late(pools):
    """The client is told at once."""

    class Longest(random.Random):
        def uniform(self, a, b):
            return b

    options = {
        "retry": fast(backoff=30, max_backoff=30),
        "timeout": Timeout(total=5),
        "chance": Longest(),
    }
    async with closing() as one, raw_upstream() as two:
        async with pools.gateway_to(one, two, **options) as gw, asyncio.timeout(4):
            assert (await gw.ask()).status == 502

        assert two.connections == 0


async def test_the_total_includes_the_queue_of_a_retry(pools):
    """A retry that waits for its turn."""
    options = {"queue": Queue(timeout=60), "timeout": Timeout(total=SHORT)}
    async with refusing() as one, silent() as two:
        full = Upstream(two.url, max_concurrent=1)
        async with pools.gateway_to(one, full, **options) as gw:
            async with gw.client() as client:
                await client.send(gw.head("GET", "/first"))
                await true(two.received.is_set)
                async with asyncio.timeout(5):
                    assert (await gw.ask()).status in (502, 503, 504, 200)
                assert (await client.answer()).status == 504

        assert gw.idle()


async def test_a_total_that_is_over_while_an_upstream_is_silent_is_its_fault(pools):
    """As any other deadline."""
    async with silent() as one:
        async with pools.gateway_to(one, timeout=Timeout(total=SHORT)) as gw:
            assert (await gw.ask()).status == 504

        assert gw.pool.upstreams[0].failures == 1


async def test_the_time_of_a_try_is_for_each_of_them(pools):
    """The second has as long as the first had."""

    async def answer_late(_reader, writer):
        await asyncio.sleep(SHORT * 0.55)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()

    async with silent() as one, raw_upstream(answer_late) as two:
        async with pools.gateway_to(one, two, retry=fast(per_try=SHORT)) as gw:
            assert (await gw.ask()).status == 200


async def test_the_time_of_a_try_ends_with_the_head(pools):
    """A body may take longer."""

    async def slowly(_reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
        await writer.drain()
        await asyncio.sleep(SHORT * 2)
        writer.write(b"k")
        await writer.drain()

    async with raw_upstream(slowly) as one, raw_upstream() as two:
        async with pools.gateway_to(one, two, retry=fast(per_try=SHORT)) as gw:
            answer = await gw.ask()

        assert (answer.status, answer.body, two.connections) == (200, b"ok", 0)


@pytest.mark.parametrize("per_try", [None, 5.0])
async def test_a_shorter_response_timeout_still_holds(pools, per_try):
    """With ``per_try`` it is followed by another try."""
    options = {"retry": fast(per_try=per_try), "timeout": Timeout(response=SHORT)}
    async with silent() as one, raw_upstream() as two:
        async with pools.gateway_to(one, two, **options) as gw:
            assert (await gw.ask()).status == (504 if per_try is None else 200)


async def test_a_transport_of_httpx_has_the_time_of_a_try_too(pools):
    """What it had sent by then is not to be known, so only what may be repeated is."""

    class Foreign(httpx.AsyncBaseTransport):
        def __init__(self):
            self.cancelled = 0

        async def handle_async_request(self, request):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise

    foreign = Foreign()
    async with raw_upstream() as two:
        upstream = Upstream("http://127.0.0.1:9", transport=foreign)
        async with pools.gateway_to(upstream, two, retry=fast(per_try=SHORT)) as gw:
            answers = [(await gw.ask(method)).status for method in ("GET", "POST")]

    assert (answers, foreign.cancelled) == ([200, 504], 2)


@pytest.mark.parametrize(("kind", "sent"), [(blackhole, False), (silent, True)])
async def test_a_transport_that_is_cancelled_says_whether_it_has_sent_anything(kind, sent):
    """For whoever has set the deadline."""
    transport = HTTP1Transport()
    request = RawRequest("POST", b"/x", [(b"host", b"a"), (b"content-length", b"0")], b"")
    async with kind() as upstream:
        address = Upstream(upstream.url).address
        with pytest.raises(TimeoutError) as late:
            async with asyncio.timeout(SHORT):
                await transport.exchange(address, request, Deadlines())
        await transport.aclose()

    cause = late.value.__cause__
    assert cause is not None
    assert vars(cause) == {"request_sent": sent}
