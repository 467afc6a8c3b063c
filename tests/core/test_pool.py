"""core.pool: choosing, limits and membership."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.requests import HTTPConnection

from fastapi_proxy_router import (
    ConfigurationError,
    NoUpstreamAvailable,
    RoundRobin,
    Upstream,
    UpstreamPool,
)
from fastapi_proxy_router.core.checks import Ejection
from fastapi_proxy_router.core.lease import Lease
from fastapi_proxy_router.core.limits import Queue, RateLimit
from tests.core.clock import FakeClock

CONNECTION = HTTPConnection({"type": "http", "headers": []})


@pytest.fixture
def clock():
    return FakeClock()


async def asynchronous(*_arguments: object) -> None:
    """What a balancer or a callback may not be."""


def picked(pool: UpstreamPool, count: int = 1, **options: Any) -> str:
    return "".join(pool.pick(CONNECTION, **options).host for _ in range(count))


# --- Choosing -------------------------------------------------------------------------------------


def test_what_is_busy_is_not_picked(clock):
    """While another one is free."""
    pool = UpstreamPool(
        [Upstream("http://a", max_concurrent=1), Upstream("http://b")],
        balancer=RoundRobin(),
        clock=clock,
    )
    lease = Lease(pool.upstreams[0])
    assert picked(pool, 4) == "bbbb"
    lease.end()

    assert "a" in picked(pool, 4)


def test_all_busy_is_a_503_at_once(clock):
    """It says when to come again: when the first window is over."""
    limits = [RateLimit(1, 7.5), RateLimit(1, 30)]
    upstreams = [Upstream(f"http://a{n}", rate_limit=each) for n, each in enumerate(limits)]
    pool = UpstreamPool(upstreams, clock=clock)
    for upstream in pool.upstreams:
        Lease(upstream).end()
    with pytest.raises(NoUpstreamAvailable) as raised:
        pool.pick(CONNECTION)

    assert (raised.value.status_code, raised.value.headers) == (503, {"Retry-After": "8"})


def test_a_primary_that_is_busy_is_not_replaced_by_a_backup(clock):
    """It is well, and a limit says how much the pool is to take."""
    pool = UpstreamPool(
        [Upstream("http://a", max_concurrent=1), Upstream("http://b", backup=True)], clock=clock
    )
    Lease(pool.pick(CONNECTION))
    with pytest.raises(NoUpstreamAvailable, match="Service Unavailable"):
        pool.pick(CONNECTION)


def test_all_busy_is_a_wait_where_there_is_a_queue(clock):
    """One of them is picked, and may begin later."""
    pool = UpstreamPool(
        [Upstream("http://a", max_concurrent=1)], queue=Queue(), clock=clock, name="users"
    )
    Lease(pool.upstreams[0])

    assert picked(pool) == "a"
    assert pool.patience() == float("inf")


def test_time_makes_room_where_a_window_or_an_ejection_ends(clock):
    """Whichever is first."""
    pool = UpstreamPool(
        [Upstream("http://a", rate_limit=RateLimit(1, 20)), Upstream("http://b")],
        ejection=Ejection(consecutive=1),
        clock=clock,
    )
    Lease(pool.upstreams[0]).end()
    assert pool.patience() == 20
    Lease(pool.upstreams[1]).failed()

    assert pool.patience() == 10


def test_tried_upstreams_are_not_picked_again(clock):
    """Backups come after all primaries."""
    pool = UpstreamPool(["http://a", "http://b", Upstream("http://x", backup=True)], clock=clock)
    a, b, x = pool.upstreams

    assert picked(pool, 2, without=[a]) == "bb"
    assert picked(pool, 2, without=[a, b]) == "xx"
    with pytest.raises(NoUpstreamAvailable):
        pool.pick(CONNECTION, without=[a, b, x])


def test_a_drained_backup_is_no_other(clock):
    """Nor is one that is ejected."""
    pool = UpstreamPool(
        ["http://a", Upstream("http://x", backup=True), Upstream("http://y", backup=True)],
        ejection=Ejection(consecutive=1),
        clock=clock,
    )
    a, x, y = pool.upstreams
    pool.drain(x)
    Lease(y).failed()

    with pytest.raises(NoUpstreamAvailable):
        pool.pick(CONNECTION, without=[a])


def test_a_balancer_may_want_none():
    """A 503."""
    wanted: Any = None
    pool = UpstreamPool("http://a", balancer=lambda upstreams, connection: wanted)

    with pytest.raises(NoUpstreamAvailable) as raised:
        pool.pick(CONNECTION)
    assert raised.value.reason.endswith("wants none")


@pytest.mark.parametrize("stranger", [Upstream("http://s"), "http://a", 0])
def test_a_balancer_must_return_one_of_the_upstreams(stranger):
    """Else it is wrong, and says so."""
    pool = UpstreamPool("http://a", balancer=lambda upstreams, connection: stranger)

    with pytest.raises(TypeError, match="not one of its own"):
        pool.pick(CONNECTION)


def test_a_pool_has_room_up_to_its_limit(clock):
    """Whatever the upstreams may take."""
    pool = UpstreamPool(["http://a", "http://b"], max_concurrent=2, clock=clock)
    leases = [Lease(upstream) for upstream in pool.upstreams]
    assert not pool.has_room()
    leases[0].end()

    assert pool.has_room()


# --- Waking ---------------------------------------------------------------------------------------


def test_whatever_may_make_room_wakes_the_first_that_waits(clock):
    """An end, a failure, a weight, one that comes and one that goes."""
    pool = UpstreamPool(["http://a", "http://b"], ejection=Ejection(consecutive=1), clock=clock)
    woken: list[str] = []
    pool.waiting.append(lambda: woken.append("first"))
    pool.waiting.append(lambda: woken.append("second"))
    lease = Lease(pool.upstreams[0])
    happenings = [
        lease.failed,
        lease.end,
        lambda: setattr(pool.upstreams[0], "weight", 2),
        lambda: pool.add("http://c"),
        lambda: pool.remove(pool.upstreams[-1]),
        lambda: pool.drain(pool.upstreams[0]),
    ]
    for happening in happenings:
        woken.clear()
        happening()
        assert set(woken) == {"first"}, happening


# --- Membership -----------------------------------------------------------------------------------


def test_upstreams_come_and_go(clock):
    """Who watches is told of it, until it no longer watches."""
    pool = UpstreamPool(["http://a"], clock=clock)
    seen: list[int] = []
    stop = pool.watch(lambda: seen.append(len(pool.upstreams)))
    b = pool.add("http://b")
    pool.remove(b)
    stop()
    pool.add(b)

    assert seen == [2, 1]
    assert [one.host for one in pool.upstreams] == ["a", "b"]


def test_an_upstream_that_leaves_finishes_what_it_does(clock):
    """It is counted back to the pool that it was in."""
    pool, other = UpstreamPool(["http://a", "http://b"]), UpstreamPool(["http://c"])
    upstream = pool.upstreams[0]
    lease = Lease(upstream)
    pool.remove(upstream)
    other.add(upstream)
    lease.answered(200)
    lease.succeeded()
    lease.end()

    assert (pool.in_flight, other.in_flight, upstream.in_flight) == (0, 0, 0)


def test_an_upstream_that_drains_finishes_what_it_does(clock):
    """And is given nothing new."""
    pool = UpstreamPool(["http://a", "http://b"])
    a, _ = pool.upstreams
    lease = Lease(a)
    pool.drain(a)
    assert picked(pool, 4) == "bbbb"
    lease.end()

    assert a.in_flight == 0


def test_the_state_of_the_others_survives(clock):
    """Whoever comes or goes."""
    pool = UpstreamPool(["http://a", "http://b"], ejection=Ejection(consecutive=1), clock=clock)
    a, b = pool.upstreams
    Lease(a).failed()
    pool.remove(b)
    pool.add("http://c")

    assert a.health.state == "ejected"


def test_only_members_can_leave_or_drain():
    """A stranger keeps its weight."""
    pool, stranger = UpstreamPool("http://a"), Upstream("http://s")
    url: Any = "http://a"
    for act in (pool.remove, pool.drain):
        with pytest.raises(ConfigurationError, match="no upstream of"):
            act(url)
        with pytest.raises(ConfigurationError, match="no upstream of"):
            act(stranger)

    assert stranger.weight == 1


def test_an_upstream_is_in_one_pool():
    """Until it leaves that."""
    pool, other = UpstreamPool("http://a"), UpstreamPool("http://b")
    with pytest.raises(ConfigurationError, match="another pool"):
        other.add(pool.upstreams[0])
    with pytest.raises(ConfigurationError):
        other.add("nonsense")
    pool.remove(upstream := pool.upstreams[0])

    assert other.add(upstream).pool is other
    assert pool.upstreams == ()


def test_a_pool_that_everybody_has_left_is_a_503():
    """Some may come again."""
    pool = UpstreamPool("http://a")
    pool.remove(pool.upstreams[0])
    with pytest.raises(NoUpstreamAvailable):
        pool.pick(CONNECTION)
    pool.add("http://b")

    assert picked(pool) == "b"


# --- Options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("ejection", [1, Ejection, "never", True]),
        ("retry", [None, 3]),
        ("health", [True, "/healthz"]),
        ("queue", [1, True]),
        ("panic", [None, 1, "no"]),
        ("max_concurrent", [0, True, "1", 1.0]),
        ("on_state_change", [1, "print", asynchronous]),
        ("clock", [None, 1.0]),
        ("chance", [None, 0.5]),
        ("balancer", [None, 1, RoundRobin, asynchronous]),
    ],
)
def test_it_refuses_options_of_the_wrong_kind(name, values):
    """With a mistake that names the option."""
    for value in values:
        options: Any = {name: value}
        with pytest.raises(ConfigurationError) as raised:
            UpstreamPool("http://a", **options)
        assert [name in mistake for mistake in raised.value.mistakes] == [True], value


def test_an_unknown_option_is_told_which_there_are():
    """A typing error is found by looking at the list."""
    options: Any = {"balancr": "random"}
    with pytest.raises(ConfigurationError, match="'balancr'; there are affinity, balancer,"):
        UpstreamPool("http://a", **options)


@pytest.mark.parametrize("missing", [None, [None], [Upstream("http://a"), None]])
def test_what_is_no_upstream_is_a_mistake(missing):
    """Such as a variable of the environment that is not set."""
    with pytest.raises(ConfigurationError, match="a URL or an Upstream, not None"):
        UpstreamPool(missing)


def test_the_url_of_an_upstream_is_a_text():
    """Likewise."""
    missing: Any = None
    with pytest.raises(ConfigurationError, match="URL of an upstream"):
        Upstream(missing)


def test_one_network_is_no_list_of_them():
    """A text is not taken for a list of its letters."""
    with pytest.raises(ConfigurationError, match=r"give a list, as in \['10.0.0.0/8'\]"):
        UpstreamPool("http://a", trusted_proxies="10.0.0.0/8")


@pytest.mark.parametrize("options", [{"rate_limit": 5}, {"backup": "no"}, {"backup": None}])
def test_an_upstream_refuses_options_of_the_wrong_kind(options):
    """With a mistake that names the option."""
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        Upstream("http://a", **options)
