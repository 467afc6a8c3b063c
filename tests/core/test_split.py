"""core.split: which pool gets a request."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import HTTPConnection

from fastapi_proxy_router import (
    Canary,
    ConfigurationError,
    CookieAffinity,
    Ejection,
    HeaderAffinity,
    NoUpstreamAvailable,
    Split,
    Upstream,
    UpstreamPool,
)
from fastapi_proxy_router.core.lease import Lease
from fastapi_proxy_router.core.split import Rule

NOTHING = HTTPConnection({"type": "http", "headers": []})


def asking(*headers: tuple[str, str]) -> HTTPConnection:
    raw = [(name.encode(), value.encode()) for name, value in headers]
    return HTTPConnection({"type": "http", "headers": raw})


def pool(name: str, upstreams: int = 1, **options: Any) -> UpstreamPool:
    return UpstreamPool(
        [f"http://{name}-{number}" for number in range(upstreams)], name=name, **options
    )


def fragile(name: str, **options: Any) -> UpstreamPool:
    """Return a pool of one upstream that one failure ejects for 10 s."""
    return pool(name, ejection=Ejection(consecutive=1, max_share=1.0), **options)


def fail(upstream: Upstream) -> None:
    lease = Lease(upstream)
    lease.failed()
    lease.end()


def counted(split: Split, requests: int, connection: HTTPConnection = NOTHING) -> Counter[str]:
    picks = (split.pick(connection).pool for _ in range(requests))
    return Counter(picked.name for picked in picks if picked is not None)


# Weights


def test_pools_share_traffic_by_weight():
    """Within what chance allows, and each pool balances its part by itself."""
    stable, canary = pool("stable", 2), pool("canary")
    split = Split({stable: 95, canary: 5}, chance=Random(1))

    picked = Counter(split.pick(NOTHING).host for _ in range(10_000))
    assert 400 < picked["canary-0"] < 600
    assert abs(picked["stable-0"] - picked["stable-1"]) < 500


@given(weights=st.lists(st.integers(0, 5), min_size=1, max_size=5).filter(any), seed=st.integers())
def test_a_pool_gets_traffic_if_it_has_a_weight(weights, seed):
    """Weight 0 gets none, and no other is forgotten."""
    pools = {pool(str(number)): weight for number, weight in enumerate(weights)}
    picked = counted(Split(pools, chance=Random(seed)), 500)

    assert set(picked) == {one.name for one, weight in pools.items() if weight}


def test_weights_change_at_run_time():
    """From the next request on; those that are not given stay."""
    stable, canary = pool("stable"), pool("canary")
    split = Split({stable: 1, canary: 0})

    assert counted(split, 20) == {"stable": 20}
    split.reweight({canary: 1})
    assert set(counted(split, 100)) == {"stable", "canary"}
    split.reweight({stable: 0})
    assert counted(split, 20) == {"canary": 20}


@pytest.mark.parametrize("weight", [-1, 0.5, True, "5", None])
def test_wrong_weights_change_nothing(weight):
    """The mistakes are reported, also that none would be left."""
    stable, other = pool("stable"), pool("other")
    split = Split({stable: 1})

    with pytest.raises(ConfigurationError) as raised:
        split.reweight({stable: weight, other: 1})
    assert len(raised.value.mistakes) == 2
    with pytest.raises(ConfigurationError, match="above 0"):
        split.reweight({stable: 0})
    with pytest.raises(ConfigurationError, match="other"):
        split.reweight({other: 1})
    assert counted(split, 5) == {"stable": 5}


# Pools that cannot serve


def test_a_pool_without_a_healthy_upstream_gets_nothing():
    """Although it would use an ejected one for want of a better; when it is back, it has its part.

    And a trial of it is one request.
    """
    time = [0.0]
    stable = pool("stable")
    canary = fragile("canary", clock=lambda: time[0])
    split = Split({stable: 1, canary: 1})
    fail(canary.upstreams[0])

    assert counted(split, 50) == {"stable": 50}
    time[0] = 10.0
    assert set(counted(split, 100)) == {"stable", "canary"}
    lease = Lease(canary.upstreams[0])
    assert counted(split, 50) == {"stable": 50}
    lease.answered(200)
    lease.end()
    assert set(counted(split, 100)) == {"stable", "canary"}


def test_a_drained_pool_gets_nothing():
    """One whose upstreams have weight 0, all of them."""
    stable, canary = pool("stable"), pool("canary")
    split = Split({stable: 1, canary: 99})
    canary.drain(canary.upstreams[0])

    assert counted(split, 50) == {"stable": 50}


def test_where_no_pool_is_healthy_all_get_their_part():
    """What becomes of it is up to the pool: this one panics, the other one refuses."""
    panicking, refusing = fragile("panicking"), fragile("refusing", panic=False)
    split = Split({panicking: 1, refusing: 1}, chance=Random(1))
    fail(panicking.upstreams[0])
    fail(refusing.upstreams[0])

    outcomes = set()
    for _ in range(50):
        try:
            outcomes |= set(counted(split, 1))
        except NoUpstreamAvailable:
            outcomes.add("503")
    assert outcomes == {"panicking", "503"}


def test_a_pool_at_its_limit_keeps_its_part():
    """A limit would be none if it were another pool's load."""
    stable = UpstreamPool(Upstream("http://a", max_concurrent=1))
    canary = pool("canary")
    split = Split({stable: 1, canary: 0})
    lease = Lease(stable.upstreams[0])

    with pytest.raises(NoUpstreamAvailable):
        split.pick(NOTHING)
    lease.end()
    assert split.pick(NOTHING) is stable.upstreams[0]


