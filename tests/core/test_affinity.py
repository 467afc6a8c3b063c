"""core.affinity: which upstream a client is bound to, and how it is told."""

from __future__ import annotations

import gc
import re
import weakref

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.requests import HTTPConnection

from fastapi_proxy_router import ConfigurationError, NoUpstreamAvailable, Upstream, UpstreamPool
from fastapi_proxy_router.core.affinity import CookieAffinity, HeaderAffinity
from fastapi_proxy_router.core.binding import Affinity

SECRET = "a secret of the tests"
A, B, C = (Upstream(f"http://{host}") for host in "abc")
MEMBERS = (A, B, C)
COOKIE = CookieAffinity(secret=SECRET)
HEADER = HeaderAffinity("x-session", secret=SECRET)
KEY_A, KEY_B = COOKIE.key_of(A), COOKIE.key_of(B)


def asking(*headers: tuple[bytes, bytes], **scope: object) -> HTTPConnection:
    return HTTPConnection({"type": "http", "headers": list(headers), **scope})


def with_cookies(*lines: str | bytes) -> HTTPConnection:
    return asking(
        *((b"cookie", line.encode() if isinstance(line, str) else line) for line in lines)
    )


def with_header(*values: str) -> HTTPConnection:
    return asking(*((b"x-session", value.encode()) for value in values))


def issued(affinity: Affinity, upstream: Upstream = A, **scope: object) -> list[str]:
    """Return the parts of the Set-Cookie that a client without a key gets."""
    ((name, value),) = affinity.response_headers(asking(**scope).scope, upstream)
    assert name == b"set-cookie"
    return value.decode().split("; ")


# Keys


def test_a_key_is_22_characters_that_reveal_nothing():
    """128 bits in base64url: fit for a cookie and a header, without the address."""
    upstream = Upstream("http://secret-host.internal:8123/base")
    key = COOKIE.key_of(upstream)

    assert re.fullmatch("[A-Za-z0-9_-]{22}", key)
    assert key == COOKIE.key_of(upstream)


def test_processes_with_one_secret_have_the_same_keys():
    """Given as text or as bytes, for a cookie and for a header."""
    others = [CookieAffinity("other", secret=SECRET.encode()), HeaderAffinity("x", secret=SECRET)]

    assert {other.key_of(Upstream("http://a/")) for other in others} != {KEY_A}
    assert {other.key_of(Upstream("http://a")) for other in others} == {KEY_A}


def test_a_key_is_the_same_after_a_restart():
    """Nobody's session is lost by a new version of this library."""
    assert KEY_A == "u04fs6jcpwB4T1V1ui-SnA"


def test_another_secret_makes_other_keys():
    """Also the random one that stands in for none."""
    affinities = [COOKIE, CookieAffinity(secret="x" * 16), CookieAffinity(), CookieAffinity()]

    assert len({affinity.key_of(A) for affinity in affinities}) == 4


def test_every_part_of_an_upstream_makes_its_key():
    """Scheme, host, port, base path and base query; not its weight or spelling."""
    urls = ["http://a", "https://a", "http://b", "http://a:81", "http://a/x", "http://a?x"]
    assert len({COOKIE.key_of(Upstream(url)) for url in urls}) == len(urls)

    same = [Upstream("http://A:80", weight=7), Upstream("ws://a")]
    assert {COOKIE.key_of(upstream) for upstream in same} == {KEY_A}


def test_a_secret_is_not_shown():
    """Neither by repr nor by the report of a mistake."""
    assert SECRET not in repr(COOKIE)
    with pytest.raises(ConfigurationError) as raised:
        CookieAffinity(secret="too short")
    assert "too short" not in str(raised.value)


def test_an_upstream_that_is_gone_is_forgotten():
    """Its key holds no upstream in memory."""
    upstream = Upstream("http://gone")
    COOKIE.key_of(upstream)
    dead = weakref.ref(upstream)
    del upstream
    gc.collect()

    assert dead() is None


