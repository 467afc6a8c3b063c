"""The queue: who waits for a turn, for how long, and in which order."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import websockets

from fastapi_proxy_router import (
    Ejection,
    HeaderAffinity,
    Queue,
    RateLimit,
    Timeout,
    Upstream,
    UpstreamPool,
)
from fastapi_proxy_router.admission import admitted
from fastapi_proxy_router.core.lease import Lease
from tests.retries.pools import (
    SHORT,
    WAYS,
    answering,
    closing,
    fast,
    holding,
    refusing,
    true,
)
from tests.servers import raw_upstream

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("pools")]


@asynccontextmanager
async def occupied(pools, *others, queue: Queue, server="uvicorn-httptools", **options):
    """Serve a gateway whose first upstream takes one request at a time, and has it."""
    async with holding() as busy:
        upstreams = (Upstream(busy.url, max_concurrent=1), *others)
        async with pools.gateway_to(*upstreams, server=server, queue=queue, **options) as gw:
            async with gw.client() as client:
                await client.send(gw.head("GET", "/first"))
                await true(lambda: busy.held == 1)
                yield gw, busy
                busy.go.set()
                assert (await client.answer()).status == 200


async def waiting(gw, count: int) -> None:
    await true(lambda: len(gw.pool.waiting) == count, f"{len(gw.pool.waiting)} wait")


@pytest.mark.parametrize("way", WAYS)
async def test_a_request_waits_for_its_turn(pools, server, way):
    """It is sent when the one before it is over."""
    async with occupied(pools, queue=Queue(), server=server, way=way) as (gw, busy):
        asking = asyncio.create_task(gw.ask("POST", "/second", body=b"hello"))
        await waiting(gw, 1)
        assert len(busy.requests) == 1
        busy.go.set()
        assert (await asking).status == 200


async def test_the_first_that_came_is_the_first_that_goes(pools):
    """As the upstream sees them."""
    async with occupied(pools, queue=Queue()) as (gw, busy):
        asking = []
        for number in range(5):
            asking.append(asyncio.create_task(gw.ask("GET", f"/{number}")))
            await waiting(gw, number + 1)
        busy.go.set()
        assert [answer.status for answer in await asyncio.gather(*asking)] == [200] * 5

    targets = [request.target for request in busy.requests]
    assert targets == [b"/first", b"/0", b"/1", b"/2", b"/3", b"/4"]


async def test_nobody_overtakes_those_who_wait(pools):
    """One that comes when there is room, but others wait for it, waits behind them."""
    async with occupied(pools, queue=Queue()) as (gw, busy):
        asking = [asyncio.create_task(gw.ask("GET", "/0"))]
        await waiting(gw, 1)
        busy.go.set()
        asking += [asyncio.create_task(gw.ask("GET", f"/{n}")) for n in range(1, 20)]
        assert {answer.status for answer in await asyncio.gather(*asking)} == {200}

    assert busy.requests[1].target == b"/0"


async def test_nobody_overtakes_one_that_was_just_woken():
    """In the moment between the end of an exchange and the next turn of the event loop."""
    pool = UpstreamPool(Upstream("http://a", max_concurrent=1), queue=Queue(timeout=5))
    (upstream,) = pool.upstreams
    order = []

    async def request(name: str) -> None:
        taken = await admitted(upstream, {"type": "http", "headers": []})
        lease = Lease(taken)
        order.append(name)
        await asyncio.sleep(0)
        lease.end()

    running = Lease(upstream)
    waiter = asyncio.create_task(request("one"))
    await true(lambda: len(pool.waiting) == 1)
    running.end()
    await request("two")
    await waiter

    assert order == ["one", "two"]


async def test_a_queue_that_is_full_refuses_at_once(pools):
    """503 with Retry-After."""
    async with occupied(pools, queue=Queue(size=1, timeout=60)) as (gw, busy):
        asking = asyncio.create_task(gw.ask())
        await waiting(gw, 1)
        refused = await gw.ask()
        busy.go.set()

        assert (refused.status, refused.values(b"retry-after")) == (503, [b"1"])
        assert (await asking).status == 200


async def test_a_wait_that_is_too_long_is_a_503(pools):
    """And the place in the queue is free again."""
    async with occupied(pools, queue=Queue(size=1, timeout=SHORT)) as (gw, _busy):
        for _ in range(2):
            assert (await gw.ask()).status == 503
        assert not gw.pool.waiting


async def test_a_wait_ends_when_the_request_has_to_be_over(pools):
    """``Timeout.total`` includes the queue."""
    options = {"queue": Queue(timeout=60), "timeout": Timeout(total=SHORT)}
    async with holding() as busy:
        full = Upstream(busy.url, max_concurrent=1)
        async with pools.gateway_to(full, **options) as gw, gw.client() as client:
            await client.send(gw.head())
            await true(lambda: busy.held == 1)
            async with asyncio.timeout(5):
                assert (await gw.ask()).status in (503, 504)
            assert (await client.answer()).status == 504


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_leaves_gives_its_place_back(pools, server, how):
    """Those behind it move up, and the upstream hears nothing of it."""
    async with occupied(pools, queue=Queue(size=2, timeout=60), server=server) as (gw, busy):
        async with gw.client() as leaver:
            await leaver.send(gw.head("GET", "/left"))
            await waiting(gw, 1)
            asking = asyncio.create_task(gw.ask("GET", "/stayed"))
            await waiting(gw, 2)
            leaver.leave(how)
            await waiting(gw, 1)
        busy.go.set()
        assert (await asking).status == 200

    assert [request.target for request in busy.requests] == [b"/first", b"/stayed"]
    assert gw.pool.upstreams[0].failures == 0


async def test_all_who_wait_are_served_however_many_end_at_once(pools):
    """No wake-up is lost between those that end and those that begin."""
    async with holding() as busy, AsyncExitStack() as stack:
        full = Upstream(busy.url, max_concurrent=4)
        gw = await stack.enter_async_context(
            pools.gateway_to(full, queue=Queue(size=60, timeout=30), max_concurrent=3)
        )
        asking = [asyncio.create_task(gw.ask("GET", f"/{n}")) for n in range(40)]
        await true(lambda: busy.held == 3 and len(gw.pool.waiting) == 37)
        busy.go.set()
        async with asyncio.timeout(20):
            assert {answer.status for answer in await asyncio.gather(*asking)} == {200}

    assert len(busy.requests) == 40


async def test_no_turn_is_lost_when_those_whose_turn_it_is_leave(pools):
    """In the moment in which a place becomes free."""
    async with occupied(pools, queue=Queue(size=60, timeout=30)) as (gw, busy):
        async with AsyncExitStack() as stack:
            leavers = []
            for number in range(10):
                leavers.append(await stack.enter_async_context(gw.client()))
                await leavers[-1].send(gw.head("GET", "/left"))
                await waiting(gw, number + 1)
            asking = asyncio.create_task(gw.ask("GET", "/stayed"))
            await waiting(gw, 11)
            busy.go.set()
            for leaver in leavers:
                leaver.leave("reset")
            async with asyncio.timeout(10):
                assert (await asking).status == 200


async def test_the_end_of_a_window_wakes_those_who_wait(pools):
    """Nothing else would: no exchange ends meanwhile."""
    async with raw_upstream() as good:
        limited = Upstream(good.url, rate_limit=RateLimit(2, SHORT))
        async with pools.gateway_to(limited, queue=Queue(timeout=30)) as gw:
            async with asyncio.timeout(10):
                answers = await asyncio.gather(*(gw.ask() for _ in range(6)))

        assert {answer.status for answer in answers} == {200}


async def test_an_upstream_that_comes_wakes_those_who_wait(pools):
    """``pool.add`` makes room, and so does a weight."""
    async with occupied(pools, queue=Queue(timeout=60)) as (gw, _busy), raw_upstream() as other:
        asking = asyncio.create_task(gw.ask())
        await waiting(gw, 1)
        gw.pool.add(other.url)
        assert (await asking).status == 200
        assert len(other.requests) == 1


async def test_an_ejection_that_is_over_wakes_those_who_wait(pools):
    """The upstream may have its trial while the other one is busy."""
    ejection = Ejection(consecutive=1, base_time=SHORT)
    options = {"ejection": ejection, "retry": fast(attempts=1)}
    async with (
        raw_upstream() as good,
        occupied(pools, Upstream(good.url), queue=Queue(timeout=60), **options) as (gw, _busy),
    ):
        bad = gw.pool.upstreams[1]
        bad.health.eject(gw.pool.clock())
        gw.pool.settle(bad, gw.pool.clock())
        async with asyncio.timeout(10):
            assert (await gw.ask()).status == 200
        assert bad.requests == 1


async def test_a_retry_waits_for_its_turn_with_the_other(pools):
    """What could not be sent waits like any request."""
    async with refusing() as gone, holding() as busy:
        full = Upstream(busy.url, max_concurrent=1)
        async with pools.gateway_to(full, gone, queue=Queue(timeout=60)) as gw:
            async with gw.client() as client:
                await client.send(gw.head())
                await true(lambda: busy.held == 1)
                asking = asyncio.create_task(gw.ask("POST", body=b"hello"))
                await waiting(gw, 1)
                busy.go.set()
                assert (await asking).status == 200
                assert (await client.answer()).status == 200

        assert gone.requests == 1


async def test_a_retry_that_waits_does_not_stop_those_behind_it(pools):
    """They may take what it has tried already."""
    async with closing() as broken, holding() as busy:
        full = Upstream(busy.url, max_concurrent=1)
        flaky = Upstream(broken.url, max_concurrent=1)
        options = {"queue": Queue(timeout=60), "retry": fast(attempts=2)}
        async with pools.gateway_to(full, flaky, **options) as gw, gw.client() as client:
            await client.send(gw.head())
            await true(lambda: busy.held == 1)
            retried = asyncio.create_task(gw.ask())
            await waiting(gw, 1)
            async with asyncio.timeout(10):
                assert (await gw.ask("POST")).status == 502
            assert len(gw.pool.waiting) == 1
            busy.go.set()
            assert (await retried).status == 200
            assert (await client.answer()).status == 200


async def test_who_has_an_answer_does_not_wait_for_a_better_one(pools):
    """It would keep its place, for which others wait: two of them would wait for each other."""
    bad = answering("503 Busy", b"sorry")
    async with raw_upstream(bad) as one, raw_upstream(bad) as two:
        upstreams = [Upstream(each.url, max_concurrent=1) for each in (one, two)]
        options = {"queue": Queue(timeout=60), "retry": fast(statuses={503})}
        async with pools.gateway_to(*upstreams, **options) as gw:
            async with asyncio.timeout(10):
                answers = await asyncio.gather(*(gw.ask() for _ in range(10)))

        assert {(answer.status, answer.body) for answer in answers} == {(503, b"sorry")}


@pytest.mark.parametrize("way", WAYS)
async def test_a_websocket_waits_for_its_turn(pools, server, way):
    """Its client is accepted when the upstream has accepted it."""
    async with occupied(pools, queue=Queue(), server=server, way=way) as (gw, busy):
        opening = asyncio.create_task(_refused(f"{gw.served.ws}/ws"))
        await waiting(gw, 1)
        busy.go.set()
        # It is no upstream for WebSockets, but was asked.
        assert await opening == 502

    assert busy.requests[-1].values(b"upgrade") == [b"websocket"]


async def _refused(url: str) -> int:
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with websockets.connect(url, proxy=None):
            pass
    return refused.value.response.status_code


async def test_a_websocket_whose_client_leaves_gives_its_place_back(pools, server):
    """It is heard of before the accept, where the server tells."""
    if server == "granian":
        pytest.skip("granian tells nothing of a client before the accept")
    async with occupied(pools, queue=Queue(timeout=60), server=server) as (gw, busy):
        opening = asyncio.create_task(_refused(f"{gw.served.ws}/ws"))
        await waiting(gw, 1)
        opening.cancel()
        await waiting(gw, 0)

    assert len(busy.requests) == 1


async def test_those_who_wait_for_one_upstream_do_not_shut_the_others(pools):
    """A queue that is full of clients that are bound to one is no reason to refuse the rest."""
    affinity = HeaderAffinity("x-upstream", failure="refuse")
    options = {"queue": Queue(size=2, timeout=60), "affinity": affinity}
    async with holding() as busy, raw_upstream() as good:
        full = Upstream(busy.url, max_concurrent=1)
        async with pools.gateway_to(full, good, **options) as gw, gw.client() as client:
            bound = f"{affinity.place[-1]}: {affinity.key_of(full)}"
            await client.send(gw.head("GET", "/first", bound))
            await true(lambda: busy.held == 1)
            asking = [asyncio.create_task(gw.ask("GET", "/x", bound)) for _ in range(2)]
            await waiting(gw, 2)
            assert (await gw.ask("GET", "/x", bound)).status == 503
            assert (await gw.ask()).status == 200
            busy.go.set()
            assert [answer.status for answer in await asyncio.gather(*asking)] == [200, 200]
            assert (await client.answer()).status == 200

        assert len(good.requests) == 1
