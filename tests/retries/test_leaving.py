"""Clients that leave while another try is prepared or made: nothing of it is left."""

import asyncio
import random

import pytest

from fastapi_proxy_router import Ejection, Upstream
from tests.retries.pools import answering, closing, fast, silent, true
from tests.servers import raw_upstream

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("pools")]

EAGER = Ejection(consecutive=1)
SLOW = {"backoff": 60.0, "max_backoff": 60.0}


class Longest(random.Random):
    """A source of chance that chooses the longest wait."""

    def uniform(self, a: float, b: float) -> float:
        return b


def waits(gw, count: int = 1):
    return lambda: sum(one.requests for one in gw.pool.upstreams) == count and gw.idle()


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_during_the_wait_before_a_retry(pools, server, how):
    """The second upstream hears nothing."""
    async with closing() as one, raw_upstream() as two:
        options = {"retry": fast(**SLOW), "chance": Longest()}
        async with pools.gateway_to(one, two, server=server, **options) as gw:
            async with gw.client() as client:
                await client.send(gw.head())
                await true(one.closed.is_set)
                await true(waits(gw))
                client.leave(how)
        # The block ends when nothing is left of the exchange.
        assert two.connections == 0
        assert gw.pool.upstreams[1].requests == 0


async def test_while_a_rejected_response_is_held(pools):
    """Its connection is let go."""
    bad = answering("503 Busy", b"x" * 1_000_000)
    async with raw_upstream(bad) as one, raw_upstream() as two:
        options = {"retry": fast(statuses={503}, **SLOW), "chance": Longest()}
        async with pools.gateway_to(one, two, **options) as gw:
            async with gw.client() as client:
                await client.send(gw.head())
                await true(one.received.is_set)
                client.leave("reset")
            await true(one.closed.is_set)
            await true(gw.idle)

        assert two.connections == 0


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_during_the_second_try(pools, server, how):
    """Its upstream is told within a second, and not blamed."""
    options = {"retry": fast(), "ejection": EAGER}
    async with closing() as one, silent() as two:
        async with pools.gateway_to(one, two, server=server, **options) as gw:
            async with gw.client() as client:
                await client.send(gw.head())
                await true(two.received.is_set)
                client.leave(how)
                async with asyncio.timeout(1):
                    await two.closed.wait()

        assert [each.failures for each in gw.pool.upstreams] == [1, 0]
        assert gw.pool.upstreams[1].health.state == "healthy"


async def test_during_the_second_try_with_a_held_response(pools):
    """Both connections are closed."""
    async with raw_upstream(answering("503 Busy", b"x" * 1_000_000)) as one, silent() as two:
        async with pools.gateway_to(one, two, retry=fast(statuses={503})) as gw:
            async with gw.client() as client:
                await client.send(gw.head())
                await true(two.received.is_set)
                client.leave("reset")
            await true(lambda: one.closed.is_set() and two.closed.is_set())


async def test_during_an_upload_that_is_sent_again(pools):
    """The second upstream never sees it completed."""
    async with closing(after=5) as one:
        got = b""

        async def read(reader, _writer):
            nonlocal got
            while data := await reader.read(100):
                got += data

        async with raw_upstream(read) as two:
            async with pools.gateway_to(one, two, retry=fast()) as gw:
                async with gw.client() as client:
                    await client.send(gw.head("PUT", "/x", "Transfer-Encoding: chunked"))
                    await client.send(b"5\r\nhello\r\n")
                    await true(lambda: got == b"5\r\nhello\r\n")
                    client.leave("reset")
                await true(two.closed.is_set)

    assert b"0\r\n\r\n" not in got


async def test_before_the_answer_of_a_held_response(pools):
    """One that comes from the last upstream is not sent to nobody."""
    go = asyncio.Event()

    async def later(_reader, _writer):
        await go.wait()

    async with raw_upstream(answering("503 Busy", b"busy")) as one, raw_upstream(later) as two:
        upstreams = [Upstream(one.url), Upstream(two.url)]
        async with pools.gateway_to(*upstreams, retry=fast(statuses={503})) as gw:
            async with gw.client() as client:
                await client.send(gw.head())
                await true(two.received.is_set)
                client.leave("half")
                go.set()
                await true(gw.idle)