# What a client is bound to


@pytest.mark.parametrize(
    "lines",
    [
        [f"proxy_affinity={KEY_B}"],
        [f"a=1; proxy_affinity={KEY_B}; b=2"],
        [f"a=1;proxy_affinity={KEY_B};b=2"],
        [f"a=1;\tproxy_affinity={KEY_B} "],
        ["a=1", f"proxy_affinity={KEY_B}", "b=2"],
        [b"a=\xff\x00\r\n; ;;=;x;" + f"proxy_affinity={KEY_B}".encode()],
    ],
)
def test_a_cookie_binds(lines):
    """Wherever it stands, in one line or in several as HTTP/2 sends them."""
    assert COOKIE.sent(with_cookies(*lines)) == KEY_B
    assert COOKIE.bound(with_cookies(*lines), MEMBERS) is B


@pytest.mark.parametrize(
    "line",
    [
        "",
        "proxy_affinity",
        "proxy_affinity=",
        "proxy_affinity=short",
        f"proxy_affinity={KEY_B}x",
        f"proxy_affinity={KEY_B[:-1]}",
        f"proxy_affinity={KEY_B[:-1]}\n",
        f"proxy_affinity={KEY_B[:-1]}\xe9",
        f"proxy_affinity={KEY_B[:-1]}%",
        f'proxy_affinity="{KEY_B}"',
        f"PROXY_AFFINITY={KEY_B}",
        f"xproxy_affinity={KEY_B}",
        f"x=proxy_affinity={KEY_B}",
        f"proxy_affinity=={KEY_B}",
        KEY_B,
    ],
)
def test_what_is_no_key_is_none(line):
    """Junk neither binds nor raises."""
    assert COOKIE.sent(with_cookies(line)) is None
    assert COOKIE.bound(with_cookies(line), MEMBERS) is None


def test_a_line_that_is_refused_later_is_not_read():
    """More than 64 KiB of cookies go nowhere."""
    key = f"; proxy_affinity={KEY_B}"
    longest = "x" * (64 * 1024 - len(key)) + key

    assert COOKIE.bound(with_cookies(longest), MEMBERS) is B
    assert COOKIE.bound(with_cookies("x" + longest), MEMBERS) is None
    assert HEADER.bound(with_header(" " * 64 * 1024 + KEY_B), MEMBERS) is None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([KEY_A, KEY_B], A),
        (["junk", KEY_B], B),
        (["0" * 22, KEY_B, KEY_A], B),
        (["0" * 22, "junk"], None),
    ],
)
def test_the_first_key_of_a_member_counts(values, expected):
    """A stale cookie of a longer path does not hide the one that replaced it."""
    cookies = [f"proxy_affinity={value}" for value in values]

    assert COOKIE.bound(with_cookies("; ".join(cookies)), MEMBERS) is expected
    assert COOKIE.bound(with_cookies(*cookies), MEMBERS) is expected
    assert HEADER.bound(with_header(", ".join(values)), MEMBERS) is expected
    assert HEADER.bound(with_header(*values), MEMBERS) is expected


def test_a_key_of_another_secret_is_nobodys():
    """It is sent, but it binds to nobody."""
    forged = with_cookies(f"proxy_affinity={CookieAffinity(secret='x' * 16).key_of(A)}")

    assert COOKIE.sent(forged) is not None
    assert COOKIE.bound(forged, MEMBERS) is None


def test_a_key_of_an_upstream_that_has_left_is_nobodys():
    """Whatever the order in which the members were asked for."""
    connection = with_cookies(f"proxy_affinity={KEY_B}")

    assert COOKIE.bound(connection, MEMBERS) is B
    assert COOKIE.bound(connection, (A, C)) is None
    assert COOKIE.bound(connection, [A, C]) is None
    assert COOKIE.bound(connection, ()) is None
    assert COOKIE.bound(connection, MEMBERS) is B


