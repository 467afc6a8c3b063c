"""core.matching: what a declared override looks at besides path and method."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_proxy_router.core.matching import Conditions, host_mistake

ONE_OR_TWO = frozenset({b"1", b"2"})
TEXT_ONE_OR_TWO = frozenset({"1", "2"})


def for_host(*hosts: bytes) -> Conditions:
    return Conditions(hosts=hosts)


def asks(host: bytes, *patterns: bytes) -> bool:
    return for_host(*patterns).hold([(b"host", host)], b"")


def test_without_conditions_everything_is_met():
    """And it can be seen that there are none."""
    assert not Conditions()
    assert Conditions().hold([], b"")


@pytest.mark.parametrize(
    "conditions",
    [
        for_host(b"a"),
        Conditions(headers=((b"a", False),)),
        Conditions(query=(("a", False),)),
    ],
)
def test_conditions_are_seen(conditions):
    """Of each kind."""
    assert conditions


@pytest.mark.parametrize(
    "host", [b"example.org", b"Example.ORG", b"example.org.", b"example.org:8443", b"example.org.:"]
)
def test_a_host_is_compared_without_port_case_and_trailing_dot(host):
    """A client may write it in each of these ways."""
    assert asks(host, b"other.example", b"example.org")


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b":80",
        b"example.org.evil",
        b"evil-example.org",
        b"www.example.org",
        b"example.org..",
        b"exampleXorg",
        b"example.org:80:80",
        b"org",
    ],
)
def test_a_host_is_compared_as_a_whole(host):
    """What contains it is another."""
    assert not asks(host, b"example.org")


@pytest.mark.parametrize(
    ("host", "matches"),
    [
        (b"a.example.org", True),
        (b"b.a.Example.org.:80", True),
        (b"example.org", False),
        (b".example.org", False),
        (b"evilexample.org", False),
        (b"a.example.org.evil", False),
        (b"*.example.org", True),
    ],
)
def test_a_star_stands_for_a_label_or_more(host, matches):
    """Not for none."""
    assert asks(host, b"*.example.org") is matches


@pytest.mark.parametrize(
    ("host", "matches"),
    [
        (b"[::1]", True),
        (b"[::1]:8080", True),
        (b"[0:0:0:0:0:0:0:1]", True),
        (b"[0000::0001]:80", True),
        (b"[::2]", False),
        (b"[::]", False),
        (b"[::1", False),
        (b"[junk]", False),
        (b"::1", False),
    ],
)
def test_an_ipv6_address_is_compared_in_any_spelling(host, matches):
    """With or without a port."""
    assert asks(host, b"[::1]") is matches


def test_without_a_host_no_pattern_matches():
    """HTTP/1.0 has none."""
    assert not for_host(b"*.example.org", b"a").hold([(b"x-host", b"a")], b"")


@pytest.mark.parametrize(
    ("headers", "held"),
    [
        ([], False),
        ([(b"x-v", b"1")], True),
        ([(b"X-V", b"2")], True),
        ([(b"x-v", b"3"), (b"x-v", b"1")], True),
        ([(b"x-v", b"1, 2")], False),
        ([(b"x-v", b"1 ")], False),
        ([(b"x-v", b"")], False),
        ([(b"x_v", b"1")], False),
        ([(b"x-w", b"1")], False),
    ],
)
def test_a_header_equals_one_of_the_texts(headers, held):
    """Any line is enough, byte for byte; lists are not split."""
    assert Conditions(headers=((b"x-v", ONE_OR_TWO),)).hold(headers, b"") is held


@pytest.mark.parametrize(
    ("headers", "there", "absent"),
    [
        ([], False, True),
        ([(b"a", b"x-debug")], False, True),
        ([(b"x-debug", b"")], True, False),
        ([(b"a", b"1"), (b"x-debug", b"1")], True, False),
        ([(b"x_debug", b"1")], False, False),
        ([(b"X_Debug", b"1")], False, False),
    ],
)
def test_a_header_with_underscores_meets_neither_rule(headers, there, absent):
    """It is not the one that is wanted, and an upstream could take it for the one that is not."""
    assert Conditions(headers=((b"x-debug", True),)).hold(headers, b"") is there
    assert Conditions(headers=((b"x-debug", False),)).hold(headers, b"") is absent


def test_a_name_declared_with_underscores_is_met_as_declared():
    """But none with hyphens may be there when it must not."""
    headers = [(b"x_v", b"1")]

    assert Conditions(headers=((b"x_v", True),)).hold(headers, b"")
    assert not Conditions(headers=((b"x_v", False),)).hold([(b"x-v", b"1")], b"")


@pytest.mark.parametrize(
    ("query", "there", "equal"),
    [
        (b"", False, False),
        (b"a=v", False, False),
        (b"v", True, False),
        (b"%76=%31", True, True),
        (b"v=3&v=2", True, True),
        (b"x=0;v=1", True, True),
        (b"v=12", True, False),
    ],
)
def test_the_query_is_read_decoded(query, there, equal):
    """Any pair of the name is enough."""
    assert Conditions(query=(("v", True),)).hold([], query) is there
    assert Conditions(query=(("v", False),)).hold([], query) is not there
    assert Conditions(query=(("v", TEXT_ONE_OR_TWO),)).hold([], query) is equal


ALL = Conditions(
    hosts=(b"a", b"b"),
    headers=((b"x-v", ONE_OR_TWO), (b"x-no", False)),
    query=(("v", True), ("no", False)),
)


@pytest.mark.parametrize(
    ("host", "headers", "query", "held"),
    [
        (b"b", [(b"x-v", b"1")], b"v", True),
        (b"c", [(b"x-v", b"1")], b"v", False),
        (b"a", [(b"x-v", b"3")], b"v", False),
        (b"a", [(b"x-v", b"1"), (b"x-no", b"")], b"v", False),
        (b"a", [(b"x-v", b"1")], b"w", False),
        (b"a", [(b"x-v", b"1")], b"v&no", False),
    ],
)
def test_all_conditions_must_hold(host, headers, query, held):
    """One of the hosts, and each of the others."""
    assert ALL.hold([(b"host", host), *headers], query) is held


@given(st.lists(st.tuples(st.sampled_from([b"host", b"x-v", b"X_no"]), st.binary())), st.binary())
def test_no_request_is_an_error(headers, query):
    """Whatever bytes it has."""
    assert ALL.hold(headers, query) in (True, False)
    assert for_host(b"[::1]").hold(headers, query) in (True, False)


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "example.org",
        "Example.ORG",
        "*.example.org",
        "*.org",
        "my_service",
        "a-b.c~d",
        "1.example",
        "127.0.0.1",
        "xn--bcher-kva.example",
        "[::1]",
        "[2001:DB8::1]",
    ],
)
def test_a_host_or_a_star_and_a_domain_is_a_pattern(text):
    """In any case."""
    assert host_mistake(text) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "empty"),
        ("http://example.org", "scheme"),
        ("//example.org", "scheme"),
        ("example.org/a", "path"),
        ("example.org?a", "path"),
        ("me@example.org", "user"),
        ("bücher.example", "ASCII"),
        (" example.org", "blanks"),
        ("a b", "blanks"),
        ("example.org\n", "blanks"),
        ("example.org:80", "port"),
        ("example.org:", "port"),
        (":80", "port"),
        ("*.example.org:80", "port"),
        ("[::1]:80", "port"),
        ("*", "every host"),
        ("*.", "every host"),
        ("a.*.org", "first label"),
        ("*a.org", "first label"),
        ("**.org", "first label"),
        ("*.*.org", "first label"),
        ("example.*", "first label"),
        ("example.org.", "trailing dot"),
        ("*.example.org.", "trailing dot"),
        ("::1", "brackets"),
        ("2001:db8::1", "brackets"),
        ("[::1", "brackets"),
        ("[fe80::1%eth0]", "not the name"),
        ("[::g]", "not the name"),
        ("[example.org]", "not the name"),
        ("*.[::1]", "not the name"),
        ("a..b", "not the name"),
        (".example.org", "not the name"),
        ("*..org", "not the name"),
        ("a,b", "not the name"),
        ("%61", "not the name"),
    ],
)
def test_what_could_never_match_is_told(text, told):
    """With the reason."""
    mistake = host_mistake(text)

    assert mistake is not None
    assert told in mistake
    assert repr(text) in mistake


@given(st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), max_size=12))
def test_a_pattern_that_is_accepted_can_match(text):
    """A request for the host itself, or for one below the star, meets it."""
    if host_mistake(text) is None:
        pattern = text.lower().encode()
        assert asks(pattern.replace(b"*", b"www"), pattern)
