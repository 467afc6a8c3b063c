"""Half-open: an upstream that was ejected gets one request as a trial."""

import asyncio
import logging

import pytest

from fastapi_proxy_router import Ejection, Upstream, UpstreamPool
from fastapi_proxy_router.core.lease import Lease
from tests.faults.upstreams import gate
from tests.retries.pools import SHORT, fast, holding, refusing, true
from tests.servers import raw_upstream

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("pools")]

ALONE = Ejection(max_share=1)


async def test_the_trial_brings_an_upstream_back(pools, caplog):
    """Half-open, one request, and healthy again, with a line in the log for each."""
    caplog.set_level(logging.INFO, "fastapi_proxy_router")
    seen = []
    options = {
        "ejection": Ejection(base_time=SHORT),
        "on_state_change": lambda _upstream, before, after: seen.append((before, after)),
        "retry": fast(budget_floor=100),
    }
    async with gate(backlog=None) as entrance, raw_upstream() as good:
        async with pools.gateway_to(Upstream(entrance.upstream.url), good, **options) as gw:
            for _ in range(5):
                assert (await gw.ask()).status == 200
            await entrance.open()
            async with asyncio.timeout(10):
                while not entrance.upstream.requests:
                    assert (await gw.ask()).status == 200
            assert gw.pool.upstreams[0].health.state == "healthy"

    assert seen == [("healthy", "ejected"), ("ejected", "half-open"), ("half-open", "healthy")]
    lines = [r.getMessage() for r in caplog.records if " was " in r.getMessage()]
    assert len(lines) == 3


async def test_a_trial_that_fails_costs_the_client_nothing(pools):
    """It is made good by the others, and the upstream is ejected for longer."""
    options = {"ejection": Ejection(base_time=SHORT), "retry": fast(budget_floor=100)}
    async with refusing() as bad, raw_upstream() as good:
        async with pools.gateway_to(bad, good, **options) as gw:
            async with asyncio.timeout(10):
                while bad.requests < 6:
                    assert (await gw.ask()).status == 200

        assert (bad.health.state, bad.health.ejections) == ("ejected", 2)


async def test_there_is_one_trial_at_a_time(pools):
    """The others are served elsewhere until it is answered."""
    async with holding() as slow, raw_upstream() as good:
        async with pools.gateway_to(slow, good, ejection=Ejection(base_time=0.01)) as gw:
            bad = gw.pool.upstreams[0]
            bad.health.eject(gw.pool.clock())
            gw.pool.settle(bad, gw.pool.clock())
            async with gw.client() as client:
                async with asyncio.timeout(5):
                    while bad.health.state != "half-open":
                        gw.pool.available()
                        await asyncio.sleep(0.005)
                await client.send(gw.head())
                await true(lambda: slow.held == 1)
                assert {(await gw.ask()).status for _ in range(5)} == {200}
                assert (bad.requests, len(good.requests)) == (1, 5)
                slow.go.set()
                assert (await client.answer()).status == 200
            assert bad.health.state == "healthy"


async def test_a_trial_whose_client_leaves_says_nothing(pools):
    """The next request is the trial then."""
    async with holding() as slow:
        upstream = Upstream(slow.url)
        async with pools.gateway_to(upstream, ejection=Ejection(max_share=1, base_time=0.01)) as gw:
            upstream.health.eject(gw.pool.clock())
            async with asyncio.timeout(5):
                while upstream.health.state != "half-open":
                    upstream.health.tick(gw.pool.clock())
                    await asyncio.sleep(0.005)
            async with gw.client() as client:
                await client.send(gw.head())
                await true(lambda: slow.held == 1)
                assert upstream.health.on_trial
                client.leave("reset")
                await true(lambda: not upstream.health.on_trial)
            left = upstream.health.state
            slow.go.set()
            assert (await gw.ask()).status == 200

    assert (left, upstream.health.state) == ("half-open", "healthy")


def test_a_trial_is_over_with_its_answer():
    """What becomes of the rest of it says nothing about the next trial."""
    clock = 0.0
    pool = UpstreamPool("http://a", ejection=ALONE, clock=lambda: clock)
    (upstream,) = pool.upstreams

    upstream.health.eject(clock)
    upstream.health.tick(clock := 100.0)
    answered = Lease(upstream)
    answered.answered(200)
    upstream.health.eject(clock)
    upstream.health.tick(clock := 1000.0)
    trial = Lease(upstream)
    answered.end()

    assert upstream.health.on_trial
    trial.end()
    assert not upstream.health.on_trial


async def test_an_upload_that_does_not_come_is_no_trial_for_long(pools):
    """Else its client could keep an upstream away from all others."""
    async with raw_upstream() as back, raw_upstream() as good:
        async with pools.gateway_to(back, good, ejection=Ejection(base_time=0.01)) as gw:
            upstream = gw.pool.upstreams[0]
            upstream.health.eject(gw.pool.clock())
            gw.pool.settle(upstream, gw.pool.clock())
            async with gw.client() as client:
                async with asyncio.timeout(5):
                    while upstream.health.state != "half-open":
                        gw.pool.available()
                        await asyncio.sleep(0.005)
                await client.send(gw.head("PUT", "/x", "Content-Length: 5") + b"h")
                await true(lambda: upstream.health.on_trial)
                async with asyncio.timeout(5):
                    while upstream.health.state != "healthy":
                        assert (await gw.ask()).status == 200
                        await asyncio.sleep(0.05)
                await client.send(b"ello")
                assert (await client.answer()).status == 200