def test_upstreams_that_were_tried_are_left_out():
    """So another pool can stand in, until none is left."""
    stable, canary = pool("stable"), pool("canary")
    split = Split({stable: 99, canary: 1})

    assert split.pick(NOTHING, without=stable.upstreams) is canary.upstreams[0]
    with pytest.raises(NoUpstreamAvailable):
        split.pick(NOTHING, without=split.upstreams)


# Rules


@pytest.mark.parametrize(
    ("options", "headers", "matches"),
    [
        ({"header": "X-Canary"}, [("x-canary", "")], True),
        ({"header": "X-Canary"}, [("x-canaryx", "1")], False),
        ({"header": "x-canary", "value": "always"}, [("x-canary", "always")], True),
        ({"header": "x-canary", "value": "always"}, [("x-canary", "Always")], False),
        ({"header": "x-canary", "value": "always"}, [("x-canary", "always, no")], False),
        ({"header": "x-canary", "value": "b"}, [("x-canary", "a"), ("x-canary", "b ")], True),
        ({"header": "x-canary", "value": "caf\xe9"}, [("x-canary", "caf\xe9")], True),
        ({"cookie": "beta"}, [("cookie", "a=1; beta=")], True),
        ({"cookie": "beta"}, [("cookie", "beta")], False),
        ({"cookie": "beta"}, [("cookie", "BETA=1")], False),
        ({"cookie": "beta"}, [("beta", "1")], False),
        ({"cookie": "beta", "value": "1"}, [("cookie", "beta=0"), ("cookie", "beta=1")], True),
        ({"cookie": "beta", "value": "1"}, [("cookie", "beta=11")], False),
    ],
)
def test_a_canary_is_for_a_header_or_a_cookie(options, headers, matches):
    """Of any value, or of exactly one."""
    stable, canary = pool("stable"), pool("canary")
    split = Split({stable: 1}, rules=[Canary(canary, **options)])

    assert counted(split, 5, asking(*headers)) == {"canary" if matches else "stable": 5}
    assert counted(split, 5) == {"stable": 5}


@given(st.lists(st.tuples(st.sampled_from([b"x-canary", b"cookie"]), st.binary())))
def test_no_bytes_of_a_client_raise(headers):
    """The request goes somewhere."""
    stable, canary = pool("stable"), pool("canary")
    rules = [Canary(canary, header="x-canary", value="1"), Canary(canary, cookie="beta")]

    connection = HTTPConnection({"type": "http", "headers": headers})
    assert Split({stable: 1}, rules=rules).pick(connection).pool in (stable, canary)


def test_the_first_rule_that_has_an_opinion_decides():
    """One may be a function; weights are not asked."""
    stable, canary, beta = pool("stable"), pool("canary"), pool("beta")

    def by_host(connection: HTTPConnection) -> UpstreamPool | None:
        return beta if connection.headers.get("host") == "beta.test" else None

    rules: list[Rule] = [by_host, Canary(canary, header="x-canary")]
    split = Split({stable: 1, beta: 0}, rules=rules)

    assert split.pools == (stable, beta, canary)
    assert split.upstreams == (*stable.upstreams, *beta.upstreams, *canary.upstreams)
    assert counted(split, 5, asking(("host", "beta.test"), ("x-canary", "1"))) == {"beta": 5}
    assert counted(split, 5, asking(("x-canary", "1"))) == {"canary": 5}
    assert counted(split, 5) == {"stable": 5}


def test_a_function_may_not_choose_a_pool_from_elsewhere():
    """Nobody would open and close its connections."""
    elsewhere = pool("elsewhere")
    split = Split({pool("stable"): 1}, rules=[lambda _: elsewhere])

    with pytest.raises(ConfigurationError, match="elsewhere"):
        split.pick(NOTHING)


def test_who_asks_for_a_pool_gets_no_other():
    """A test of a new version that is down must not pass on the old one."""
    stable, canary = pool("stable"), fragile("canary", panic=False)
    split = Split({stable: 1}, rules=[Canary(canary, header="x-canary")])
    fail(canary.upstreams[0])

    with pytest.raises(NoUpstreamAvailable):
        split.pick(asking(("x-canary", "1")))


