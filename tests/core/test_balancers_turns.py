"""core.balancer: round robin, least requests, first available."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_proxy_router import FirstAvailable, LeastRequests, RoundRobin
from tests.core.balancing import CONNECTION, busy, pool_of, turns

WEIGHTS = st.lists(st.integers(1, 20), min_size=2, max_size=8)
LOADS = st.lists(st.integers(0, 5), min_size=8, max_size=8)


# Round robin


@given(WEIGHTS, st.integers(1, 3))
def test_a_round_has_as_many_turns_of_each_as_its_weight_says(weights, rounds):
    """Exactly, in every round."""
    upstreams, balancer = pool_of(*weights), RoundRobin()

    for _ in range(rounds):
        found = Counter(turns(balancer, upstreams, sum(weights)))
        assert [found[upstream.host] for upstream in upstreams] == weights


@given(WEIGHTS, st.integers(1, 200))
def test_turns_are_spread_out(weights, picks):
    """At no time is an upstream ahead of its due, or behind, by more than one turn of each."""
    upstreams = pool_of(*weights)
    found = Counter(turns(RoundRobin(), upstreams, picks))

    for upstream in upstreams:
        due = picks * upstream.weight / sum(weights)
        assert abs(found[upstream.host] - due) < len(weights)


@given(st.integers(2, 8), st.integers(1, 20))
def test_equal_upstreams_take_turns_in_the_order_of_the_pool(number, weight):
    """Round after round."""
    upstreams = pool_of(*[weight] * number)
    order = "".join(upstream.host for upstream in upstreams)

    assert turns(RoundRobin(), upstreams, 3 * number) == 3 * order


@given(WEIGHTS, st.integers(1, 100))
def test_the_order_does_not_depend_on_how_the_upstreams_are_given(weights, picks):
    """The same tuple again and again, a new one for each pick, or a list."""
    upstreams, fresh, listed = pool_of(*weights), RoundRobin(), RoundRobin()
    expected = turns(RoundRobin(), upstreams, picks)

    again = [fresh((*upstreams,), CONNECTION).host for _ in range(picks)]
    assert "".join(again) == expected
    assert turns(listed, list(upstreams), picks) == expected


@given(WEIGHTS, st.data())
def test_new_weights_hold_from_the_next_pick(weights, data):
    """In proportion, with no long row of turns to make up for the old ones."""
    upstreams, balancer = pool_of(*weights), RoundRobin()
    turns(balancer, upstreams, data.draw(st.integers(0, 50)))
    changed = data.draw(st.lists(st.integers(1, 20), min_size=len(weights), max_size=len(weights)))
    for upstream, weight in zip(upstreams, changed, strict=True):
        upstream.weight = weight

    found = Counter(turns(balancer, (*upstreams,), 10 * sum(changed)))
    for upstream in upstreams:
        assert abs(found[upstream.host] - 10 * upstream.weight) <= 2 * len(weights)


def test_a_small_weight_after_a_large_one_is_no_row_of_turns():
    """A credit of hundreds is cut to that of two rounds."""
    upstreams, balancer = pool_of(100, 100), RoundRobin()
    turns(balancer, upstreams, 1)
    for upstream in upstreams:
        upstream.weight = 1

    assert "bbbbb" not in turns(balancer, (*upstreams,), 20)


@given(WEIGHTS, st.data())
def test_who_is_left_goes_on_where_it_was(weights, data):
    """One leaves, and the others keep their credit: no turn is given twice or lost."""
    upstreams, balancer = pool_of(*weights, 3), RoundRobin()
    turns(balancer, upstreams, data.draw(st.integers(0, 60)))
    gone = data.draw(st.sampled_from(upstreams))
    left = tuple(upstream for upstream in upstreams if upstream is not gone)

    total = sum(upstream.weight for upstream in left)
    found = Counter(turns(balancer, left, 5 * total))
    for upstream in left:
        assert abs(found[upstream.host] - 5 * upstream.weight) <= len(left)


def test_an_upstream_that_comes_back_goes_on_too():
    """A turn that it had is not had again."""
    upstreams, balancer = pool_of(1, 1, 1), RoundRobin()

    assert turns(balancer, upstreams, 1) == "a"
    assert turns(balancer, upstreams[1:], 2) == "bc"
    assert turns(balancer, upstreams, 3) == "bca"


def test_a_newcomer_takes_its_turn_and_no_more():
    """It has nothing to catch up on."""
    upstreams, balancer = pool_of(1, 1, 1), RoundRobin()
    turns(balancer, upstreams[:2], 1000)

    assert turns(balancer, upstreams, 6) == "abcabc"


# Least requests


@given(WEIGHTS, LOADS)
def test_the_least_busy_one_for_its_weight_is_picked(weights, loads):
    """Whatever was picked before."""
    upstreams, balancer = pool_of(*weights), LeastRequests()
    busy(upstreams, *loads[: len(weights)])
    least = min(upstream.in_flight / upstream.weight for upstream in upstreams)

    for _ in range(5):
        picked = balancer(upstreams, CONNECTION)
        assert picked.in_flight / picked.weight == least


@given(WEIGHTS)
def test_without_traffic_each_has_its_share(weights):
    """Upstreams that are equally busy take turns, in proportion to weight."""
    upstreams = pool_of(*weights)
    found = Counter(turns(LeastRequests(), upstreams, sum(weights)))

    assert [found[upstream.host] for upstream in upstreams] == weights


@given(WEIGHTS, st.integers(1, 300))
def test_requests_that_stay_are_spread_by_weight(weights, requests):
    """No upstream has more than its share of them, rounded up."""
    upstreams, balancer = pool_of(*weights), LeastRequests()
    for _ in range(requests):
        balancer(upstreams, CONNECTION).in_flight += 1

    for upstream in upstreams:
        assert upstream.in_flight < requests * upstream.weight / sum(weights) + 1


def test_a_busy_upstream_does_not_upset_the_turns_of_the_others():
    """It is passed over until it is as free as they are."""
    upstreams, balancer = pool_of(1, 1, 1), LeastRequests()

    assert turns(balancer, upstreams, 1) == "a"
    busy(upstreams, 0, 7, 0)
    found = Counter(turns(balancer, upstreams, 20))
    assert found["b"] == 0
    assert abs(found["a"] - found["c"]) <= 2
    busy(upstreams, 0, 0, 0)
    assert sorted(turns(balancer, upstreams, 3)) == ["a", "b", "c"]


def test_who_was_busy_for_long_has_nothing_to_catch_up_on():
    """An hour of turns at once would be too much for anybody."""
    upstreams, balancer = pool_of(1, 1), LeastRequests()
    busy(upstreams, 0, 1)
    turns(balancer, upstreams, 1000)
    busy(upstreams, 0, 0)

    assert Counter(turns(balancer, upstreams, 10)) == {"a": 5, "b": 5}


def test_least_requests_follows_new_weights():
    """They hold from the next tuple of the pool."""
    upstreams, balancer = pool_of(1, 1), LeastRequests()
    busy(upstreams, 2, 1)
    assert turns(balancer, upstreams, 2) == "bb"
    upstreams[0].weight = 4

    assert turns(balancer, (*upstreams,), 2) == "aa"


# First available


@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 9, 5)])
def test_the_first_available_is_the_first_of_the_pool(weights):
    """Weights and load do not matter."""
    upstreams = pool_of(*weights)
    busy(upstreams, 9, 0, 0)

    assert turns(FirstAvailable(), upstreams, 3) == "aaa"
    assert turns(FirstAvailable(), upstreams[1:], 3) == "bbb"


# A list


@pytest.mark.parametrize("kind", [RoundRobin, LeastRequests])
def test_a_list_may_change_between_two_picks(kind):
    """Only what cannot change is remembered."""
    upstreams, balancer = list(pool_of(1, 1, 1)), kind()
    turns(balancer, upstreams, 4)
    del upstreams[0]

    assert Counter(turns(balancer, upstreams, 20)) == {"b": 10, "c": 10}
    upstreams[0].weight = 3
    assert Counter(turns(balancer, upstreams, 20)) == {"b": 15, "c": 5}
