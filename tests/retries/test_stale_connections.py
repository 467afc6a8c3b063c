"""F21: a connection that was kept, and that its upstream closes just as we send."""

import asyncio

import pytest

from fastapi_proxy_router import Ejection, Upstream
from tests.faults.test_reuse_faults import stale
from tests.faults.upstreams import faulty
from tests.retries.pools import fast
from tests.servers import OK, raw_upstream

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("pools")]

EAGER = Ejection(consecutive=1, max_share=1)


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_it_counts_nothing_against_the_upstream(pools, how):
    """A POST may not be sent again, but neither is the upstream ill."""
    async with faulty(stale(how)) as upstream:
        async with pools.gateway_to(upstream, ejection=EAGER) as gw:
            await gw.ask()
            assert (await gw.ask("POST", "/again", body=b"hello")).status == 502

            assert gw.pool.upstreams[0].failures == 0
            assert gw.pool.upstreams[0].health.state == "healthy"


async def test_a_get_is_sent_again_to_the_same_upstream(pools):
    """On a fresh connection, which is no retry of the pool's and costs nothing."""
    options = {"retry": fast(attempts=1), "ejection": EAGER}
    async with faulty(stale("close")) as upstream, raw_upstream() as other:
        async with pools.gateway_to(upstream, other, **options) as gw:
            await gw.ask()
            assert (await gw.ask(target="/again")).status == 200

        assert other.connections == 0
        assert (gw.pool.upstreams[0].requests, gw.pool.upstreams[0].failures) == (2, 0)


async def test_a_put_with_a_body_goes_to_another_upstream(pools):
    """Its body has been kept for that."""
    async with faulty(stale("close")) as upstream, raw_upstream() as other:
        async with pools.gateway_to(upstream, other, retry=fast(), ejection=EAGER) as gw:
            await gw.ask()
            assert (await gw.ask("PUT", "/again", body=b"hello")).status == 200

        assert other.last.body == b"hello"
        assert gw.pool.upstreams[0].health.state == "healthy"


async def test_a_fresh_connection_that_breaks_counts(pools):
    """There is no race on it."""
    async with faulty(_close) as upstream:
        async with pools.gateway_to(upstream, ejection=EAGER) as gw:
            assert (await gw.ask("POST", "/x", body=b"hello")).status == 502

            assert gw.pool.upstreams[0].health.state == "ejected"


async def _close(_reader, _writer):
    return False


async def test_a_connection_that_breaks_after_a_while_counts(pools):
    """An upstream that works on a request before it dies has got it."""
    requests = 0

    async def die_slowly(reader, writer):
        nonlocal requests
        writer.write(OK)
        await writer.drain()
        await reader.readuntil(b"hello")
        requests += 1
        await asyncio.sleep(1.2)

    async with raw_upstream(die_slowly) as upstream:
        async with pools.gateway_to(Upstream(upstream.url), ejection=EAGER) as gw:
            await gw.ask()
            assert (await gw.ask("POST", body=b"hello")).status == 502

            assert requests == 1
            assert gw.pool.upstreams[0].health.state == "ejected"
