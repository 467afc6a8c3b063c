"""core.discovery: what a lookup changes in a pool."""

from __future__ import annotations

import pytest

from fastapi_proxy_router import (
    ConfigurationError,
    Endpoint,
    RateLimit,
    Resolve,
    Upstream,
    UpstreamPool,
)
from fastapi_proxy_router.core.discovery import Name, is_name, nameserver_of
from fastapi_proxy_router.core.lease import Lease


def pool_of(*upstreams: str | Upstream) -> tuple[UpstreamPool, Name]:
    """Return a pool, and the name of its first upstream."""
    pool = UpstreamPool(upstreams, resolve=Resolve())
    return pool, Name(pool.upstreams[0])


def found(pool: UpstreamPool, name: Name, *addresses: str) -> bool:
    return name.found(pool, [Endpoint(address) for address in addresses])


def members(pool: UpstreamPool) -> dict[str, int]:
    """Return the weight of every address in the pool."""
    return {upstream.address.host: upstream.weight for upstream in pool.upstreams}


def member(pool: UpstreamPool, address: str) -> Upstream:
    return next(one for one in pool.upstreams if one.address.host == address)


def use(upstream: Upstream) -> None:
    """Let one exchange begin and end."""
    Lease(upstream).end()


def test_until_it_was_looked_up_the_name_serves():
    """A pool without a lifespan connects by name."""
    pool, _ = pool_of("http://users:8000")

    assert [upstream.origin for upstream in pool.available()] == ["http://users:8000"]


def test_every_address_becomes_an_upstream_in_place_of_the_name():
    """What goes to the upstream and in TLS is still the name."""
    pool, name = pool_of("https://users:8443/base?key=1")

    assert found(pool, name, "10.0.0.1", "fd00::2")

    one, two = pool.upstreams
    assert one.origin == "https://users:8443 at 10.0.0.1"
    assert two.origin == "https://users:8443 at fd00::2"
    for upstream in (one, two):
        assert upstream.authority == b"users:8443"
        assert upstream.server_hostname == "users"
        assert (upstream.base_path, upstream.base_query) == (b"/base", b"key=1")
        assert upstream.address.port == 8443
        assert upstream.pool is pool


def test_every_address_has_the_terms_of_the_upstream_that_was_given():
    """Weight, limits and transport; the limits are for each of them."""
    transport = object()
    given = Upstream(
        "http://users",
        weight=3,
        backup=True,
        max_concurrent=5,
        rate_limit=RateLimit(7),
        transport=transport,
    )
    pool, name = pool_of(given, "http://other")
    found(pool, name, "10.0.0.1", "10.0.0.2")

    for address in ("10.0.0.1", "10.0.0.2"):
        upstream = member(pool, address)
        assert (upstream.weight, upstream.backup, upstream.max_concurrent) == (3, True, 5)
        assert upstream.rate_limit == RateLimit(7)
        assert upstream.transport is transport


def test_what_is_known_of_an_address_that_stays_is_kept():
    """It is the same upstream, also if its neighbours change."""
    pool, name = pool_of("http://users")
    found(pool, name, "10.0.0.1", "10.0.0.2")
    one = member(pool, "10.0.0.1")
    use(one)

    assert found(pool, name, "10.0.0.3", "10.0.0.1")
    assert not found(pool, name, "10.0.0.1", "10.0.0.3", "10.0.0.1")

    assert member(pool, "10.0.0.1") is one
    assert one.requests == 1


def test_an_address_that_is_lost_leaves():
    """What it is doing it may finish."""
    pool, name = pool_of("http://users")
    found(pool, name, "10.0.0.1", "10.0.0.2")
    gone = member(pool, "10.0.0.2")
    lease = Lease(gone)

    assert found(pool, name, "10.0.0.1")

    assert members(pool) == {"10.0.0.1": 1}
    assert (gone.pool, gone.in_flight, pool.in_flight) == (None, 1, 1)
    lease.end()
    assert (gone.in_flight, pool.in_flight) == (0, 0)


def test_an_address_that_comes_back_is_a_new_one():
    """Nobody knows what has happened to it meanwhile."""
    pool, name = pool_of("http://users")
    found(pool, name, "10.0.0.1", "10.0.0.2")
    before = member(pool, "10.0.0.2")
    found(pool, name, "10.0.0.1")

    assert found(pool, name, "10.0.0.1", "10.0.0.2")

    assert member(pool, "10.0.0.2") is not before


def test_a_lookup_that_finds_nothing_changes_nothing():
    """Neither the name's own upstream nor its last addresses go."""
    pool, name = pool_of("http://users")
    assert not found(pool, name)
    assert members(pool) == {"users": 1}
    found(pool, name, "10.0.0.1")

    assert not found(pool, name)
    assert members(pool) == {"10.0.0.1": 1}


