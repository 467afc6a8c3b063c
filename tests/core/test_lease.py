"""core.lease: one exchange's place with an upstream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastapi_proxy_router import BadGateway, StreamAborted, Upstream, UpstreamPool
from fastapi_proxy_router.core.checks import Ejection, HealthCheck
from fastapi_proxy_router.core.health import Health
from fastapi_proxy_router.core.lease import Lease
from tests.core.clock import FakeClock


def a_pool(clock: FakeClock, **options: Any) -> tuple[UpstreamPool, Upstream]:
    ejection = Ejection(**{"consecutive": 2, "rate": None, "max_share": 1.0, **options})
    pool = UpstreamPool(["http://a", "http://b"], ejection=ejection, clock=clock, panic=False)
    return pool, pool.upstreams[0]


def fail(upstream: Upstream, times: int = 1) -> None:
    for _ in range(times):
        lease = Lease(upstream)
        lease.failed()
        lease.end()


@pytest.fixture
def clock():
    return FakeClock()


def test_it_counts_until_it_ends(clock):
    """For its upstream and its pool; once."""
    pool, upstream = a_pool(clock)
    lease = Lease(upstream)
    assert (pool.in_flight, upstream.in_flight, upstream.requests) == (1, 1, 1)
    lease.end()
    lease.end()

    assert (pool.in_flight, upstream.in_flight, upstream.requests) == (0, 0, 1)


def test_an_upstream_without_a_pool_is_counted_too():
    """Whatever becomes of the exchange."""
    upstream = Upstream("http://a")
    fail(upstream, 10)

    assert (upstream.in_flight, upstream.failures, upstream.health.state) == (0, 10, "healthy")


def test_a_failure_counts_once(clock):
    """However often it is told."""
    _pool, upstream = a_pool(clock)
    lease = Lease(upstream)
    lease.failed()
    lease.failed()
    lease.succeeded()
    lease.end()
    lease.failed()

    assert (upstream.failures, upstream.health.state) == (1, "healthy")


def test_what_is_told_after_the_end_does_not_count(clock):
    """Nor is it measured."""
    _pool, upstream = a_pool(clock, consecutive=1)
    lease = Lease(upstream)
    lease.end()
    lease.answered(200)
    lease.failed()

    assert (upstream.health.state, upstream.latency.at(clock())) == ("healthy", None)


@pytest.mark.parametrize(
    ("error", "failures"),
    [
        (BadGateway("x"), 1),
        (BadGateway("x", fault="us"), 0),
        (BadGateway("x", fault="client"), 0),
        (StreamAborted("x", upstream=None, fault="upstream"), 1),
        (RuntimeError("x"), 0),
        (KeyboardInterrupt(), 0),
    ],
)
def test_only_what_is_the_upstreams_fault_counts(error, failures, clock):
    """Not a client's departure, and nothing of our own."""
    _pool, upstream = a_pool(clock)
    lease = Lease(upstream)
    lease.judge(error)
    lease.end()

    assert upstream.failures == failures


def test_a_chosen_status_is_a_failure(clock):
    """It does not count as an answer, and as no fast one either: for a second."""
    _pool, upstream = a_pool(clock, statuses={503})
    for _ in range(2):
        lease = Lease(upstream)
        lease.answered(503)
        lease.succeeded()
        lease.end()

    assert (upstream.failures, upstream.health.state) == (2, "ejected")
    assert upstream.latency.at(clock()) == 1.0


def test_any_other_status_is_an_answer(clock):
    """Its time is measured."""
    _pool, upstream = a_pool(clock)
    lease = Lease(upstream)
    clock.move(0.25)
    lease.answered(500)

    assert upstream.latency.at(clock()) == 0.25


@pytest.mark.parametrize(
    ("before", "answered", "seconds"), [(0.1, False, 1.0), (5.0, False, 5.0), (3600.0, True, 1.0)]
)
def test_a_failure_counts_in_the_latency(before, answered, seconds, clock):
    """For the time that was waited for an answer, and a second at the least."""
    _pool, upstream = a_pool(clock)
    lease = Lease(upstream)
    if answered:
        lease.answered(200)
    clock.move(before)
    lease.failed()

    assert upstream.latency.at(clock()) == seconds


def test_answers_of_streams_that_stay_open_end_a_row_of_failures(clock):
    """WebSockets are not complete for hours."""
    _pool, upstream = a_pool(clock)
    for _ in range(10):
        fail(upstream)
        Lease(upstream).answered(101)

    assert upstream.health.state == "healthy"