def test_a_canary_may_fall_back():
    """For users who did not ask for trouble."""
    stable, canary = pool("stable"), fragile("canary")
    split = Split({stable: 1}, rules=[Canary(canary, cookie="beta", fallback=True)])
    connection = asking(("cookie", "beta=1"))

    assert counted(split, 5, connection) == {"canary": 5}
    fail(canary.upstreams[0])
    assert counted(split, 5, connection) == {"stable": 5}


# Affinity


def sticky(**options: Any) -> tuple[Split, UpstreamPool, UpstreamPool, HTTPConnection]:
    """Return a split, its pools, and a request of a client that is bound to the canary."""
    affinity = CookieAffinity(secret="a secret of the tests", **options)
    stable = pool("stable", affinity=affinity)
    canary = fragile("canary", affinity=affinity)
    key = affinity.key_of(canary.upstreams[0])
    split = Split({stable: 99, canary: 1}, rules=[Canary(stable, header="x-stable")])
    return split, stable, canary, asking(("cookie", f"proxy_affinity={key}"))


def test_a_client_stays_with_its_pool():
    """Whatever the weights say, also when the pool gets no new clients any more."""
    split, _, canary, connection = sticky()

    assert counted(split, 50, connection) == {"canary": 50}
    split.reweight({canary: 0})
    assert counted(split, 50, connection) == {"canary": 50}
    canary.drain(canary.upstreams[0])
    assert counted(split, 50, connection) == {"canary": 50}


def test_a_rule_is_stronger_than_affinity():
    """It says what is wanted now."""
    split, _, _, connection = sticky()
    connection.scope["headers"].append((b"x-stable", b"1"))

    assert counted(split, 50, connection) == {"stable": 50}


def test_a_client_is_redistributed_to_another_pool():
    """When its own has nobody who is healthy."""
    split, _, canary, connection = sticky()
    fail(canary.upstreams[0])

    assert counted(split, 50, connection) == {"stable": 50}


def test_a_client_is_refused_where_its_pool_says_so():
    """Its session is not in the other one."""
    split, _, canary, connection = sticky(failure="refuse")
    assert counted(split, 5, connection) == {"canary": 5}
    canary.remove(canary.upstreams[0])
    canary.add("http://another")
    assert set(counted(split, 1000, connection)) == {"stable", "canary"}

    split, _, canary, connection = sticky(failure="refuse")
    with pytest.raises(NoUpstreamAvailable):
        split.pick(connection, without=canary.upstreams)


def test_pools_may_have_affinities_of_their_own():
    """The first pool in order that knows the client has it."""
    stable = pool("stable", affinity=HeaderAffinity("x-stable"))
    canary = pool("canary", affinity=HeaderAffinity("x-canary"))
    keys = [
        (f"x-{one.name}", one.affinity.key_of(one.upstreams[0]))
        for one in (stable, canary)
        if one.affinity is not None
    ]
    split = Split({stable: 1, canary: 1})

    assert counted(split, 20, asking(keys[1])) == {"canary": 20}
    assert counted(split, 20, asking(*keys)) == {"stable": 20}


# Mistakes


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 1),
        ({"header": "a", "cookie": "b"}, 1),
        ({"header": "a b"}, 1),
        ({"header": ""}, 1),
        ({"cookie": "caf\xe9"}, 1),
        ({"header": "a", "value": "x\r\n"}, 1),
        ({"header": "a", "pool": "http://a"}, 1),
        ({"header": "", "cookie": "", "value": "\n", "pool": None}, 5),
    ],
)
def test_a_mistake_in_a_canary_is_reported(options, count):
    """With the others."""
    arguments: Any = {"pool": pool("canary"), **options}
    with pytest.raises(ConfigurationError) as raised:
        Canary(**arguments)
    assert len(raised.value.mistakes) == count


@pytest.mark.parametrize(
    ("pools", "rules", "count"),
    [
        ({}, [], 1),
        ({pool("a"): 0}, [], 1),
        ({pool("a"): 0}, [Canary(pool("b"), header="x")], 1),
        ({pool("a"): -1, pool("b"): 1.5}, [], 2),
        ({"http://a": 1, pool("b"): 1}, [5], 2),
    ],
)
def test_a_mistake_in_a_split_is_reported(pools, rules, count):
    """With the others."""
    with pytest.raises(ConfigurationError) as raised:
        Split(pools, rules=rules)
    assert len(raised.value.mistakes) == count


def test_a_split_shows_its_shares():
    """For whoever operates it."""
    split = Split({pool("stable"): 95, pool("canary"): 5}, name="orders")

    assert repr(split) == "<Split 'orders' 95 'stable', 5 'canary'>"


def test_a_list_of_pools_has_no_weights():
    """It is refused in our words."""
    pools: Any = [pool("a")]
    with pytest.raises(ConfigurationError, match="pools and their weights"):
        Split(pools)
