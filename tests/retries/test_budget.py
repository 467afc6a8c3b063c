"""The budget: a pool that fails is not given twice the load."""

import asyncio

import pytest

from tests.retries.pools import answering, closing, fast, holding, refusing, true
from tests.servers import raw_upstream

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("pools")]


@pytest.mark.parametrize("upstream", [refusing, closing])
async def test_a_pool_where_all_fail_gets_a_fifth_more_and_a_few(pools, upstream):
    """20 % of the requests, and ten."""
    options = {"retry": fast(), "ejection": None, "clock": lambda: 100.0}
    async with upstream() as one, upstream() as two, upstream() as three:
        async with pools.gateway_to(one, two, three, **options) as gw:
            for _ in range(100):
                assert (await gw.ask()).status == 502

        tries = sum(each.requests for each in gw.pool.upstreams)
        assert tries == 100 + 20 + 10


async def test_a_storm_is_bounded_too(pools):
    """However many fail at the same time."""
    options = {"retry": fast(budget=0.1, budget_floor=3), "ejection": None, "clock": lambda: 100.0}
    async with closing() as one, closing() as two:
        async with pools.gateway_to(one, two, **options) as gw:
            await asyncio.gather(*(gw.ask() for _ in range(50)))

        tries = sum(each.requests for each in gw.pool.upstreams)
        assert 50 < tries <= 50 + 5 + 3


async def test_statuses_are_bounded_too(pools):
    """The client gets what there is."""
    bad = answering("503 Busy", b"busy")
    retry = fast(statuses={503}, budget=0, budget_floor=4)
    async with raw_upstream(bad) as one, raw_upstream(bad) as two:
        async with pools.gateway_to(one, two, retry=retry, clock=lambda: 100.0) as gw:
            answers = [await gw.ask() for _ in range(10)]

        assert {(answer.status, answer.body) for answer in answers} == {(503, b"busy")}
        assert len(one.requests) + len(two.requests) == 10 + 4


async def test_it_is_for_the_last_ten_seconds(pools):
    """What was used up comes back."""
    now = 100.0
    options = {"retry": fast(budget=0, budget_floor=1), "ejection": None, "clock": lambda: now}
    async with refusing() as one, raw_upstream() as two:
        async with pools.gateway_to(one, two, **options) as gw:
            used_up = [(await gw.ask()).status for _ in range(3)]
            now += 12
            after = (await gw.ask()).status

    assert (used_up, after) == ([200, 502, 502], 200)


async def test_requests_that_were_refused_pay_for_no_retries(pools):
    """A crowd at the limits is no reason to ask more of those who fail."""
    options = {"retry": fast(budget_floor=0), "ejection": None, "clock": lambda: 100.0}
    async with holding() as busy, refusing() as gone:
        async with pools.gateway_to(gone, busy, max_concurrent=1, **options) as gw:
            gw.pool.balancer = lambda upstreams, _connection: upstreams[-1]
            async with gw.client() as client:
                await client.send(gw.head())
                await true(lambda: busy.held == 1)
                for _ in range(20):
                    assert (await gw.ask()).status == 503
                busy.go.set()
                assert (await client.answer()).status == 200
            gw.pool.balancer = lambda upstreams, _connection: upstreams[0]
            assert (await gw.ask()).status == 502
