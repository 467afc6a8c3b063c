"""core.hashing: what belongs together goes to the same upstream."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_proxy_router import (
    ConfigurationError,
    ConsistentHash,
    FirstAvailable,
    Upstream,
    UpstreamPool,
)
from tests.core.balancing import pool_of, request

KEYS = [f"user-{number}" for number in range(2000)]
WEIGHTS = st.lists(st.integers(1, 20), min_size=2, max_size=8)


def by_header(user: str):
    return request(headers=[(b"x-user", user.encode())])


def places(upstreams, keys=KEYS, balancer=None):
    """Return the upstream of each key."""
    balancer = balancer or ConsistentHash("header:x-user")
    return {key: balancer(upstreams, by_header(key)) for key in keys}


def moved(before, after):
    """Return where keys went that are not where they were, as pairs."""
    return Counter((before[key], after[key]) for key in before if before[key] is not after[key])


# Where keys go


@pytest.mark.parametrize("weights", [[1] * 2, [1] * 5, [1] * 20, [1, 2, 5], [10, *[1] * 10]])
def test_each_upstream_has_its_share_of_the_keys(weights):
    """In proportion to weight."""
    keys = [f"user-{number}" for number in range(20_000)]
    found = Counter(places(upstreams := pool_of(*weights), keys).values())

    for upstream in upstreams:
        share = upstream.weight / sum(weights)
        assert found[upstream] / len(keys) == pytest.approx(share, rel=0.15, abs=0.005)


@given(WEIGHTS, st.text(min_size=1), st.randoms())
def test_the_order_of_the_pool_does_not_matter(weights, key, shuffler):
    """Gateways may list the same upstreams in another order."""
    upstreams = pool_of(*weights)
    mixed = [*upstreams]
    shuffler.shuffle(mixed)

    assert places(upstreams, [key]) == places(mixed, [key])


@given(WEIGHTS, st.data())
def test_only_the_keys_of_an_upstream_that_leaves_move(weights, data):
    """All others stay; and back they move when it returns."""
    upstreams, balancer = pool_of(*weights, 3), ConsistentHash("header:x-user")
    gone = data.draw(st.sampled_from(upstreams))
    left = tuple(upstream for upstream in upstreams if upstream is not gone)
    keys = KEYS[:200]
    before = places(upstreams, keys, balancer)

    assert {old for old, _ in moved(before, places(left, keys, balancer))} <= {gone}
    assert places(upstreams, keys, balancer) == before


def test_about_one_key_in_n_moves_and_to_all_the_others():
    """What an upstream had is shared by those that are left."""
    upstreams = pool_of(*[1] * 10)
    found = moved(places(upstreams), places(upstreams[1:]))

    assert found.total() / len(KEYS) == pytest.approx(1 / 10, abs=0.03)
    assert {new for _, new in found} == set(upstreams[1:])
    assert max(found.values()) < 3 * found.total() / 9


@given(WEIGHTS, st.integers(1, 40))
def test_a_new_weight_moves_keys_only_to_or_from_its_upstream(weights, weight):
    """It takes from all, or gives to all, and nothing moves between the others."""
    upstreams = pool_of(*weights)
    keys = KEYS[:200]
    before, old = places(upstreams, keys), upstreams[0].weight
    upstreams[0].weight = weight
    found = moved(before, places(upstreams, keys))

    side = 1 if weight >= old else 0
    assert {pair[side] for pair in found} <= {upstreams[0]}


def test_it_is_the_same_in_another_process():
    """Python's own hashes differ from one to the next; these do not."""
    program = (
        "from tests.core.test_balancers_hashing import *\n"
        "print(''.join(up.host for up in places(pool_of(1, 2, 1, 1), KEYS[:100]).values()))"
    )
    here = "".join(up.host for up in places(pool_of(1, 2, 1, 1), KEYS[:100]).values())
    for seed in ("1", "2"):
        found = subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert found.stdout.strip() == here


def test_it_is_the_same_in_another_version():
    """An update of one gateway of several must not move what the others keep where it is."""
    found = "".join(up.host for up in places(pool_of(1, 1, 1), KEYS[:30]).values())
    weighted = "".join(up.host for up in places(pool_of(1, 2, 3), KEYS[:30]).values())

    assert found == "bcccccccacabcbababbaaacabcbaaa"
    assert weighted == "cccccccccccbcbabcbbacbcabcbcca"


def test_upstreams_differ_by_their_base_path():
    """Two services of one server are two upstreams; a slash at the end is no difference."""
    one, two = Upstream("http://a/one"), Upstream("http://a/two")
    assert set(places((one, two)).values()) == {one, two}

    slash = Upstream("http://a/one/")
    before, after = places((one, two)), places((slash, two))
    assert all((before[key] is two) == (after[key] is two) for key in KEYS)


def test_an_upstream_that_is_listed_twice_has_two_shares():
    """Its second entry is not idle."""
    twice = (Upstream("http://a"), Upstream("http://b"), Upstream("http://a"))
    found = Counter(places(twice).values())

    assert all(found[upstream] > 500 for upstream in twice)


# What is hashed


def chosen(on, **scope):
    """Return whether the request has the property, and where it goes."""
    missing = object()

    def fallback(upstreams, connection):
        return missing

    balancer = ConsistentHash(on, fallback=fallback)
    found = balancer(pool_of(*[1] * 200), request(**scope))
    return None if found is missing else found.host


def cookie(value):
    return {"headers": [(b"cookie", value)]}


