"""core.target: raw path and query bytes; what a server shows is in test_forwarding.py."""

from __future__ import annotations

import re
from urllib.parse import unquote

import pytest

from fastapi_proxy_router import RequestRefused
from fastapi_proxy_router.core.target import (
    MAX_TARGET,
    check_path,
    check_query,
    join,
    locate,
    quote_path,
    raw_groups,
)


def scope(raw: str, root_path: str = "") -> dict[str, object]:
    return {"path": unquote(raw), "raw_path": raw.encode(), "root_path": root_path}


@pytest.mark.parametrize(
    ("raw", "root", "slashes", "expected"),
    [
        ("/api/x", "", 1, (b"", b"/api", b"/x")),
        ("/api", "", 0, (b"", b"/api", b"")),
        ("/api/", "", 1, (b"", b"/api", b"/")),
        ("/api/a%2Fb", "", 2, (b"", b"/api", b"/a%2Fb")),
        ("/%61pi/a%2Fb//c", "", 4, (b"", b"/%61pi", b"/a%2Fb//c")),
        ("/x", "", 1, (b"", b"", b"/x")),
        ("/x/y", "", None, (b"", b"", b"/x/y")),
        ("/r/api/x", "/r", 1, (b"/r", b"/api", b"/x")),
        ("/r/api/x", "/r/", 1, (b"/r", b"/api", b"/x")),
        ("/api/x", "/r", 1, (b"/r", b"/api", b"/x")),
        ("/rapi/x", "/r", 1, (b"/r", b"/rapi", b"/x")),
        ("/r", "/r", None, (b"/r", b"", b"")),
        ("/caf%C3%A9/x", "", 1, (b"", b"/caf%C3%A9", b"/x")),
        ("/caf%C3%A9/x", "/caf\xe9", 1, (b"/caf%C3%A9", b"", b"/x")),
        ("/a%2525/x", "", 1, (b"", b"/a%2525", b"/x")),
    ],
)
def test_the_path_is_split_where_the_route_begins(raw, root, slashes, expected):
    """Root, prefix and rest are the raw bytes, whatever was encoded."""
    assert locate(scope(raw, root), slashes) == expected


@pytest.mark.parametrize(("raw", "slashes"), [("*", 0), ("http://evil/x", 3), ("/%FF/x", 1)])
def test_a_path_that_does_not_show_its_prefix_is_refused(raw, slashes):
    """No leading slash, or bytes that the router's text cannot stand for."""
    with pytest.raises(RequestRefused):
        locate(scope(raw), slashes)


def test_a_server_without_raw_path_is_served_from_the_decoded_one():
    """ASGI makes raw_path optional."""
    assert locate({"path": "/api/a b%", "root_path": ""}, 1).rest == b"/a%20b%25"


def test_a_path_that_is_too_long_is_414():
    """And so is a query."""
    for check, value in (
        (check_path, b"/" * 1 + b"a" * MAX_TARGET),
        (check_query, b"a" * (MAX_TARGET + 1)),
    ):
        with pytest.raises(RequestRefused) as refused:
            check(value)
        assert refused.value.status_code == 414


@pytest.mark.parametrize(
    "raw", [b"", b"/", b"/a//b", b"/.well-known/x", b"/a/...", b"/a;b=..", b"/~%2F%zz"]
)
def test_ordinary_paths_pass(raw):
    """Dots that are no segment of their own are nothing special."""
    check_path(raw)


@pytest.mark.parametrize(
    ("parts", "target"),
    [
        ((b"", b"", b"", b""), b"/"),
        ((b"/", b"", b"", b""), b"/"),
        ((b"/base", b"", b"", b""), b"/base"),
        ((b"/base/", b"", b"", b""), b"/base/"),
        ((b"/base/", b"/", b"", b""), b"/base/"),
        ((b"", b"/x", b"", b"a&&b"), b"/x?a&&b"),
        ((b"", b"/x", b"k", b""), b"/x?k"),
        ((b"", b"/x", b"k", b"a"), b"/x?k&a"),
    ],
)
def test_join_loses_and_doubles_nothing(parts, target):
    """Base path, path, base query, query."""
    assert join(*parts) == target


def test_a_decoded_path_is_encoded_as_text():
    """Its percent, question mark and hash are characters, not syntax."""
    assert quote_path("/a b%2F?#\xe9/@:") == b"/a%20b%252F%3F%23%C3%A9/@:"


@pytest.mark.parametrize(
    ("raw", "groups"),
    [
        (b"/x/7", {"id": b"7"}),
        (b"/%78/a%20b", {"id": b"a%20b"}),
        (b"/x/%FF", {"id": b"%FF"}),
        (b"/x/%z", {"id": b"%z"}),
        (b"/x/a%2Fb", None),
    ],
)
def test_groups_match_decoded_and_stay_raw(raw, groups):
    """As FastAPI would match, byte for byte."""
    assert raw_groups(re.compile(rb"^/x/(?P<id>[^/]+)$"), raw) == groups
