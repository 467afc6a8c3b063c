"""core.drawing: random, two choices, least latency, with seeded chance and a clock of their own."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_proxy_router import (
    FirstAvailable,
    LeastLatency,
    LeastRequests,
    Random,
    RoundRobin,
    TwoChoices,
    Upstream,
)
from tests.core.balancing import CONNECTION, Farm, busy, pool_of, shares, turns

SEEDS = st.integers(0, 2**32)
WEIGHTS = st.lists(st.integers(1, 1000), min_size=2, max_size=12)
DRAWING = [Random, TwoChoices, LeastLatency]


def chance(seed=1):
    return random.Random(seed)


# All of them


@pytest.mark.parametrize("kind", DRAWING)
@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (1, 2, 5), (1, 99), (1, *[10] * 20)])
def test_without_traffic_each_has_its_share(kind, weights):
    """In proportion to weight, if no upstream has anything to do and no times are known."""
    upstreams = pool_of(*weights)
    found = shares(kind(chance=chance()), upstreams, 20_000)

    for share, weight in zip(found, weights, strict=True):
        assert share == pytest.approx(weight / sum(weights), abs=0.015)


@pytest.mark.parametrize("kind", DRAWING)
def test_new_weights_and_members_hold_from_the_next_pick(kind):
    """A pool gives another tuple then."""
    upstreams, balancer = pool_of(1, 1, 1), kind(chance=chance())
    shares(balancer, upstreams, 10)
    upstreams[0].weight = 3

    assert shares(balancer, upstreams[:2], 5000)[0] == pytest.approx(0.75, abs=0.03)
    assert "c" in turns(balancer, upstreams, 100)


@pytest.mark.parametrize("kind", DRAWING)
def test_a_list_may_change_under_the_balancer(kind):
    """Only what cannot change is remembered."""
    upstreams, balancer = list(pool_of(1, 1, 1)), kind(chance=chance())
    turns(balancer, upstreams, 10)
    del upstreams[0]

    assert set(turns(balancer, upstreams, 100)) == {"b", "c"}
    upstreams[0].weight = 10**9
    assert set(turns(balancer, upstreams, 100)) == {"b"}


@pytest.mark.parametrize("kind", DRAWING)
def test_the_same_chance_makes_the_same_picks(kind):
    """So that what happens in a test happens again."""
    upstreams = pool_of(1, 2, 3)

    first, again = (turns(kind(chance=chance(7)), upstreams, 100) for _ in range(2))
    assert first == again


# Two choices


@given(WEIGHTS, SEEDS, st.data())
def test_the_busiest_upstream_is_never_picked(weights, seed, data):
    """It is always drawn with another one, which is never itself, whatever the weights are."""
    upstreams = pool_of(*weights)
    busiest = data.draw(st.sampled_from(upstreams))
    busiest.in_flight = 10**7
    balancer = TwoChoices(chance=chance(seed))

    assert all(balancer(upstreams, CONNECTION) is not busiest for _ in range(20))


def test_of_equal_upstreams_the_one_with_fewer_requests_is_picked():
    """One request is enough of a difference."""
    upstreams, balancer = pool_of(1, 1), TwoChoices(chance=chance())
    busy(upstreams, 5, 4)

    assert set(turns(balancer, upstreams, 50)) == {"b"}


def test_equally_busy_upstreams_share():
    """The first one drawn wins."""
    upstreams, balancer = pool_of(3, 1), TwoChoices(chance=chance())
    busy(upstreams, 6, 2)

    assert shares(balancer, upstreams, 10_000) == pytest.approx([0.75, 0.25], abs=0.02)


def test_requests_that_stay_are_spread_evenly():
    """Among 1,000 upstreams, where drawing one would put six and more on some of them."""
    busiest = {}
    for kind in (Random, TwoChoices):
        upstreams, balancer = pool_of(*[1] * 1000), kind(chance=chance())
        for _ in range(1000):
            balancer(upstreams, CONNECTION).in_flight += 1
        busiest[kind] = max(upstream.in_flight for upstream in upstreams)

    assert busiest[Random] >= 5
    assert busiest[TwoChoices] <= 3


@given(st.lists(st.integers(1, 9), min_size=2, max_size=6), SEEDS)
def test_requests_that_stay_are_spread_by_weight(weights, seed):
    """When all are busy, the load is in proportion to weight, not only the traffic."""
    upstreams, balancer = pool_of(*weights), TwoChoices(chance=chance(seed))
    for _ in range(40 * sum(weights)):
        balancer(upstreams, CONNECTION).in_flight += 1

    for upstream in upstreams:
        assert upstream.in_flight == pytest.approx(40 * upstream.weight, rel=0.1, abs=4)


def test_a_small_weight_stays_small_under_moderate_load():
    """A canary is not sent a request as soon as it is idle and the others are not."""
    upstreams = pool_of(99, 1)
    farm = Farm(upstreams, lambda *_: 0.1, workers=100)
    farm.run(TwoChoices(chance=chance()), rate=100, seconds=200)

    assert farm.share(upstreams[1]) == pytest.approx(0.01, abs=0.005)


def test_a_slow_upstream_gets_less():
    """What it has in flight speaks against it; round robin would queue for it without end."""
    waits = {}
    for kind in (RoundRobin, TwoChoices, LeastRequests):
        upstreams = pool_of(1, 1, 1)
        farm = Farm(upstreams, lambda upstream, _: 0.1 if upstream.host == "a" else 0.01)
        balancer = TwoChoices(chance=chance()) if kind is TwoChoices else kind()
        farm.run(balancer, rate=100, seconds=30)
        waits[kind] = farm.mean

    assert waits[TwoChoices] < 0.1 * waits[RoundRobin]
    assert waits[TwoChoices] < 2 * waits[LeastRequests]


# Least latency


class Stage:
    """Upstreams with known latencies, and a clock that stands until it is set."""

    def __init__(self, **seconds: float | None) -> None:
        self.now = 100.0
        self.upstreams = tuple(Upstream(f"http://{host}") for host in seconds)
        for upstream in self.upstreams:
            if (known := seconds[upstream.host]) is not None:
                upstream.latency.observe(known, self.now)
        self.balancer = LeastLatency(chance=chance(), clock=lambda: self.now)

    def turns(self, picks: int) -> str:
        return turns(self.balancer, self.upstreams, picks)


def test_the_faster_of_two_is_picked():
    """As long as neither has anything to do."""
    assert set(Stage(a=0.050, b=0.045).turns(50)) == {"b"}


def test_requests_in_flight_multiply_the_time():
    """A fast upstream that is busy is a slow one."""
    stage = Stage(a=0.010, b=0.050)
    busy(stage.upstreams, 3, 0)
    assert set(stage.turns(50)) == {"a"}
    busy(stage.upstreams, 5, 0)
    assert set(stage.turns(50)) == {"b"}


def test_weight_divides_the_time():
    """Twice the weight may have twice the requests."""
    stage = Stage(a=0.010, b=0.010)
    stage.upstreams[0].weight = 4
    busy(stage.upstreams, 2, 0)
    assert set(stage.turns(50)) == {"a"}
    busy(stage.upstreams, 4, 0)
    assert set(stage.turns(50)) == {"b"}


def test_an_unknown_upstream_is_tried_by_one_request_at_a_time():
    """It is neither taken for the fastest nor left out."""
    stage = Stage(a=0.010, b=None)
    assert set(stage.turns(50)) == {"b"}

    busy(stage.upstreams, 50, 1)
    assert set(stage.turns(50)) == {"a"}

    busy(stage.upstreams, 50, 0)
    stage.upstreams[1].latency.observe(0.9, stage.now)
    assert set(stage.turns(50)) == {"a"}


def test_while_all_are_unknown_the_less_busy_one_is_picked():
    """The first burst after a start is spread."""
    stage = Stage(a=None, b=None, c=None)
    for _ in range(30):
        stage.balancer(stage.upstreams, CONNECTION).in_flight += 1

    assert all(5 <= upstream.in_flight <= 15 for upstream in stage.upstreams)


def test_a_slow_upstream_is_tried_again_after_a_while():
    """Its figure decays while that of the one in use is kept up."""
    stage = Stage(a=0.010, b=1.0)
    tried = 0.0
    while "b" not in stage.turns(5):
        stage.now += 1.0
        tried += 1.0
        stage.upstreams[0].latency.observe(0.010, stage.now)

    # ln(1.0 / 0.010) time constants of 10 s.
    assert 40 <= tried <= 50


def test_an_upstream_that_was_away_for_long_is_not_stormed():
    """What little is left of its figure does not make it the fastest of all."""
    stage = Stage(a=0.010, b=0.020)
    stage.now += 3600.0
    stage.upstreams[0].latency.observe(0.010, stage.now)
    found = Counter[str]()
    for _ in range(20):
        picked = stage.balancer(stage.upstreams, CONNECTION)
        picked.in_flight += 1
        found[picked.host] += 1

    assert found["b"] == 1


def test_traffic_does_not_herd_on_the_fastest():
    """The fastest of six is kept busy, but no queue grows at it: others help out."""
    upstreams = pool_of(*[1] * 6)
    farm = Farm(upstreams, lambda upstream, _: 0.010 if upstream.host == "a" else 0.015)
    # Two and a half times what the fastest one could do alone.
    farm.run(LeastLatency(chance=chance(), clock=farm.clock), rate=250, seconds=60)
    fastest, others = upstreams[0], upstreams[1:]

    assert 1 / 6 < farm.share(fastest) < 0.4
    assert farm.most[fastest] <= 12
    assert all(farm.share(upstream) > 0.08 for upstream in others)
    assert farm.mean < 0.03


def test_a_slow_upstream_is_avoided_and_found_again_when_it_recovers():
    """It gets a small share while it is slow, and its full one soon after."""
    upstreams = pool_of(1, 1, 1)

    def seconds(upstream: Upstream, now: float) -> float:
        return 0.5 if upstream.host == "a" and 30 <= now < 90 else 0.010

    farm = Farm(upstreams, seconds, workers=20)
    balancer = LeastLatency(chance=chance(), clock=farm.clock)
    found = []
    for part in (30, 60, 60, 60):
        farm.picked.clear()
        farm.run(balancer, rate=100, seconds=part)
        found.append(farm.share(upstreams[0]))
    before, slow, _recovering, after = found

    assert before == pytest.approx(1 / 3, abs=0.1)
    assert slow < 0.05
    assert after == pytest.approx(1 / 3, abs=0.1)


def wait(kind):
    """Return the mean wait at six upstreams, half of which take ten times as long."""
    farm = Farm(
        pool_of(*[1] * 6), lambda upstream, _: 0.1 if upstream.host in "abc" else 0.01, workers=4
    )
    options = {"chance": chance()} if kind in DRAWING else {}
    options |= {"clock": farm.clock} if kind is LeastLatency else {}
    farm.run(kind(**options), rate=60, seconds=60)
    return farm.mean


def test_it_beats_what_knows_no_times():
    """Among upstreams that differ, the mean wait is shorter than by turns or by load alone."""
    assert wait(LeastLatency) < 0.75 * wait(TwoChoices)
    assert wait(LeastLatency) < 0.6 * wait(RoundRobin)


@pytest.mark.parametrize("kind", [*DRAWING, RoundRobin, LeastRequests, FirstAvailable])
def test_one_upstream_is_picked_without_more_ado(kind):
    """Whatever its load and its weight are."""
    (only,) = pool_of(5)
    only.in_flight = 9

    assert kind()([only], CONNECTION) is only