def test_a_list_may_change():
    """Only what cannot change is remembered."""
    members = [A]
    connection = with_cookies(f"proxy_affinity={KEY_B}")

    assert COOKIE.bound(connection, members) is None
    members.append(B)
    assert COOKIE.bound(connection, members) is B


def test_memory_of_members_is_bounded():
    """A pool whose health flaps for years fills nothing up."""
    connection = with_cookies(f"proxy_affinity={KEY_B}")
    affinity = CookieAffinity(secret=SECRET)
    members = [Upstream("http://b")]
    dead = weakref.ref(members[0])
    affinity.bound(connection, tuple(members))
    members.clear()
    for _ in range(100):
        assert affinity.bound(connection, (A, B)) is B
    gc.collect()

    assert dead() is None


def test_upstreams_that_cannot_be_told_apart_are_found():
    """The first has the key; the others are named."""
    same = Upstream("http://a:80", weight=3)

    assert COOKIE.indistinct([A, B]) == []
    assert COOKIE.indistinct([A, B, same]) == ["http://a:80"]
    assert COOKIE.bound(with_cookies(f"proxy_affinity={KEY_A}"), (A, same)) is A


@given(st.lists(st.binary(max_size=200)), st.sampled_from([COOKIE, HEADER]))
@example([b"proxy_affinity=" + b"\xff" * 22], COOKIE)
@example([b"proxy_affinity=" + "\u0661".encode() * 11], COOKIE)
@example([b"=" * 22, b";" * 100], HEADER)
def test_no_bytes_of_a_client_raise(lines, affinity):
    """Nor do they bind, unless they hold a key."""
    names = (b"cookie", b"x-session")
    connection = asking(*((name, line) for name in names for line in lines))

    assert affinity.bound(connection, MEMBERS) is None
    assert affinity.keep(connection, MEMBERS, lambda _: True) is None
    assert len(affinity.response_headers(connection.scope, A)) == 1


COOKIE_OCTETS = st.binary(max_size=30).map(lambda value: value.replace(b";", b""))


@given(
    before=st.lists(COOKIE_OCTETS),
    after=st.lists(COOKIE_OCTETS),
    separator=st.sampled_from([b";", b"; ", b" ;\t"]),
    lines=st.booleans(),
)
def test_a_key_is_found_among_any_other_cookies(before, after, separator, lines):
    """What stands beside it is of no matter, unless it is another key."""
    pairs = [*before, b"proxy_affinity=" + KEY_B.encode(), *after]
    connection = with_cookies(*pairs) if lines else with_cookies(separator.join(pairs))

    assert COOKIE.bound(connection, MEMBERS) is B
    assert COOKIE.response_headers(connection.scope, B) == []


# Staying


def test_a_client_stays_with_an_upstream_that_can_serve():
    """And only that one is asked."""
    asked: list[Upstream] = []

    def can_serve(upstream: Upstream) -> bool:
        asked.append(upstream)
        return True

    assert COOKIE.keep(with_cookies(f"proxy_affinity={KEY_B}"), MEMBERS, can_serve) is B
    assert asked == [B]


def test_a_client_is_redistributed_by_default():
    """The balancer picks another one if the upstream cannot serve."""
    connection = with_cookies(f"proxy_affinity={KEY_B}")

    assert COOKIE.keep(connection, MEMBERS, lambda upstream: upstream is not B) is None


def test_a_client_may_be_refused():
    """With 503 and Retry-After, and the upstream's name only in the log."""
    affinity = CookieAffinity(secret=SECRET, failure="refuse")
    connection = with_cookies(f"proxy_affinity={KEY_B}")

    assert affinity.keep(connection, MEMBERS, lambda _: True) is B
    with pytest.raises(NoUpstreamAvailable) as raised:
        affinity.keep(connection, MEMBERS, lambda upstream: upstream is not B)
    assert raised.value.upstream is B
    assert (raised.value.status_code, raised.value.detail) == (503, "Service Unavailable")
    assert raised.value.headers == {"Retry-After": "1"}


