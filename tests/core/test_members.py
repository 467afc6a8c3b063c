"""core.members: who may be picked now."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from fastapi_proxy_router import RoundRobin, Upstream, UpstreamPool
from fastapi_proxy_router.core.checks import Ejection, HealthCheck
from fastapi_proxy_router.core.lease import Lease
from tests.core.clock import FakeClock


@pytest.fixture
def clock():
    return FakeClock()


def a_pool(clock: FakeClock, hosts: str = "abc", **options: Any) -> UpstreamPool:
    """One upstream for each letter; a capital one is a backup."""
    ejection = Ejection(consecutive=1, rate=None, max_share=1.0)
    upstreams = [Upstream(f"http://{host}", backup=host.isupper()) for host in hosts]
    given = {"balancer": RoundRobin(), "ejection": ejection, "clock": clock, **options}
    return UpstreamPool(upstreams, **given)


def member(pool: UpstreamPool, host: str) -> Upstream:
    return next(one for one in pool.upstreams if one.url == f"http://{host}")


def available(pool: UpstreamPool) -> str:
    return "".join(one.url[-1] for one in pool.available())


def eject(pool: UpstreamPool, hosts: str) -> None:
    for host in hosts:
        lease = Lease(member(pool, host))
        lease.failed()
        lease.end()


def probe(pool: UpstreamPool, **results: bool) -> None:
    for host, ok in results.items():
        member(pool, host).health.probed(pool.clock(), ok=ok)
        pool.settle(member(pool, host), pool.clock())


def test_the_same_tuple_is_returned_until_something_changes(clock):
    """So that a balancer can remember what it has worked out for it."""
    pool = a_pool(clock)
    before = pool.available()
    clock.move(1e9)
    Lease(before[0]).answered(200)
    assert pool.available() is before
    before[0].weight = 2

    assert pool.available() is not before


def test_backups_serve_while_no_primary_can(clock):
    """And no longer."""
    pool = a_pool(clock, "abX")
    assert available(pool) == "ab"
    eject(pool, "a")
    assert available(pool) == "b"
    eject(pool, "b")
    assert available(pool) == "X"
    clock.move(10)
    assert available(pool) == "abX"
    Lease(member(pool, "a")).answered(200)

    assert available(pool) == "ab"


def test_a_primary_on_trial_does_not_keep_the_backups_away(clock):
    """It takes one request at a time."""
    pool = a_pool(clock, "aX", panic=False)
    eject(pool, "a")
    clock.move(10)
    pool.available()
    Lease(member(pool, "a"))

    assert {pool.pick(None).url for _ in range(4)} == {"http://X"}  # type: ignore[arg-type]


def test_a_panic_uses_all_that_have_a_weight(clock):
    """Backups too."""
    pool = a_pool(clock, "abX")
    pool.drain(member(pool, "b"))
    eject(pool, "aX")

    assert available(pool) == "aX"


def test_a_panic_goes_on_while_one_is_on_trial(clock):
    """Else all requests but the trial would be refused until it is over."""
    pool = a_pool(clock, "ab")
    eject(pool, "ab")
    clock.move(10)
    assert available(pool) == "ab"
    leases = [Lease(pool.pick(None)) for _ in range(6)]  # type: ignore[arg-type]
    assert {lease._upstream.url for lease in leases} == {"http://a", "http://b"}
    leases[0].answered(200)

    assert [one.health.state for one in pool.upstreams] == ["healthy", "half-open"]
    assert available(pool) == "ab"


def test_without_a_panic_there_is_nobody(clock):
    """Until a trial may begin."""
    pool = a_pool(clock, "ab", panic=False)
    eject(pool, "ab")
    assert available(pool) == ""
    clock.move(10)

    assert available(pool) == "ab"


def test_what_probes_say_decides_at_once(clock):
    """Unhealthy is out; unknown and healthy are in."""
    pool = a_pool(clock, health=HealthCheck(fall=1))
    assert available(pool) == "abc"
    probe(pool, a=True, b=False)
    assert available(pool) == "ac"
    probe(pool, b=True)

    assert available(pool) == "abc"


@pytest.mark.parametrize(
    ("share", "count", "allowed"),
    [(0.5, 1, 0), (1.0, 1, 1), (0.5, 2, 1), (0.5, 3, 1), (0.34, 3, 1), (0.29, 100, 29)],
)
def test_at_most_a_share_is_ejected(clock, share, count, allowed):
    """Exactly, for shares that are no binary fractions too."""
    pool = UpstreamPool(
        [f"http://a{number}" for number in range(count)],
        ejection=Ejection(consecutive=1, max_share=share),
        clock=clock,
    )
    for upstream in pool.upstreams:
        lease = Lease(upstream)
        lease.failed()
        lease.end()

    assert sum(one.health.is_ejected for one in pool.upstreams) == allowed


def test_drained_upstreams_are_no_part_of_the_share(clock):
    """Half of the four would be all that serve."""
    pool = a_pool(clock, "abcd", ejection=Ejection(consecutive=1, max_share=0.5))
    for host in "cd":
        pool.drain(member(pool, host))
    eject(pool, "abcd")

    assert [one.health.state for one in pool.upstreams] == ["ejected", *["healthy"] * 3]


def test_a_slow_start_lowers_the_effective_weight(clock):
    """Which is above 0 for all that may be picked."""
    ejection = Ejection(consecutive=1, rate=None, max_share=1.0, slow_start=20.0)
    pool = a_pool(clock, "ab", ejection=ejection)
    member(pool, "a").weight = 10
    eject(pool, "a")
    clock.move(10)
    pool.available()
    Lease(member(pool, "a")).answered(200)
    weights = []
    for _ in range(5):
        before = pool.available()
        weights.append(before[0].effective_weight)
        clock.move(5)
        assert (pool.available() is before) == (len(weights) == 5)

    assert weights == [1, 2.5, 5, 7.5, 10]


def test_weight_zero_in_a_slow_start_is_zero(clock):
    """And the slow start goes on when it has a weight again."""
    ejection = Ejection(consecutive=1, rate=None, max_share=1.0, slow_start=20.0)
    pool = a_pool(clock, "ab", ejection=ejection)
    upstream = member(pool, "a")
    eject(pool, "a")
    clock.move(10)
    pool.available()
    Lease(upstream).answered(200)
    upstream.weight = 0
    assert (available(pool), upstream.effective_weight) == ("b", 0)
    clock.move(10)
    upstream.weight = 4

    assert (available(pool), upstream.effective_weight) == ("ab", 2)


def test_every_change_is_told_once(clock, caplog):
    """To the callback, and in one line of the log."""
    told: list[Any] = []
    pool = a_pool(clock, "ab", on_state_change=lambda *change: told.append(change))
    a = member(pool, "a")
    with caplog.at_level(logging.INFO, "fastapi_proxy_router"):
        eject(pool, "a")
        clock.move(10)
        pool.available()
        pool.available()
        Lease(a).answered(200)
    expected = [("healthy", "ejected"), ("ejected", "half-open"), ("half-open", "healthy")]

    assert told == [(a, *change) for change in expected]
    assert [record.getMessage() for record in caplog.records] == [
        f"upstream http://a was {before} and is {after}" for before, after in expected
    ]


def test_a_callback_that_raises_harms_nothing(clock, caplog):
    """It is logged."""

    def broken(upstream, before, after):
        raise RuntimeError("broken")

    pool = a_pool(clock, "ab", on_state_change=broken)
    eject(pool, "a")

    assert available(pool) == "b"
    assert "on_state_change failed" in caplog.text


def test_a_callback_may_change_the_pool(clock):
    """What is picked afterwards is what is left."""

    def replace(upstream, before, after):
        if after == "ejected":
            pool.remove(upstream)
            pool.add("http://n")
            assert upstream not in pool.available()

    pool = a_pool(clock, "ab", on_state_change=replace)
    eject(pool, "a")

    assert available(pool) == "bn"


def test_a_callback_may_change_the_pool_when_time_alone_has_changed_a_state(clock):
    """In the middle of working out who may be picked."""

    def replace(upstream, before, after):
        if after == "half-open" and upstream.pool is pool:
            pool.remove(upstream)
            pool.add("http://n").weight = 3
            member(pool, "c").weight = 5
            pool.available()

    pool = a_pool(clock, "abc", on_state_change=replace)
    eject(pool, "ab")
    clock.move(10)

    assert available(pool) == "cnn"
    assert [one.effective_weight for one in pool.available()] == [5, 3, 3]