def test_requests_from_before_an_ejection_do_not_count_after_it(clock):
    """They may take a minute to fail, and it is another upstream by then."""
    pool, upstream = a_pool(clock)
    old = [Lease(upstream) for _ in range(10)]
    fail(upstream, 2)
    clock.move(10)
    pool.available()
    trial = Lease(upstream)
    trial.answered(200)
    for lease in old:
        lease.failed()
        lease.end()

    assert upstream.health.state == "healthy"
    assert upstream.failures == 12


def test_the_end_of_an_old_trial_does_not_give_a_new_one_back(clock):
    """The upstream was ejected again since."""
    pool, upstream = a_pool(clock)
    fail(upstream, 2)
    clock.move(10)
    pool.available()
    old = Lease(upstream)
    old.answered(200)
    fail(upstream, 2)
    clock.move(20)
    pool.available()
    assert upstream.health.state == "half-open"
    trial = Lease(upstream)
    old.end()
    assert upstream.is_busy(clock())
    trial.end()

    assert not upstream.is_busy(clock())


def test_probes_that_bring_it_back_leave_its_trial_alone(clock):
    """It is the one trial still, and given back at its end."""
    pool, upstream = a_pool(clock)
    pool.remove(upstream)
    upstream.health = Health(Ejection(consecutive=2), HealthCheck(fall=1))
    fail_directly = [upstream.health.failed(clock(), trial=False, answered=False) for _ in "12"]
    assert fail_directly == [False, True]
    upstream.health.eject(clock())
    clock.move(10)
    upstream.health.tick(clock())
    trial = Lease(upstream)
    upstream.health.probed(clock(), ok=False)
    upstream.health.probed(clock(), ok=True)
    assert upstream.is_busy(clock())
    trial.end()

    assert not upstream.is_busy(clock())


def test_a_trial_that_breaks_off_is_a_failure_like_others(clock):
    """Its head had brought the upstream back."""
    pool, upstream = a_pool(clock)
    fail(upstream, 2)
    clock.move(10)
    pool.available()
    trial = Lease(upstream)
    trial.answered(200)
    trial.failed()
    trial.end()

    assert (upstream.health.state, upstream.failures) == ("healthy", 3)


def test_a_trial_that_fails_ejects_however_many_are(clock):
    """It was counted among them."""
    pool, upstream = a_pool(clock, max_share=0.5)
    fail(upstream, 2)
    pool.remove(pool.upstreams[1])
    clock.move(10)
    pool.available()
    fail(upstream)

    assert upstream.health.state == "ejected"


def test_an_upstream_that_comes_back_to_a_pool_is_new(clock):
    """What began before it had left does not count."""
    pool, upstream = a_pool(clock, consecutive=1)
    old = Lease(upstream)
    pool.remove(upstream)
    pool.add(upstream)
    old.failed()
    assert (upstream.health.state, upstream.in_flight, pool.in_flight) == ("healthy", 1, 1)
    old.end()

    assert (upstream.in_flight, pool.in_flight) == (0, 0)


def test_an_upstream_that_has_left_takes_no_state_along(clock):
    """It is not held by a trial, nor by a slow start."""
    pool, upstream = a_pool(clock, slow_start=10.0)
    fail(upstream, 2)
    clock.move(10)
    pool.available()
    lease = Lease(upstream)
    pool.remove(upstream)
    assert (upstream.health.state, upstream.is_busy(clock())) == ("healthy", False)
    lease.end()

    assert upstream.in_flight == 0


EVENTS = st.lists(
    st.sampled_from(
        ["answered", "rejected", "succeeded", "failed", "end", "remove", "add", "10 s"]
    ),
    max_size=12,
)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(EVENTS, st.booleans())
def test_counters_return_to_zero_whatever_the_order(events, as_trial):
    """And a trial is given back."""
    clock = FakeClock()
    pool, upstream = a_pool(clock, statuses={503})
    if as_trial:
        fail(upstream, 2)
        clock.move(10)
        pool.available()
    lease = Lease(upstream)

    def leave() -> None:
        if upstream.pool is not None:
            pool.remove(upstream)

    happen: dict[str, Callable[[], object]] = {
        "answered": lambda: lease.answered(200),
        "rejected": lambda: lease.answered(503),
        "succeeded": lease.succeeded,
        "failed": lease.failed,
        "end": lease.end,
        "remove": leave,
        "add": lambda: upstream.pool or pool.add(upstream),
        "10 s": lambda: clock.move(10),
    }
    for event in events:
        happen[event]()
        pool.available()
    lease.end()

    assert (pool.in_flight, upstream.in_flight) == (0, 0)
    assert not upstream.is_busy(clock())
