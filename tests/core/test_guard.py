"""core.guard: what is safe to forward and to relay."""

from __future__ import annotations

import pytest

from fastapi_proxy_router import BadGateway, RequestRefused, Upstream
from fastapi_proxy_router.core.guard import check_request, check_response

HOST = (b"host", b"x")
CHUNKED = (b"transfer-encoding", b"chunked")


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [HOST, HOST],
        [HOST, (b"content-length", b"3"), CHUNKED],
        [HOST, (b"content-length", b"3"), (b"content-length", b"3")],
        *(
            [HOST, (b"content-length", v)]
            for v in (b"", b"+3", b"-1", b"0x3", b"1_0", b"3, 3", b"9" * 20)
        ),
        *(
            [HOST, (b"transfer-encoding", v)]
            for v in (b"gzip", b"gzip, chunked", b",chunked", b"xchunked")
        ),
        [HOST, CHUNKED, CHUNKED],
        [HOST, (b"x", b"a\r\ny: b")],
        [HOST, (b"x", b"a\x00b")],
        [HOST, (b"x y", b"a")],
        [HOST, (b"", b"a")],
        [HOST, (b"connection", b"close, Content-Length"), (b"content-length", b"3")],
        [HOST, (b"connection", b"host")],
    ],
)
def test_a_request_that_can_be_read_two_ways_is_refused(headers):
    """With 400."""
    with pytest.raises(RequestRefused) as refused:
        check_request("POST", "1.1", headers)

    assert refused.value.status_code == 400


def test_chunks_on_http_1_0_are_refused():
    """HTTP/1.0 has no chunks (RFC 9112, 6.1)."""
    with pytest.raises(RequestRefused):
        check_request("POST", "1.0", [HOST, CHUNKED])


@pytest.mark.parametrize("version", ["1.1", "2", "3"])
def test_ordinary_requests_pass(version):
    """With a length, with chunks, without a body."""
    check_request("POST", version, [HOST, (b"content-length", b"0")])
    check_request("POST", version, [HOST, (b"transfer-encoding", b"Chunked ")])
    check_request("GET", version, [HOST])


@pytest.mark.parametrize("method", ["CONNECT", "TRACE", "trace"])
def test_methods_that_are_never_forwarded(method):
    """405, in any case."""
    with pytest.raises(RequestRefused) as refused:
        check_request(method, "1.1", [HOST])

    assert refused.value.status_code == 405


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (99, []),
        (101, []),
        (600, []),
        (200, [(b"bad name", b"x")]),
        (200, [(b"", b"x")]),
        (200, [(b"x", b"a\r\nb: c")]),
        (200, [(b"x", b"\x00")]),
        (200, [(b"content-length", b"x")]),
        (200, [(b"content-length", b"1"), (b"content-length", b"1")]),
    ],
)
def test_a_response_that_cannot_be_sent_is_a_bad_gateway(status, headers):
    """A server would drop the client's connection over it."""
    with pytest.raises(BadGateway):
        check_response(Upstream("http://x"), status, headers)


def test_ordinary_responses_pass():
    """Tabs and bytes above ASCII are legal in values."""
    check_response(Upstream("http://x"), 200, [(b"X-A", b"a\tb \xe9"), (b"Content-Length", b"0")])
