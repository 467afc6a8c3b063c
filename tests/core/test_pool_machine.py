"""core.pool: what holds whatever happens, in any order."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from starlette.requests import HTTPConnection

from fastapi_proxy_router import NoUpstreamAvailable, RoundRobin, Upstream, UpstreamPool
from fastapi_proxy_router.core.checks import Ejection, HealthCheck
from fastapi_proxy_router.core.lease import Lease
from fastapi_proxy_router.core.limits import RateLimit
from fastapi_proxy_router.core.retry import Retry
from tests.core.clock import FakeClock

CONNECTION = HTTPConnection({"type": "http", "headers": []})
INDEX = st.integers(0, 1000)
BASE, LONGEST, SHARE = 10.0, 60.0, 0.5


class Pools(RuleBasedStateMachine):
    """A pool, its exchanges, its probes, and somebody who changes it meanwhile."""

    panic = True

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.leases: list[tuple[Upstream, Lease]] = []
        self.gone: list[Upstream] = []
        self.times: dict[Upstream, float] = {}
        self.is_meddling = False
        self.pool = UpstreamPool(
            [
                Upstream("http://a", weight=2),
                Upstream("http://b", max_concurrent=2),
                Upstream("http://c", rate_limit=RateLimit(3, 5.0)),
                Upstream("http://d"),
                Upstream("http://x", backup=True),
            ],
            balancer=RoundRobin(),
            ejection=Ejection(
                consecutive=3,
                min_requests=6,
                base_time=BASE,
                max_time=LONGEST,
                max_share=SHARE,
                slow_start=7.0,
                statuses={503},
            ),
            health=HealthCheck(rise=2, fall=2),
            panic=self.panic,
            on_state_change=self.changed,
            clock=self.clock,
            chance=random.Random(5),
        )

    def changed(self, upstream: Upstream, before: str, after: str) -> None:
        assert before != after
        if after == "ejected":
            left = upstream.health.ejected_for(self.clock())
            assert left is not None
            assert left <= LONGEST
            if before in ("healthy", "unknown"):
                assert left >= BASE
                serving = [one for one in self.pool.upstreams if one.weight]
                assert sum(one.health.is_ejected for one in serving) <= SHARE * len(serving)
        if self.is_meddling and after in ("ejected", "half-open"):
            self.is_meddling = False
            upstream.weight = 3
            self.remove(0)
            self.pool.available()

    def lease(self, index: int) -> Lease:
        return self.leases[index % len(self.leases)][1]

    def upstream(self, index: int) -> Upstream:
        return self.pool.upstreams[index % len(self.pool.upstreams)]

    @rule()
    def begin(self) -> None:
        """What is picked is not busy; then it begins."""
        try:
            upstream = self.pool.pick(CONNECTION)
        except NoUpstreamAvailable:
            return
        assert upstream in self.pool.available()
        assert not upstream.is_busy(self.clock())
        self.leases.append((upstream, Lease(upstream)))

    @precondition(lambda self: self.pool.upstreams)
    @rule(index=INDEX)
    def begin_without_asking(self, index: int) -> None:
        upstream = self.upstream(index)
        self.leases.append((upstream, Lease(upstream)))

    @precondition(lambda self: self.leases)
    @rule(index=INDEX, status=st.sampled_from([101, 200, 500, 503]))
    def answer(self, index: int, status: int) -> None:
        self.lease(index).answered(status)

    @precondition(lambda self: self.leases)
    @rule(index=INDEX, how=st.sampled_from(["failed", "succeeded", "end"]), is_last=st.booleans())
    def finish(self, index: int, how: str, *, is_last: bool) -> None:
        getattr(self.lease(index), how)()
        if is_last or how == "end":
            self.lease(index).end()
            del self.leases[index % len(self.leases)]

    @precondition(lambda self: self.pool.upstreams)
    @rule(index=INDEX)
    def fail_at_once(self, index: int) -> None:
        for _ in range(3):
            lease = Lease(self.upstream(index))
            lease.failed()
            lease.end()
            if not self.pool.upstreams:
                break

    @precondition(lambda self: self.pool.upstreams)
    @rule(index=INDEX, ok=st.booleans())
    def probe(self, index: int, *, ok: bool) -> None:
        upstream = self.upstream(index)
        upstream.health.probed(self.clock(), ok=ok)
        self.pool.settle(upstream, self.clock())

    @rule(seconds=st.sampled_from([0.01, 0.5, 1.0, 5.0, 10.0, 60.0, 3600.0]))
    def wait(self, seconds: float) -> None:
        self.clock.move(seconds)

    @precondition(lambda self: self.pool.upstreams)
    @rule(index=INDEX, weight=st.integers(0, 3))
    def reweight(self, index: int, weight: int) -> None:
        self.upstream(index).weight = weight

    @precondition(lambda self: self.pool.upstreams)
    @rule(index=INDEX)
    def remove(self, index: int) -> None:
        if self.pool.upstreams:
            self.gone.append(upstream := self.upstream(index))
            self.pool.remove(upstream)

    @precondition(lambda self: self.gone)
    @rule()
    def add_again(self) -> None:
        self.pool.add(self.gone.pop())

    @rule()
    def meddle(self) -> None:
        """Let the callback change the pool, the next time."""
        self.is_meddling = True

    @invariant()
    def counters_are_the_open_exchanges(self) -> None:
        assert self.pool.in_flight == sum(lease._pool is self.pool for _, lease in self.leases)
        for upstream in [*self.pool.upstreams, *self.gone]:
            assert upstream.in_flight == sum(one is upstream for one, _ in self.leases)

    @invariant()
    def there_is_one_trial_at_a_time(self) -> None:
        self.pool.available()
        for upstream in self.pool.upstreams:
            trials = [
                lease
                for one, lease in self.leases
                if one is upstream and lease._trial and lease._is_telling
                if lease._health is upstream.health and upstream.health.state == "half-open"
            ]
            assert len(trials) <= 1
            if upstream.health.state == "half-open":
                assert upstream.health.on_trial == bool(trials)

    @invariant()
    def what_is_remembered_is_what_would_be_worked_out(self) -> None:
        kept = self.pool.available()
        assert self.pool.available() is kept
        weights = [one.effective_weight for one in kept]
        self.pool._members.refresh()

        assert self.pool.available() == kept
        for one, before in zip(kept, weights, strict=True):
            # A slow start goes by twenty steps.
            assert abs(one.effective_weight - before) <= one.weight / 20 + 1e-9

    @invariant()
    def those_may_be_picked_who_should(self) -> None:
        states = ("healthy", "unknown")
        serving = [one for one in self.pool.upstreams if one.weight]
        steady = [one for one in serving if one.health.state in states]
        trying = [one for one in serving if one.health.state == "half-open"]
        available = self.pool.available()

        assert all(one.effective_weight > 0 for one in available)
        if any(not one.backup for one in steady):
            assert {one for one in [*steady, *trying] if not one.backup} == set(available)
        elif steady or not self.panic:
            assert {*steady, *trying} == set(available)
        else:
            assert set(serving) == set(available)

    def teardown(self) -> None:
        """End what is open: nothing is left."""
        for _, lease in self.leases:
            lease.end()
        assert self.pool.in_flight == 0
        for upstream in [*self.pool.upstreams, *self.gone]:
            assert upstream.in_flight == 0
            assert not upstream.health.is_held
        snapshot = self.pool.snapshot()
        assert snapshot.model_dump_json()


class CautiousPools(Pools):
    """The same without panic."""

    panic = False


@pytest.mark.parametrize("machine", [Pools, CautiousPools])
def test_whatever_happens_the_pool_keeps_its_promises(machine):
    """Counters, trials, the share that is ejected, and who may be picked."""
    runs = settings(derandomize=True, deadline=None, max_examples=80, stateful_step_count=40)
    run_state_machine_as_test(machine, settings=runs)


def simulate(
    pool: UpstreamPool, clock: FakeClock, seconds: int, is_up: Any, rate: int = 50
) -> list[int]:
    """Send requests that take no time; return how many *a* was given in each second."""
    given = [0] * seconds
    for second in range(seconds):
        for _ in range(rate):
            upstream = pool.pick(CONNECTION)
            lease = Lease(upstream)
            if upstream.host == "a":
                given[second] += 1
            if upstream.host != "a" or is_up(second):
                lease.answered(200)
                lease.succeeded()
            else:
                lease.failed()
            lease.end()
            clock.move(1 / rate)
    return given


@pytest.mark.parametrize("period", [1, 3])
def test_an_upstream_that_flaps_is_left_alone_for_longer_and_longer(period):
    """Its traffic does not follow it up and down."""
    clock = FakeClock()
    changes: list[tuple[str, float]] = []
    pool = UpstreamPool(
        ["http://a", "http://b"],
        balancer=RoundRobin(),
        ejection=Ejection(base_time=10.0, max_time=300.0),
        clock=clock,
        on_state_change=lambda one, before, after: changes.append((after, clock())),
    )
    given = simulate(pool, clock, 900, lambda second: second // period % 2 == 0)
    a = pool.upstreams[0]
    starts = [now for after, now in changes if after == "ejected"]
    ends = [now for after, now in changes if after == "half-open"]
    times = [round(end - start) for start, end in zip(starts, ends, strict=False)]

    assert times == [10, 20, 40, 80, 160, 300]
    assert a.failures <= 5 * 7
    assert sum(given[300:]) <= 0.05 * 25 * 600


def test_an_upstream_that_was_down_is_back_after_one_trial():
    """With its whole share, and for good."""
    clock = FakeClock()
    pool = UpstreamPool(
        ["http://a", "http://b"], balancer=RoundRobin(), ejection=Ejection(), clock=clock
    )
    given = simulate(pool, clock, 60, lambda second: not 10 <= second < 15)
    a = pool.upstreams[0]

    assert (a.failures, a.health.ejections) == (5, 1)
    assert set(given[11:20]) == {0}
    assert set(given[22:]) == {25}


def test_a_storm_of_retries_is_cut_to_the_budget():
    """Each request would be sent three times."""
    clock = FakeClock()
    pool = UpstreamPool(["http://a", "http://b"], retry=Retry(attempts=3), clock=clock)
    sent = 0
    for _ in range(3000):
        pool.budget.request(clock())
        sent += 1 + sum(pool.budget.withdraw(clock()) for _ in range(2))
        clock.move(0.01)

    assert 3000 * 1.15 < sent <= 3000 * 1.2 + 3 * 10
