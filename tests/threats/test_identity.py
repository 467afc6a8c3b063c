"""H1-H13: who is asking, and for whom an answer is.

=====  ============================================================================================
H1     test_forwarding: connection_cannot_remove_our_forwarding_headers; test_overrides:
       connection_cannot_remove_a_header_that_an_override_sets
H2     test_forwarding: hop_by_hop_response_headers_stay_here
H3     test_forwarding: hop_by_hop_request_headers_stay_here; core/test_headers;
       test_messages ("H3 ..."): names that may not be dropped
H4     here; test_forwarding: what_an_untrusted_client_says_of_itself_is_replaced;
       core/test_forwarded
H5     here; test_forwarding: headers_that_imitate_ours_stay_here
H6     test_overrides: request_headers_are_edited, on every spelling and repetition
H7     here; two hosts in test_forwarding: a_request_that_can_be_read_two_ways_is_refused
H8     test_forwarding: one_users_cookies_never_reach_another; test_answers ("R13 ...")
H9     redirects and logs: test_forwarding: redirects_are_relayed_and_not_followed; test_streaming:
       an_upstream_that_is_down_is_a_502_with_one_line_in_the_log. Nothing is sent to a second
       upstream by itself; by hand: test_router: failover_by_hand_*
H10    test_limits
H11    test_forwarding: response_headers_keep_their_order_count_and_bytes, repeated_headers_keep_...
H12    test_forwarding: server_and_date_are_not_doubled, the_upstreams_server_and_date_can_be_kept
H13    test_forwarding: no_header_is_added_that_the_client_did_not_send
=====  ============================================================================================
"""

from __future__ import annotations

import pytest
from fastapi import FastAPI

from fastapi_proxy_router import ProxyRouter, UpstreamPool
from tests.servers import get_raw, status
from tests.threats.attack import attack, known, statuses

pytestmark = pytest.mark.anyio

