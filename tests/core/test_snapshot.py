"""core.snapshot: what a pool is doing, for operators."""

import json

import httpx
import pytest
from fastapi import FastAPI

from fastapi_proxy_router import Upstream, UpstreamPool
from fastapi_proxy_router.core.checks import Ejection, HealthCheck
from fastapi_proxy_router.core.lease import Lease
from fastapi_proxy_router.core.retry import Retry
from fastapi_proxy_router.core.snapshot import PoolSnapshot
from tests.core.clock import FakeClock


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def pool(clock: FakeClock) -> UpstreamPool:
    """One that answers, one that is ejected, and a backup that drains."""
    pool = UpstreamPool(
        [
            "http://a:8000/base?key=secret",
            "http://b",
            Upstream("https://c", weight=0, backup=True, address="10.0.0.3"),
        ],
        name="users",
        ejection=Ejection(consecutive=1, base_time=10.0),
        retry=Retry(budget=0.0, budget_floor=2),
        clock=clock,
    )
    a, b, _ = pool.upstreams
    lease = Lease(a)
    clock.move(0.5)
    lease.answered(200)
    failing = Lease(b)
    failing.failed()
    failing.end()
    pool.waiting.append(lambda: None)
    pool.budget.withdraw(clock())
    return pool


def test_it_says_what_the_pool_is_doing(pool, clock):
    """All of it at one moment."""
    clock.move(2.5)
    shot = pool.snapshot()

    assert shot.model_dump(exclude={"upstreams"}) == {
        "name": "users",
        "in_flight": 1,
        "waiting": 1,
        "retries": 1,
        "retries_spent": False,
        "panic": False,
    }


def test_it_says_what_each_upstream_is_doing(pool, clock):
    """Without the query of its URL, which may be a secret."""
    clock.move(2.5)
    latencies = [upstream.latency.at(clock()) for upstream in pool.upstreams]
    common: dict[str, object] = {
        "address": None,
        "weight": 1,
        "effective_weight": 1,
        "backup": False,
    }
    common |= {"backup": False, "draining": False, "in_flight": 0, "requests": 1, "failures": 0}
    common |= {"state": "healthy", "ejections": 0, "ejected_for": None}
    first = {"url": "http://a:8000/base", "in_flight": 1, "latency": latencies[0]}
    second = {"url": "http://b", "state": "ejected", "failures": 1, "latency": latencies[1]}
    second |= {"ejections": 1, "ejected_for": 7.5}
    third: dict[str, object] = {
        "latency": None,
        "url": "https://c",
        "address": "10.0.0.3",
        "weight": 0,
        "effective_weight": 0,
    }
    third |= {"backup": True, "draining": True, "requests": 0}

    assert [each.model_dump() for each in pool.snapshot().upstreams] == [
        common | first,
        common | second,
        common | third,
    ]


def test_it_knows_what_time_alone_has_changed(pool, clock):
    """The ejection is over."""
    clock.move(10)
    upstream = pool.snapshot().upstreams[1]

    assert (upstream.state, upstream.ejected_for) == ("half-open", None)


def test_it_says_that_the_budget_is_spent(pool, clock):
    """And for how long."""
    pool.budget.withdraw(clock())
    assert pool.snapshot().retries_spent
    clock.move(12)

    assert (pool.snapshot().retries_spent, pool.snapshot().retries) == (False, 0)


def test_it_says_that_the_pool_is_in_panic(clock):
    """All of its upstreams are unhealthy."""
    pool = UpstreamPool("http://a", health=HealthCheck(), clock=clock)
    pool.upstreams[0].health.probed(clock(), ok=False)
    pool.settle(pool.upstreams[0], clock())

    assert pool.snapshot().panic


def test_it_does_not_change_with_the_pool(pool):
    """It is of one moment."""
    shot = pool.snapshot()
    Lease(pool.upstreams[0])

    assert shot.in_flight == 1
    with pytest.raises(ValueError, match="frozen"):
        shot.in_flight = 2


def test_it_becomes_json_and_comes_back(pool):
    """With everything in it."""
    shot = pool.snapshot()

    assert PoolSnapshot.model_validate_json(shot.model_dump_json()) == shot
    assert json.loads(shot.model_dump_json())["upstreams"][1]["state"] == "ejected"


async def test_an_endpoint_may_return_it(pool: UpstreamPool):
    """It is in the OpenAPI schema."""
    app = FastAPI()

    @app.get("/pools/users")
    async def users() -> PoolSnapshot:
        return pool.snapshot()

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        answer = await client.get("/pools/users")

    assert PoolSnapshot.model_validate_json(answer.content) == pool.snapshot()
    assert "secret" not in answer.text
    assert {"PoolSnapshot", "UpstreamSnapshot"} <= app.openapi()["components"]["schemas"].keys()


def test_the_repr_is_for_operators(pool):
    """It counts those that are healthy and not drained, and changes nothing."""
    assert repr(pool) == "<UpstreamPool 'users' 3 upstreams: 1 healthy, 1 in flight>"
