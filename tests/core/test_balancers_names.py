"""core.balancers: the names that settings have, and what holds for every balancer."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_proxy_router import (
    ConfigurationError,
    ConsistentHash,
    FirstAvailable,
    LeastLatency,
    LeastRequests,
    Random,
    RoundRobin,
    TwoChoices,
    UpstreamPool,
)
from fastapi_proxy_router.core.balancers import BALANCER_NAMES, balancer_named
from tests.core.balancing import busy, pool_of, request

NAMES = {
    "round_robin": RoundRobin,
    "random": Random,
    "least_requests": LeastRequests,
    "two_choices": TwoChoices,
    "least_latency": LeastLatency,
    "first_available": FirstAvailable,
    "hash:client": ConsistentHash,
    "hash:path": ConsistentHash,
    "hash:header:x-user": ConsistentHash,
    "hash:cookie:sid": ConsistentHash,
    "hash:query:user": ConsistentHash,
}


@pytest.mark.parametrize("name", NAMES)
def test_every_balancer_has_a_name(name):
    """Each pool gets one of its own, as most remember whose turn it was."""
    first, second = balancer_named(name), balancer_named(name)

    assert type(first) is NAMES[name]
    assert first is not second


def test_a_hash_is_on_what_its_name_says():
    """What follows the first colon."""
    balancer = balancer_named("hash:header:x-user")

    assert isinstance(balancer, ConsistentHash)
    assert balancer.on == "header:x-user"


@pytest.mark.parametrize("name", ["", "twochoices", "Round_Robin", "hash", "TwoChoices"])
def test_the_mistake_lists_all_names(name):
    """Nobody has to look them up."""
    with pytest.raises(ConfigurationError) as raised:
        balancer_named(name)

    assert all(known in str(raised.value) for known in BALANCER_NAMES)
    assert repr(name) in str(raised.value)


@pytest.mark.parametrize("name", ["hash:", "hash:ip", "hash:header:"])
def test_a_hash_on_nothing_is_a_mistake_too(name):
    """Its message is about the hash."""
    with pytest.raises(ConfigurationError, match="header:<name>"):
        balancer_named(name)


@pytest.mark.parametrize("name", NAMES)
@given(
    st.lists(st.tuples(st.integers(1, 10**6), st.integers(0, 50)), min_size=1, max_size=10),
    st.data(),
)
def test_the_pick_is_one_of_those_that_may_be_used(name, upstreams, data):
    """Whatever their weights and loads are, and whoever came or left before."""
    weights, loads = zip(*upstreams, strict=True)
    pool = pool_of(*weights)
    busy(pool, *loads)
    balancer = balancer_named(name)
    places = st.sets(st.integers(0, len(pool) - 1), min_size=1)

    for chosen in data.draw(st.lists(places, max_size=5)):
        available = tuple(pool[place] for place in sorted(chosen))
        picks = [balancer(available, request(query_string=b"user=june")) for _ in range(3)]
        assert set(picks) <= set(available)


def test_a_pool_takes_a_name_and_draws_by_its_own_chance_and_clock():
    """So that the averages of its upstreams are read by the clock that they are told."""
    now = 0.0
    pool = UpstreamPool(
        ["http://a", "http://b"],
        balancer="least_latency",
        clock=lambda: now,
        chance=random.Random(1),
    )
    for upstream, seconds in zip(pool.upstreams, (0.2, 0.1), strict=True):
        upstream.latency.observe(seconds, now)

    assert {pool.pick(request()).host for _ in range(20)} == {"b"}


def test_two_choices_is_the_default():
    """For a pool of any size."""
    assert isinstance(UpstreamPool("http://a").balancer, TwoChoices)
