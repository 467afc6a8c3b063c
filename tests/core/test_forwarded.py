"""core.forwarded: whom to believe about the client."""

from __future__ import annotations

import pytest

from fastapi_proxy_router.core.forwarded import Peer, TrustedProxies, forwarding_headers

SPOOFED = [
    (b"x-forwarded-for", b"6.6.6.6"),
    (b"x-forwarded-for", b"7.7.7.7, 8.8.8.8"),
    (b"x-forwarded-proto", b"gopher"),
    (b"x-forwarded-host", b"evil.test"),
    (b"x-forwarded-port", b"1"),
    (b"x-forwarded-prefix", b"/evil"),
    (b"x-forwarded-user", b"admin"),
    (b"X_Forwarded_For", b"6.6.6.6"),
    (b"x-real-ip", b"6.6.6.6"),
    (b"forwarded", b"for=6.6.6.6"),
    (b"x-other", b"kept"),
]


def scope(client="10.0.0.9", scheme="http", host=b"public.test:8080"):
    return {
        "client": (client, 5) if client is not None else None,
        "scheme": scheme,
        "headers": [(b"host", host)] if host is not None else [],
    }


def sent(scope, headers=(), trusted=(), prefix=b"", *, forwarded=False):
    return forwarding_headers(
        headers,
        Peer.of(scope, scope["headers"]),
        trusted=TrustedProxies(trusted),
        prefix=prefix,
        forwarded=forwarded,
    )


def test_what_an_untrusted_client_says_is_replaced():
    """Every header that grants trust is ours, in every spelling; the rest is kept."""
    assert sent(scope(), SPOOFED, prefix=b"/api") == [
        (b"x-other", b"kept"),
        (b"x-forwarded-for", b"10.0.0.9"),
        (b"x-forwarded-proto", b"http"),
        (b"x-forwarded-host", b"public.test:8080"),
        (b"x-forwarded-port", b"8080"),
        (b"x-forwarded-prefix", b"/api"),
    ]


def test_what_a_trusted_proxy_says_is_kept_and_extended():
    """Addresses are appended in order, and the last word on the rest is kept."""
    headers = [*SPOOFED, (b"x-forwarded-proto", b"https")]

    got = sent(scope(), headers, ["10.0.0.0/8"], b"/api", forwarded=True)

    assert sorted(got) == sorted(
        [
            (b"x-forwarded-user", b"admin"),
            (b"x-real-ip", b"6.6.6.6"),
            (b"x-other", b"kept"),
            (b"x-forwarded-for", b"6.6.6.6, 7.7.7.7, 8.8.8.8, 10.0.0.9"),
            (b"x-forwarded-proto", b"https"),
            (b"x-forwarded-host", b"evil.test"),
            (b"x-forwarded-port", b"1"),
            (b"x-forwarded-prefix", b"/evil/api"),
            (b"forwarded", b'for=6.6.6.6, for=10.0.0.9;host="public.test:8080";proto=http'),
        ]
    )


def test_a_trusted_proxy_that_says_nothing_gets_our_words():
    """There is nothing to append to."""
    assert dict(sent(scope(), [], ["10.0.0.9"])) == {
        b"x-forwarded-for": b"10.0.0.9",
        b"x-forwarded-proto": b"http",
        b"x-forwarded-host": b"public.test:8080",
        b"x-forwarded-port": b"8080",
    }


def test_a_peer_with_a_strange_address_is_no_unix_socket():
    """A server that believes "X-Forwarded-For: unknown" makes up such addresses."""
    got = sent(scope("unknown"), SPOOFED, ["unix"], b"/api")

    assert got == [(b"x-other", b"kept"), (b"x-forwarded-prefix", b"/api")]


@pytest.mark.parametrize("client", [None, "testclient", ""])
def test_a_peer_without_an_address_is_not_trusted_by_a_network(client):
    """Its forwarding headers are removed and none but our prefix is sent."""
    got = sent(scope(client), SPOOFED, ["0.0.0.0/0", "::/0"], b"/api", forwarded=True)

    assert got == [(b"x-other", b"kept"), (b"x-forwarded-prefix", b"/api")]


def test_a_trusted_unix_socket_keeps_its_words_and_gets_none_of_ours():
    """There is no address to append."""
    got = dict(sent(scope(None), SPOOFED[2:4], ["unix"], b"/api", forwarded=True))

    assert got == {
        b"x-forwarded-proto": b"gopher",
        b"x-forwarded-host": b"evil.test",
        b"x-forwarded-prefix": b"/api",
    }


@pytest.mark.parametrize(
    ("client", "trusted", "is_trusted"),
    [
        ("::ffff:10.0.0.9", ["10.0.0.0/8"], True),
        ("fe80::1%eth0", ["fe80::/10"], True),
        ("::1", ["127.0.0.1"], False),
        ("10.0.0.9", ["::/0"], False),
        ("11.0.0.9", ["10.0.0.0/8", "11.0.0.9"], True),
    ],
)
def test_addresses_are_compared_as_addresses(client, trusted, is_trusted):
    """Mapped IPv4 is IPv4, and a zone does not matter."""
    got = dict(sent(scope(client), [(b"x-forwarded-for", b"1.1.1.1")], trusted))

    assert got[b"x-forwarded-for"].startswith(b"1.1.1.1") is is_trusted


@pytest.mark.parametrize(
    ("client", "plain", "node"),
    [
        ("10.0.0.9", b"10.0.0.9", b"for=10.0.0.9;"),
        ("::ffff:10.0.0.9", b"10.0.0.9", b"for=10.0.0.9;"),
        ("2001:DB8::1", b"2001:db8::1", b'for="[2001:db8::1]";'),
        ("fe80::1%eth0", b"fe80::1", b'for="[fe80::1]";'),
    ],
)
def test_addresses_are_written_as_each_header_wants(client, plain, node):
    """Bare in X-Forwarded-For, quoted in brackets in Forwarded (RFC 7239, 6)."""
    got = dict(sent(scope(client), forwarded=True))

    assert got[b"x-forwarded-for"] == plain
    assert got[b"forwarded"].startswith(node)


@pytest.mark.parametrize(
    ("scheme", "host", "proto", "port"),
    [
        ("http", b"a", b"http", b"80"),
        ("https", b"a", b"https", b"443"),
        ("ws", b"a:8000", b"http", b"8000"),
        ("wss", b"a", b"https", b"443"),
        ("http", b"[::1]", b"http", b"80"),
        ("http", b"[::1]:81", b"http", b"81"),
        ("http", b"", b"http", b"80"),
        ("http", None, b"http", b"80"),
    ],
)
def test_proto_and_port_are_what_the_client_used(scheme, host, proto, port):
    """Also for WebSockets, and without a Host."""
    got = dict(sent(scope(scheme=scheme, host=host)))

    assert (got[b"x-forwarded-proto"], got[b"x-forwarded-port"]) == (proto, port)


def test_a_host_cannot_end_its_quotes():
    """Forwarded quotes what the client chose."""
    got = dict(sent(scope(host=b'a";for=b\\'), forwarded=True))

    assert b'host="a\\";for=b\\\\";proto' in got[b"forwarded"]


def test_what_is_not_an_address_is_refused():
    """At construction."""
    with pytest.raises(ValueError, match="nonsense"):
        TrustedProxies(["nonsense"])
