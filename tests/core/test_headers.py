"""core.headers: what crosses a proxy, and how headers are edited."""

from __future__ import annotations

import pytest

from fastapi_proxy_router.core.headers import (
    Edits,
    edit,
    end_to_end,
    request_headers,
    response_headers,
)
from fastapi_proxy_router.core.names import HOP_BY_HOP


@pytest.mark.parametrize("name", sorted(HOP_BY_HOP))
def test_hop_by_hop_headers_end_here(name):
    """In any case, in both directions."""
    pair = (name.title(), b"x")

    assert end_to_end([pair]) == []


@pytest.mark.parametrize(
    "lines",
    [
        [b"x-a, x-b"],
        [b"", b"X-A,X-B"],
        [b"x-a", b"close", b" x-b "],
        [b",,x-b ,\tx-a"],
    ],
)
def test_connection_names_headers_over_all_its_lines(lines):
    """An empty line does not hide a later one."""
    headers = [(b"Connection", line) for line in lines]
    headers += [(b"X-A", b"1"), (b"x-b", b"2"), (b"x-c", b"3")]

    assert end_to_end(headers) == [(b"x-c", b"3")]


def test_pseudo_headers_do_not_cross():
    """Some HTTP/2 servers show them."""
    assert end_to_end([(b":authority", b"x"), (b"a", b"1")]) == [(b"a", b"1")]


@pytest.mark.parametrize(
    ("te", "kept"),
    [
        ([b"trailers"], [(b"te", b"trailers")]),
        ([b"gzip", b"deflate, Trailers"], [(b"te", b"trailers")]),
        ([b"gzip;q=0.5"], []),
    ],
)
def test_only_trailers_is_passed_on_from_te(te, kept):
    """RFC 9110, 10.1.4."""
    assert request_headers([(b"te", value) for value in te]) == kept


def test_cookies_are_joined_where_the_first_stood():
    """With a semicolon; other headers keep their lines."""
    headers = [(b"cookie", b"a=1"), (b"x", b"1"), (b"cookie", b"b=2"), (b"x", b"2")]

    assert request_headers(headers) == [(b"cookie", b"a=1; b=2"), (b"x", b"1"), (b"x", b"2")]


def test_the_inbound_headers_are_not_changed():
    """What the application sees stays what the client sent."""
    headers = [(b"host", b"x"), (b"cookie", b"a=1"), (b"cookie", b"b=2")]
    before = list(headers)
    request_headers(headers)

    assert headers == before


@pytest.mark.parametrize(("status", "kept"), [(200, 1), (204, 0), (205, 0), (304, 0)])
def test_a_length_of_zero_on_statuses_without_a_body(status, kept):
    """204 may not have one, and 205 does without."""
    headers = [(b"content-length", b"0")]

    assert len(response_headers(headers, status, keep_server_headers=False)) == kept


def test_edits_remove_then_set_then_add():
    """In that order, whatever the spelling and the case."""
    headers = [(b"X-A", b"1"), (b"x_b", b"1"), (b"x-c", b"1"), (b"X-D", b"1")]
    edits = Edits(
        set=((b"x-a", b"2"), (b"x-b", b"2")),
        add=((b"x-c", b"2"), (b"x-d", b"2")),
        remove=frozenset({b"x-d"}),
    )

    assert edit(headers, edits) == [
        (b"x-c", b"1"),
        (b"x-a", b"2"),
        (b"x-b", b"2"),
        (b"x-c", b"2"),
        (b"x-d", b"2"),
    ]