OURS = [b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-port", b"x-forwarded-proto"]


@pytest.fixture(scope="module")
def build():
    """Forward to one upstream under three policies."""

    def policies(upstream):
        app = FastAPI()
        pools = {
            "/": UpstreamPool(upstream.url),
            "/trusted": UpstreamPool(upstream.url, trusted_proxies=["127.0.0.1"]),
            "/host": UpstreamPool(upstream.url, preserve_host=True),
        }
        app.include_router(ProxyRouter(pools, strip_prefix=False))
        return app

    return policies


def is_forwarding(name: bytes) -> bool:
    spelled = name.replace(b"_", b"-")
    return spelled.startswith(b"x-forwarded") or spelled in (b"x-real-ip", b"forwarded")


CLAIMS = {
    "H4 three lines": [f"X-Forwarded-For: 6.6.6.{number}" for number in range(3)],
    "H4 500 entries": ["X-Forwarded-For: " + ", ".join(["6.6.6.6"] * 500)],
    "H4 with a port": ["X-Forwarded-For: [::1]:80"],
    "H4 unknown": ["X-Forwarded-For: unknown"],
    "H4 mapped": ["X-Forwarded-For: ::ffff:127.0.0.1"],
    "H4 empty": ["X-Forwarded-For: "],
}
OTHER_CLAIMS = """
X-Forwarded-Proto: https|X-Forwarded-Host: evil.test|X-Forwarded-Port: 1|X-Forwarded-Prefix: /evil
X-Forwarded-Uri: /evil|X-Forwarded-Server: evil|X-Forwarded-Ssl: on|X-Forwarded-Groups: admin
X-Real-IP: 6.6.6.6|Forwarded: for=6.6.6.6;host=evil.test
"""


@pytest.mark.parametrize("row", CLAIMS)
async def test_what_a_client_claims_is_replaced(world, row):
    """An upstream reads four forwarding headers, each once, and none is the client's."""
    claims = [*CLAIMS[row], *OTHER_CLAIMS.strip().replace("\n", "|").split("|")]
    assert status(await get_raw(world.gw, "/x", *claims)) == 200
    (sent,) = await world.arrived()

    assert sorted(name for name, _ in sent.headers if is_forwarding(name)) == OURS
    assert sent.values(b"x-forwarded-for") == [b"127.0.0.1"]
    assert sent.values(b"x-forwarded-proto") == [b"http"]
    assert sent.values(b"x-forwarded-host") == [world.gw.authority.encode()]
    assert sent.values(b"x-forwarded-port") == [b"%d" % world.gw.port]


@pytest.mark.parametrize("row", CLAIMS)
async def test_what_a_trusted_proxy_claims_is_extended(world, row):
    """Its peers stand first, in order and as it wrote them; ours is the last word."""
    assert status(await get_raw(world.gw, "/trusted", *CLAIMS[row])) == 200
    (sent,) = await world.arrived()
    claimed = [line.partition(": ")[2] for line in CLAIMS[row]]

    assert sent.values(b"x-forwarded-for") == [", ".join([*claimed, "127.0.0.1"]).encode()]


ALIASES = """
X_Forwarded_For X-Forwarded_For X_Forwarded-For X_FORWARDED_PROTO X_Forwarded_Host X_Forwarded_Port
X_Forwarded_Prefix X_Forwarded_User X_Real_IP Content_Length Transfer_Encoding Keep_Alive
Proxy_Authorization Proxy_Connection HTTP2_Settings
""".split()


@pytest.mark.parametrize("path", ["/x", "/trusted"], ids=["H5 untrusted", "H5 trusted"])
async def test_aliases_of_headers_that_matter_are_dropped(world, path):
    """Many upstreams cannot tell ``_`` from ``-``, so a proxy in front may have missed them."""
    answers = [
        status(await get_raw(world.gw, path, f"{alias}: 6.6.6.6", "X_Own: 1")) for alias in ALIASES
    ]
    arrived = await world.arrived()

    assert answers == [200] * len(ALIASES)
    assert [sent.values(b"x_own") for sent in arrived] == [[b"1"]] * len(ALIASES)
    passed = [alias for alias, sent in zip(ALIASES, arrived, strict=True) if b"6.6" in sent.head]
    assert passed == []


ODD_HOSTS = {
    f"H7 {host!r}": host
    for host in (
        *rb"a/?x= a/b a\b a,b a:b a:80:80 a:-1 a:99999 a#b a?b a@b:80 http://a [::1 [::1]x".split(),
        *(b"a b", b"a\tb", b"caf\xe9", b"a\x01", b"a\x7fb"),
    )
}


def asking(host: bytes, path: bytes) -> bytes:
    return b"GET " + path + b" HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("row", ODD_HOSTS)
async def test_a_host_that_is_none_is_refused(world, row):
    """With 400 and before it is forwarded, whether or not it would be sent on."""
    for path in (b"/x", b"/host"):
        assert statuses(await attack(world.gw, asking(ODD_HOSTS[row], path))) == [400]
    assert await world.arrived() == []


@pytest.mark.parametrize("host", [b"evil.test", b"a:80", b"[::1]:80", b"x" * 8192], ids=repr)
async def test_any_other_host_is_only_a_name(world, host):
    """H7: it chooses no upstream; the upstream hears its own name, or the client's if so set."""
    for path in (b"/x", b"/host"):
        assert statuses(await attack(world.gw, asking(host, path))) == [200]
    own, preserved = await world.arrived()

    assert own.values(b"host") == [world.upstream.authority.encode()]
    assert own.values(b"x-forwarded-host") == [host]
    assert preserved.values(b"host") == [host]


MISSING = {
    "H7 empty": b"GET %b HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n",
    "H7 missing": b"GET %b HTTP/1.1\r\nConnection: close\r\n\r\n",
    "H7 HTTP/1.0": b"GET %b HTTP/1.0\r\n\r\n",
}


@pytest.mark.parametrize("row", MISSING)
async def test_a_host_that_is_not_there_is_the_upstreams(world, row):
    """A request without a name is refused, or the upstream hears its own; never an empty one."""
    got = [statuses(await attack(world.gw, MISSING[row] % path)) for path in (b"/x", b"/host")]
    arrived = await world.arrived()

    assert got in ([[200], [200]], [[400], [400]])
    assert (got[0] == [400]) is (
        row == "H7 missing" and not known(world.server, "A missing `Host` is made up")
    )
    assert [sent.values(b"host") for sent in arrived] == [
        [world.upstream.authority.encode()]
    ] * len(arrived)
    assert len(arrived) == got.count([200])