@pytest.mark.parametrize(
    ("on", "one", "other"),
    [
        ("client", {"client": ("192.0.2.1", 1)}, {"client": ("192.0.2.2", 1)}),
        ("path", {"path": "/users/7"}, {"path": "/users/8"}),
        ("header:X-User", {"headers": [(b"x-user", b"a")]}, {"headers": [(b"x-user", b"b")]}),
        ("cookie:sid", cookie(b"x=1; sid=a"), cookie(b"sid=b")),
        ("query:user", {"query_string": b"x=1&user=a"}, {"query_string": b"user=b"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_the_property_decides(on, one, other, kind):
    """The same one goes to the same upstream, another one to any; for WebSockets too."""
    found = chosen(on, **one)

    assert found is not None
    assert found == chosen(on, **one, type=kind)
    assert found != chosen(on, **other, type=kind)


@pytest.mark.parametrize(
    ("on", "one", "same"),
    [
        ("client", {"client": ("192.0.2.1", 1)}, {"client": ("192.0.2.1", 2)}),
        ("client", {"client": ("192.0.2.1", 1)}, {"client": ("::ffff:192.0.2.1", 2)}),
        ("client", {"client": ("2001:db8::1", 1)}, {"client": ("2001:DB8:0::1", 2)}),
        ("path", {"path": "/a"}, {"path": "/a", "query_string": b"x=1"}),
        ("query:user", {"query_string": b"user=a"}, {"query_string": b"x=1&user=%61"}),
        ("cookie:sid", cookie(b"sid=a"), cookie(b"b=1;sid=a")),
    ],
)  # fmt: skip
def test_what_does_not_belong_to_the_property_does_not_matter(on, one, same):
    """A client's port, a query, another cookie."""
    assert chosen(on, **one) == chosen(on, **same)


@pytest.mark.parametrize(
    ("on", "scope"),
    [
        ("client", {"client": None}),
        ("client", {"client": ("", 0)}),
        ("header:x-user", {"headers": [(b"x-users", b"a")]}),
        ("header:x-user", {"headers": [(b"x-user", b"")]}),
        ("cookie:sid", {"headers": []}),
        ("cookie:sid", {"headers": [(b"cookie", b"sidd=a")]}),
        ("query:user", {"query_string": b""}),
        ("query:user", {"query_string": b"user=&users=a"}),
    ],
)
def test_a_request_without_the_property_goes_to_the_fallback(on, scope):
    """So that all those without a cookie do not go to one upstream."""
    assert chosen(on, **scope) is None


def test_the_fallback_spreads_unless_told_otherwise():
    """It is two choices."""
    upstreams = pool_of(1, 1, 1)
    balancer = ConsistentHash("cookie:sid")
    assert {balancer(upstreams, request()) for _ in range(100)} == set(upstreams)

    balancer = ConsistentHash("cookie:sid", fallback=FirstAvailable())
    assert {balancer(upstreams, request()) for _ in range(100)} == {upstreams[0]}


@pytest.mark.parametrize("path", ["/caf\xe9", "/\udcff", "/\U0001f600"])
def test_any_path_that_a_server_decoded_can_be_hashed(path):
    """In whatever way it did."""
    assert chosen("path", path=path) is not None


# The client behind another proxy


def client_hosts(*said: bytes, peer: str, trusted: list[str]) -> str:
    """Return where a request goes whose peer says these ``X-Forwarded-For``."""
    pool = UpstreamPool(
        list(pool_of(*[1] * 200)), balancer=ConsistentHash("client"), trusted_proxies=trusted
    )
    headers = [(b"x-forwarded-for", line) for line in said]
    return pool.pick(request(client=(peer, 1), headers=headers)).host


def direct(client: str) -> str:
    return client_hosts(peer=client, trusted=[])


@pytest.mark.parametrize(
    ("said", "client"),
    [
        ([b"198.51.100.7"], "198.51.100.7"),
        ([b"203.0.113.9, 198.51.100.7"], "198.51.100.7"),
        ([b"203.0.113.9", b"198.51.100.7, 10.1.1.1"], "198.51.100.7"),
        ([b"10.2.2.2, 10.1.1.1"], "10.2.2.2"),
        ([b""], "10.0.0.1"),
        ([], "10.0.0.1"),
    ],
)
def test_behind_trusted_proxies_the_client_is_whom_they_name(said, client):
    """The last one that is not itself trusted: what stands before it, anybody may have written."""
    assert client_hosts(*said, peer="10.0.0.1", trusted=["10.0.0.0/8"]) == direct(client)


def test_nobody_else_is_believed():
    """A client that could choose its upstream could overload one."""
    for trusted in ([], ["10.0.0.0/8"]):
        found = {
            client_hosts(b"198.51.100.%d" % number, peer="192.0.2.1", trusted=trusted)
            for number in range(20)
        }
        assert found == {direct("192.0.2.1")}


def test_a_trusted_unix_socket_names_the_client_too():
    """It has no address of its own."""
    assert client_hosts(b"198.51.100.7", peer="", trusted=["unix"]) == direct("198.51.100.7")


# Mistakes


@pytest.mark.parametrize(
    "on",
    ["", "ip", "client:", "client:x", "path:x", "header", "header:", "header:x y", "cookie:",
     "cookie:a;b", "query:", "Header:x", "body:x"],
)  # fmt: skip
def test_what_cannot_be_hashed_is_a_mistake(on):
    """The message says what can be."""
    with pytest.raises(ConfigurationError, match=r"client, path, header:<name>, cookie:<name>"):
        ConsistentHash(on)
