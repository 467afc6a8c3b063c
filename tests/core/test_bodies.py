"""What headers say of a body that is read or changed."""

import pytest

from fastapi_proxy_router.core.bodies import readable, rewritten
from fastapi_proxy_router.core.changes import NO_CHANGES, Changes
from fastapi_proxy_router.core.headers import Edits, edit

GZIP = [b"gzip", b"GZIP", b"x-gzip", b"*", b"br, gzip;q=0.5", b"*;q=0.1", b"gzip;q=1.0, *;q=0"]
IDENTITY = [
    b"",
    b"identity",
    b"br",
    b"gzip;q=0",
    b"gzip; q=0.000",
    b"gzip ;Q = 0.0, *",
    b"*;q=0",
    b"identity;q=0",
    b"gzipped",
]


def sent(headers, changes=NO_CHANGES):
    """Return the headers that are sent, as a list that is edited in turn."""
    for edits in readable(changes, headers).request:
        headers = edit(list(headers), edits)
    return headers


@pytest.mark.parametrize("accepted", GZIP)
def test_gzip_is_asked_for_if_the_client_takes_it(accepted):
    """An unchanged response goes to the client as it came."""
    assert sent([(b"accept-encoding", accepted)]) == [(b"accept-encoding", b"gzip")]


@pytest.mark.parametrize("accepted", IDENTITY)
def test_nothing_is_asked_for_that_the_client_does_not_take(accepted):
    """Nor what nobody here can decode."""
    assert sent([(b"accept-encoding", accepted)]) == [(b"accept-encoding", b"identity")]


def test_a_client_that_says_nothing_gets_no_coding():
    """RFC 9110 would allow any, but such clients decode none."""
    assert sent([]) == [(b"accept-encoding", b"identity")]


def test_all_lines_count():
    """A list may be spread over several."""
    lines = [(b"accept-encoding", b"br"), (b"accept-encoding", b"gzip")]

    assert sent(lines) == [(b"accept-encoding", b"gzip")]


def test_the_whole_is_asked_for():
    """A part of JSON is not JSON; what makes the request conditional stays."""
    headers = [(b"range", b"bytes=0-9"), (b"if-range", b'"a"'), (b"if-none-match", b'"a"')]

    assert sent(headers)[:-1] == [(b"if-none-match", b'"a"')]


def test_what_the_override_says_is_kept():
    """But for what it asks for itself."""
    edits = Edits(set=((b"accept-encoding", b"br"), (b"x-api", b"2")))
    changes = Changes(method="POST", request=(edits,))

    assert readable(changes, []).method == "POST"
    assert dict(sent([], changes)) == {b"x-api": b"2", b"accept-encoding": b"identity"}


def test_a_new_body_has_no_coding_and_no_digest():
    """What it is stays."""
    gone = [
        b"content-length",
        b"content-encoding",
        b"content-md5",
        b"digest",
        b"content-digest",
        b"repr-digest",
        b"accept-ranges",
    ]
    headers = [*((name, b"1") for name in gone), (b"content-type", b"a/b"), (b"vary", b"cookie")]

    assert rewritten(headers) == [(b"content-type", b"a/b"), (b"vary", b"cookie")]


def test_a_new_body_has_its_length_if_that_is_known():
    """One line of it."""
    headers = [(b"content-length", b"5"), (b"x", b"1")]

    assert rewritten(headers, 0) == [(b"x", b"1"), (b"content-length", b"0")]


@pytest.mark.parametrize(("tag", "weak"), [(b'"a"', b'W/"a"'), (b'W/"a"', b'W/"a"')])
def test_a_new_body_has_a_weak_tag(tag, weak):
    """Other bytes, the same meaning."""
    assert rewritten([(b"etag", tag)]) == [(b"etag", weak)]
