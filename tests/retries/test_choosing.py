"""Who is tried next."""

import pytest

from fastapi_proxy_router import RoundRobin, Upstream
from tests.retries.pools import answering, closing, fast, refusing, script_of
from tests.servers import OK, raw_upstream

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("pools")]

BUSY = answering("503 Busy", b"busy")


async def test_each_is_tried_once(pools):
    """Then it is enough, however many attempts are left."""
    async with closing() as one, closing() as two:
        async with pools.gateway_to(one, two, retry=fast(attempts=9)) as gw:
            assert (await gw.ask()).status == 502

        assert (len(one.requests), len(two.requests)) == (1, 1)


async def test_a_single_upstream_is_tried_once(pools):
    """As in a pool that knows of no retries."""
    async with closing() as one:
        async with pools.gateway_to(one, retry=fast(statuses={503})) as gw:
            assert (await gw.ask()).status == 502
            assert (await gw.ask("PUT", body=b"hello")).status == 502

        assert len(one.requests) == 2


async def test_the_same_upstream_is_tried_again_where_that_is_asked_for(pools):
    """``same_upstream``, up to the number of attempts."""
    retry = fast(attempts=3, same_upstream=True)
    async with closing() as one:
        async with pools.gateway_to(one, retry=retry) as gw:
            assert (await gw.ask("PUT", body=b"hello")).status == 502

        assert len(one.requests) == 3


async def test_no_upstream_is_tried_twice_in_a_row_while_there_is_another(pools):
    """With ``same_upstream`` they take turns."""
    retry = fast(attempts=4, same_upstream=True)
    order = []

    def noting(name):
        async def close(_reader, _writer):
            order.append(name)

        return close

    async with raw_upstream(noting("one")) as one, raw_upstream(noting("two")) as two:
        async with pools.gateway_to(one, two, retry=retry) as gw:
            assert (await gw.ask()).status == 502

    assert order == ["one", "two", "one", "two"]


async def test_a_backup_is_tried_last(pools):
    """After every primary."""
    async with refusing() as one, refusing() as two, raw_upstream() as spare:
        backup = Upstream(spare.url, backup=True)
        async with pools.gateway_to(backup, one, two) as gw:
            assert (await gw.ask("POST", body=b"hello")).status == 200

        assert (one.requests, two.requests, len(spare.requests)) == (1, 1, 1)


async def test_a_backup_is_not_tried_while_a_primary_answers(pools):
    """The second primary is asked first."""
    async with refusing() as one, raw_upstream() as two, raw_upstream() as spare:
        backup = Upstream(spare.url, backup=True)
        async with pools.gateway_to(backup, one, Upstream(two.url)) as gw:
            assert (await gw.ask()).status == 200

        assert spare.connections == 0


async def test_one_that_is_drained_is_not_tried(pools):
    """A weight of 0 takes nothing, retries included."""
    async with closing() as one, raw_upstream() as two:
        drained = Upstream(two.url, weight=0)
        async with pools.gateway_to(Upstream(one.url), drained, retry=fast()) as gw:
            assert (await gw.ask()).status == 502

        assert two.connections == 0


async def test_the_balancer_chooses_among_those_that_were_not_tried(pools):
    """It never sees one that was."""
    seen = []

    def last(upstreams, _connection):
        seen.append(len(upstreams))
        return upstreams[-1]

    async with closing() as one, closing() as two, closing() as three:
        async with pools.gateway_to(one, two, three, balancer=last, retry=fast()) as gw:
            assert (await gw.ask()).status == 502

    assert seen == [3, 2, 1]


async def test_a_pool_of_one_answers_as_before(pools):
    """Statuses and bodies cross untouched."""
    async with raw_upstream(script_of(BUSY, OK)) as one:
        async with pools.gateway_to(one, balancer=RoundRobin()) as gw:
            answers = [await gw.ask(), await gw.ask("POST", body=b"hello")]

    assert [(answer.status, answer.body) for answer in answers] == [(503, b"busy"), (200, b"ok")]


async def test_one_that_was_removed_meanwhile_is_not_tried(pools):
    """Nor does the request fail because its own upstream has left the pool."""
    async with raw_upstream() as two:

        async def remove(_reader, _writer):
            gw.pool.remove(gw.pool.upstreams[0])

        async with raw_upstream(remove) as one:
            async with pools.gateway_to(one, two, retry=fast()) as gw:
                removed = gw.pool.upstreams[0]
                assert (await gw.ask()).status == 200
                await removed.transport.aclose()

    assert (removed.in_flight, gw.pool.in_flight) == (0, 0)