@pytest.mark.parametrize("value", ["0" * 22, "junk", COOKIE.key_of(Upstream("http://gone"))])
def test_a_forged_or_stale_key_is_never_refused(value):
    """It is redistributed, whatever the policy says."""
    affinity = CookieAffinity(secret=SECRET, failure="refuse")
    connection = with_cookies(f"proxy_affinity={value}")

    assert affinity.keep(connection, MEMBERS, lambda _: False) is None


def test_of_two_keys_the_one_that_can_be_served_counts():
    """Also where the other would be refused."""
    affinity = CookieAffinity(secret=SECRET, failure="refuse")
    connection = with_cookies(f"proxy_affinity={KEY_A}; proxy_affinity={KEY_B}")

    assert affinity.keep(connection, MEMBERS, lambda upstream: upstream is B) is B


# What the client is told


def test_a_new_client_gets_a_cookie():
    """For this host, until the browser is closed, out of reach of scripts and other sites."""
    assert issued(COOKIE) == [f"proxy_affinity={KEY_A}", "Path=/", "HttpOnly", "SameSite=Lax"]


def test_a_client_that_sent_the_key_is_told_nothing():
    """The binding has not changed; when it has, the new key is issued."""
    scope = with_cookies(f"proxy_affinity={KEY_A}").scope

    assert COOKIE.response_headers(scope, A) == []
    assert COOKIE.response_headers(scope, B)[0][1].startswith(f"proxy_affinity={KEY_B};".encode())


def test_every_attribute_is_sent():
    """In one line, for ASGI to send as it is."""
    affinity = CookieAffinity(
        "s",
        secret=SECRET,
        path="/app",
        domain="app.example",
        max_age=3600,
        http_only=False,
        secure=True,
        same_site="strict",
    )

    assert issued(affinity) == [
        f"s={KEY_A}",
        "Path=/app",
        "Domain=app.example",
        "Max-Age=3600",
        "SameSite=Strict",
        "Secure",
    ]
    assert issued(CookieAffinity(secret=SECRET, same_site=None))[1:] == ["Path=/", "HttpOnly"]


@pytest.mark.parametrize(
    ("scheme", "secure"), [("http", False), ("https", True), ("ws", False), ("wss", True)]
)
def test_a_cookie_is_secure_where_the_client_uses_tls(scheme, secure):
    """For a WebSocket too."""
    assert ("Secure" in issued(COOKIE, scheme=scheme)) is secure


@pytest.mark.parametrize(
    ("trusted", "claims", "scheme", "secure"),
    [
        (["10.0.0.0/8"], [b"https"], "http", True),
        (["10.0.0.0/8"], [b"http, HTTPS "], "http", True),
        (["10.0.0.0/8"], [b"https", b"http"], "http", False),
        (["10.0.0.0/8"], [b"http"], "https", False),
        (["10.0.0.0/8"], [], "https", True),
        ([], [b"https"], "http", False),
        ([], [b"http"], "https", True),
    ],
)
def test_a_trusted_proxy_says_whether_the_client_uses_tls(trusted, claims, scheme, secure):
    """An untrusted one does not."""
    upstream = UpstreamPool("http://a", trusted_proxies=trusted).upstreams[0]
    headers = [(b"x-forwarded-proto", claim) for claim in claims]
    scope = asking(*headers, scheme=scheme, client=("10.0.0.1", 5)).scope

    value = COOKIE.response_headers(scope, upstream)[0][1]
    assert value.endswith(b"; Secure") is secure


@pytest.mark.parametrize(
    "options",
    [{"same_site": "none"}, {"name": "__Host-s"}, {"name": "__secure-s"}, {"secure": True}],
)
def test_a_cookie_is_secure_where_browsers_demand_it(options):
    """The gateway may not know of the TLS in front of it."""
    assert "Secure" in issued(CookieAffinity(**options), scheme="http")


def test_a_cookie_may_do_without_secure():
    """Where it is said so."""
    assert "Secure" not in issued(CookieAffinity(secure=False), scheme="https")