def test_what_cannot_be_used_changes_nothing():
    """Half of an answer would be worse than the last one."""
    pool, name = pool_of("http://users")
    found(pool, name, "10.0.0.1")

    with pytest.raises(ConfigurationError):
        found(pool, name, "10.0.0.2", "not an address")

    assert members(pool) == {"10.0.0.1": 1}


def test_the_weight_of_a_record_is_followed_but_not_over_what_others_have_set():
    """Only a record that changes says something new."""
    pool, name = pool_of("http://users")
    heavy = [Endpoint("10.0.0.1", weight=5), Endpoint("10.0.0.2", weight=5, backup=True)]
    name.found(pool, heavy)
    pool.drain(member(pool, "10.0.0.1"))

    assert not name.found(pool, heavy)
    assert members(pool) == {"10.0.0.1": 0, "10.0.0.2": 5}

    assert name.found(pool, [Endpoint("10.0.0.1", weight=2), Endpoint("10.0.0.2", weight=5)])
    assert members(pool) == {"10.0.0.1": 2, "10.0.0.2": 5}
    assert [upstream.backup for upstream in pool.upstreams] == [False, False]
    assert len(pool.available()) == 2


def test_endpoints_of_one_address_differ_by_host_and_port():
    """As those of SRV records may."""
    pool, name = pool_of("http://_http._tcp.users/base")
    name.found(pool, [Endpoint("10.0.0.1", "a", 81), Endpoint("10.0.0.1", "b", 82)])

    assert sorted(upstream.origin for upstream in pool.upstreams) == [
        "http://a:81 at 10.0.0.1",
        "http://b:82 at 10.0.0.1",
    ]
    assert {upstream.base_path for upstream in pool.upstreams} == {b"/base"}


def test_the_upstreams_of_other_names_are_left_alone():
    """Each name knows its own."""
    pool, name = pool_of("http://users", "http://10.0.0.9")
    found(pool, name, "10.0.0.1")
    found(pool, name, "10.0.0.2")

    assert members(pool) == {"10.0.0.9": 1, "10.0.0.2": 1}


def test_an_address_that_somebody_has_removed_is_found_again():
    """The name says that it is there."""
    pool, name = pool_of("http://users")
    found(pool, name, "10.0.0.1", "10.0.0.2")
    pool.remove(member(pool, "10.0.0.1"))

    assert found(pool, name, "10.0.0.1", "10.0.0.2")
    assert members(pool) == {"10.0.0.1": 1, "10.0.0.2": 1}


def test_the_pool_is_never_without_an_upstream():
    """Also while all its addresses are exchanged."""
    pool, name = pool_of("http://users")
    seen: list[int] = []
    pool.watch(lambda: seen.append(len(pool.available())))
    found(pool, name, "10.0.0.1")
    found(pool, name, "10.0.0.2")
    found(pool, name, "10.0.0.2")

    assert min(seen) >= 1


def test_a_name_goes_on_with_the_addresses_that_were_found_before():
    """When an application starts again, what is known of them is kept."""
    pool, name = pool_of("http://users")
    found(pool, name, "10.0.0.1", "10.0.0.2")
    before = pool.upstreams

    again = Name(name.upstream, pool.upstreams)

    assert not found(pool, again, "10.0.0.1", "10.0.0.2")
    assert pool.upstreams == before


@pytest.mark.parametrize(
    ("upstream", "expected"),
    [
        (Upstream("http://users"), True),
        (Upstream("http://10.0.0.1"), False),
        (Upstream("http://[::1]:8000"), False),
        (Upstream("http://users", address="10.0.0.1"), False),
        (Upstream("http://users", address="users.internal"), True),
    ],
)
def test_only_a_name_is_looked_up(upstream, expected):
    """What is connected to by address stays as it is."""
    assert is_name(upstream) is expected


def test_every_mistake_is_reported():
    """All at once."""
    with pytest.raises(ConfigurationError) as raised:
        Resolve(
            records="MX",  # type: ignore[arg-type]
            interval=0,
            timeout=-1,
            jitter=1,
            nameserver="ns.internal",
            lookup="x",  # type: ignore[arg-type]
        )

    assert len(raised.value.mistakes) == 6
    assert all(mistake.startswith("resolve: ") for mistake in raised.value.mistakes)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1", ("10.0.0.1", 53)),
        ("127.0.0.1:8600", ("127.0.0.1", 8600)),
        ("::1", ("::1", 53)),
        ("[::1]:8600", ("::1", 8600)),
    ],
)
def test_a_name_server_is_an_address(text, expected):
    """With a port, or that of DNS."""
    assert nameserver_of(text) == expected


@pytest.mark.parametrize("text", ["", "ns.internal:53", "10.0.0.1:port", "10.0.0.1:99999", "[::1"])
def test_what_is_no_name_server(text):
    """A name would have to be looked up first."""
    with pytest.raises(ConfigurationError):
        Resolve(nameserver=text)
