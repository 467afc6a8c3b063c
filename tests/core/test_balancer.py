"""core.balancer and core.pool: whose turn it is."""

from __future__ import annotations

import inspect
from collections import Counter
from typing import Any

import pytest
from starlette.requests import HTTPConnection

from fastapi_proxy_router import (
    ConfigurationError,
    NoUpstreamAvailable,
    RoundRobin,
    Timeout,
    Upstream,
    UpstreamPool,
)
from fastapi_proxy_router.core.policy import PolicyOptions

CONNECTION = HTTPConnection({"type": "http", "headers": []})


def turns(pool: UpstreamPool, count: int) -> str:
    return "".join(pool.pick(CONNECTION).host for _ in range(count))


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({"a": 1, "b": 1, "c": 1}, "abcabc"),
        ({"a": 5, "b": 1, "c": 1}, "aabacaa"),
        ({"a": 2, "b": 0, "c": 1}, "acaaca"),
        ({"a": 1}, "aaa"),
    ],
)
def test_turns_are_in_proportion_and_spread_out(weights, expected):
    """The smooth weighted round robin of nginx; weight 0 takes no turn."""
    upstreams = [Upstream(f"http://{host}", weight=w) for host, w in weights.items()]
    pool = UpstreamPool(upstreams, balancer="round_robin")

    assert turns(pool, len(expected)) == expected


def test_the_others_keep_their_credit_when_an_upstream_goes():
    """Draining one does not start the rest anew."""
    pool = UpstreamPool(
        [Upstream("http://a", weight=3), Upstream("http://b"), Upstream("http://c")],
        balancer="round_robin",
    )
    turns(pool, 3)
    pool.upstreams[1].weight = 0

    assert Counter(turns(pool, 40)) == {"a": 30, "c": 10}


def test_a_pool_without_an_available_upstream_is_a_503():
    """All drained at run time."""
    pool = UpstreamPool("http://a")
    pool.upstreams[0].weight = 0

    with pytest.raises(NoUpstreamAvailable) as raised:
        pool.pick(CONNECTION)
    assert raised.value.status_code == 503


def test_a_balancer_is_any_callable():
    """It gets the available upstreams and the connection."""

    def last(upstreams, connection):
        assert connection is CONNECTION
        return upstreams[-1]

    assert turns(UpstreamPool(["http://a", "http://b"], balancer=last), 3) == "bbb"
    assert turns(UpstreamPool(["http://a", "http://b"], balancer=RoundRobin()), 3) == "aba"


@pytest.mark.parametrize("weight", [-1, 1.5, "1", True])
def test_a_weight_is_a_whole_number(weight):
    """From 0."""
    with pytest.raises(ConfigurationError, match="weight"):
        Upstream("http://a", weight=weight)


def test_every_mistake_of_a_pool_is_reported():
    """Upstreams and options together."""
    options: Any = {"preserve_hosts": True}
    with pytest.raises(ConfigurationError) as raised:
        UpstreamPool(
            [Upstream("http://a", weight=0), "x"],
            trusted_proxies=["nonsense"],
            timeout=0,
            via="caf\xe9",
            **options,
        )

    assert len(raised.value.mistakes) == 9


@pytest.mark.parametrize("value", [0, -1, "5", float("nan")])
def test_a_timeout_is_above_zero(value):
    """None is no limit; zero is a mistake."""
    with pytest.raises(ConfigurationError):
        Timeout(response=value)
    assert Timeout(None, None, None).idle is None


def test_options_are_documented():
    """Every option has its line in the docstring that users read."""
    for name in PolicyOptions.__annotations__:
        assert f"\n    {name}: " in (inspect.getdoc(PolicyOptions) or "")