def test_a_header_is_told_and_taken_back():
    """Its name in any case; the value is the key alone."""
    affinity = HeaderAffinity("X-Session", secret=SECRET)
    (pair,) = affinity.response_headers(asking().scope, B)

    assert pair == (b"x-session", KEY_B.encode())
    assert affinity.bound(asking(pair), MEMBERS) is B
    assert affinity.response_headers(asking(pair).scope, B) == []


def test_the_place_of_a_key_tells_affinities_apart():
    """So that two pools that would take each other's clients away can be found."""
    places = [
        CookieAffinity(),
        CookieAffinity("x"),
        CookieAffinity(path="/x"),
        CookieAffinity(domain="x.test"),
        HeaderAffinity("x"),
    ]

    assert len({affinity.place for affinity in places}) == len(places)
    assert CookieAffinity().place == CookieAffinity(secret=SECRET).place
    assert HeaderAffinity("X").place == HeaderAffinity("x").place


# Mistakes


@pytest.mark.parametrize(
    ("options", "mistake"),
    [
        ({"name": ""}, "token"),
        ({"name": "a b"}, "token"),
        ({"name": "a=b"}, "token"),
        ({"name": "caf\xe9"}, "token"),
        ({"name": "\ud800"}, "token"),
        ({"name": None}, "token"),
        ({"secret": ""}, "16 bytes"),
        ({"secret": b"x" * 15}, "16 bytes"),
        ({"secret": 16}, "16 bytes"),
        ({"failure": "503"}, "'redistribute' or 'refuse'"),
        ({"path": ""}, "path"),
        ({"path": "app"}, "path"),
        ({"path": "/a;b"}, "path"),
        ({"path": "/a\r\n"}, "path"),
        ({"path": "/a b"}, "path"),
        ({"path": "/caf\xe9"}, "path"),
        ({"path": None}, "path"),
        ({"domain": ""}, "domain"),
        ({"domain": "a;b"}, "domain"),
        ({"domain": "a.test\n"}, "domain"),
        ({"domain": "a.test:80"}, "domain"),
        ({"max_age": 0}, "max_age"),
        ({"max_age": -1}, "max_age"),
        ({"max_age": 1.5}, "max_age"),
        ({"max_age": True}, "max_age"),
        ({"http_only": None}, "http_only"),
        ({"secure": "auto"}, "secure"),
        ({"same_site": "Lax"}, "same_site"),
        ({"same_site": "none", "secure": False}, "not secure"),
        ({"name": "__Secure-s", "secure": False}, "not secure"),
        ({"name": "__Host-s", "secure": False}, "not secure"),
        ({"name": "__Host-s", "path": "/x"}, "path or a domain"),
        ({"name": "__Host-s", "domain": "x.test"}, "path or a domain"),
    ],
)
def test_a_mistake_in_a_cookie_is_reported(options, mistake):
    """At construction, and by itself."""
    with pytest.raises(ConfigurationError, match="affinity: ") as raised:
        CookieAffinity(**options)
    assert len(raised.value.mistakes) == 1
    assert mistake in raised.value.mistakes[0]


@pytest.mark.parametrize(
    "name", ["", "a b", "caf\xe9", "Host", "Cookie", "connection", "x-forwarded-for", "Set-Cookie"]
)
def test_a_header_that_cannot_be_used_is_reported(name):
    """No token, or one that means something else."""
    with pytest.raises(ConfigurationError, match="affinity: header"):
        HeaderAffinity(name)


def test_every_mistake_is_reported():
    """Together."""
    with pytest.raises(ConfigurationError) as raised:
        CookieAffinity("", secret="", path="", max_age=0, same_site="none", secure=False)
    assert len(raised.value.mistakes) == 5


def test_an_affinity_cannot_be_changed():
    """It is configuration."""
    with pytest.raises(AttributeError):
        COOKIE.path = "/x"  # type: ignore[misc]
