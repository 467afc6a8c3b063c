"""HTTP through the gateway, byte for byte, on every server."""

from __future__ import annotations

import gzip

import httpx
import pytest
from fastapi import FastAPI

from fastapi_proxy_router import METHODS, ProxyRouter, UpstreamPool
from tests.servers import (
    Served,
    get_raw,
    raw_upstream,
    send_raw,
    serve,
    serve_unix,
    status,
)

pytestmark = pytest.mark.anyio


def gateway(upstream: Served, path: str = "", **options) -> FastAPI:
    app = FastAPI()
    pool = UpstreamPool(upstream.url + path, **options)
    app.include_router(ProxyRouter(pool))
    return app


def header_lines(answer: bytes, name: bytes) -> list[bytes]:
    head = answer.split(b"\r\n\r\n", 1)[0]
    lines = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    return [value.strip() for key, _, value in lines if key.lower() == name]


def respond(*headers: str, code: str = "200 OK", body: bytes = b"ok") -> bytes:
    lines = [f"HTTP/1.1 {code}", *headers]
    if not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in lines):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


TARGETS = [
    "/a%2Fb",
    "/a%252Fb",
    "/a//b///",
    "/a%2fB%3F%23",
    "/caf%E9",
    "/caf%C3%A9",
    "/%C0%C9",
    "/x;v=1/y",
    "/!$&'()*+,;=:@~-._",
    "/%zz%",
    '/"<>{}|^`',
    "/@evil.test/",
    "/a?b?c",
    "/q?a=%2F&a=%2f&b&&c=&=d",
    "/q?a=1+2%20;x=%E9",
    '/q?u=http://x/?y=1&"<>{}|^`',
    "/...",
    "/a/..b",
]


async def test_the_target_reaches_the_upstream_byte_for_byte(server):
    """Whatever a client may legally send as a target, the upstream gets the same bytes."""
    async with raw_upstream() as upstream, serve(gateway(upstream), server) as gw:
        for target in TARGETS:
            # granian answers these itself; they are not legal, only harmless.
            if server != "granian" or not set(target) & set('"<>`'):
                assert status(await get_raw(gw, target)) == 200
                assert upstream.last.target == target.encode()


REFUSED = [
    "*",
    "@evil.test/",
    "//evil.test/x",
    "///evil",
    "/./x",
    "/../x",
    "/a/..",
    "/a/%2e%2e/b",
    "/.%2E/x",
    "/%2e%2e%2fadmin",
    "/..;/admin",
    "/a/..;x=1/b",
    "/..%5cadmin",
    "/%252e%252e/x",
    "/%252e%252e%252fx",
    "/%c0%ae%c0%ae/x",
    "/%u002e%u002e/x",
    "/\\evil",
    "/%5cevil",
    "/%f0%80%80%ae%f0%80%80%ae/admin",
    "/..%e0%80%afadmin",
    "/%U002e%U002e/admin",
    "/%c0%2e%c0%2e/x",
    "/..%20/admin",
    "/a%00b",
    "/a%0d%0aX:%20y",
    "/a%0ab",
    "/x%0a",
    "/a%7f",
]


async def test_an_unsafe_target_is_refused(server):
    """A target that two sides could read differently is answered 400 and never forwarded."""
    async with raw_upstream() as upstream, serve(gateway(upstream, "/base"), server) as gw:
        for target in REFUSED:
            assert (target, status(await get_raw(gw, target))) == (target, 400)

        assert upstream.connections == 0


async def test_a_path_that_is_encoded_without_end_is_refused(server):
    """Decoding it costs next to nothing."""
    async with raw_upstream() as upstream, serve(gateway(upstream), server) as gw:
        assert status(await get_raw(gw, "/%" + "25" * 4000)) in (400, 414)
        assert upstream.connections == 0


async def test_absolute_form_never_chooses_the_host(server):
    """Servers that show these forms to ASGI get a 400; others hide them, and only the path goes."""
    async with raw_upstream() as upstream, serve(gateway(upstream), server) as gw:
        for target in ("http://evil.test/y", "http://evil.test:1/y", "/y#f", "evil.test:80"):
            answer = await get_raw(gw, target)

            assert status(answer) in (400, 200)
            if status(answer) == 200:
                assert server in ("uvicorn-httptools", "granian")
                assert upstream.last.target in (b"/y", b"/")
                assert upstream.last.values(b"host") == [upstream.authority.encode()]


async def test_bytes_that_no_target_may_have_are_not_forwarded(server):
    """A byte that is not legal in a target is refused, by the server or by us."""
    async with raw_upstream() as upstream, serve(gateway(upstream), server) as gw:
        for raw in (b"/caf\xe9", b"/q?\xe9", b"/a b", b"/a\x01"):
            answer = await get_raw(gw, raw)

            assert answer == b"" or status(answer) in (400, 404, 500, 505)

        assert upstream.requests == []


JOINED = [
    ("", "/x", b"/x"),
    ("/", "/x", b"/x"),
    ("/base", "/x", b"/base/x"),
    ("/base/", "/x", b"/base/x"),
    ("/base", "/", b"/base/"),
    ("/base/", "/", b"/base/"),
    ("/a%2Fb", "/c%2Fd", b"/a%2Fb/c%2Fd"),
    ("/base?k=1", "/x", b"/base/x?k=1"),
    ("/base?k=1", "/x?a=2", b"/base/x?k=1&a=2"),
    ("?k=1", "/?a=2", b"/?k=1&a=2"),
]


@pytest.mark.parametrize(("base", "target", "expected"), JOINED)
async def test_the_base_path_is_joined(base, target, expected):
    """The upstream's base path and query are joined without losing or doubling a character."""
    async with raw_upstream() as upstream, serve(gateway(upstream, base)) as gw:
        await get_raw(gw, target)

        assert upstream.last.target == expected


async def test_every_listed_method_is_forwarded(server):
    """All of HTTP's and WebDAV's methods and QUERY reach the upstream as they are."""
    async with raw_upstream() as upstream, serve(gateway(upstream), server) as gw:
        for method in METHODS:
            answer = await get_raw(gw, method=method)

            # llhttp knows a fixed list of methods.
            if status(answer) != 400 or server != "uvicorn-httptools":
                assert (method, status(answer)) == (method, 200)
                assert upstream.last.line.split(b" ")[0] == method.encode()


@pytest.mark.parametrize("method", ["TRACE", "CONNECT"])
async def test_connect_and_trace_are_refused(server, method):
    """A tunnel and an echo of credentials are no business of a reverse proxy: 405."""
    async with raw_upstream() as upstream, serve(gateway(upstream), server) as gw:
        target = f"{upstream.authority}" if method == "CONNECT" else "/"
        answer = await get_raw(gw, target, method=method)

        assert answer == b"" or status(answer) in (400, 405)
        assert method == "CONNECT" or status(answer) == 405
        assert upstream.requests == []


@pytest.mark.parametrize("method", ["GET", "DELETE", "OPTIONS", "POST", "PROPFIND", "QUERY"])
async def test_a_body_with_a_length_keeps_it(server, method):
    """Content-Length stays Content-Length, and a body is forwarded whatever the method is."""
    async with raw_upstream() as upstream, serve(gateway(upstream), server) as gw:
        await get_raw(gw, method=method, body=b"hello")

        assert upstream.last.body == b"hello"
        assert upstream.last.values(b"content-length") == [b"5"]
        assert upstream.last.values(b"transfer-encoding") == []


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_chunked_body_stays_chunked(server, method):
    """A chunked body is forwarded chunked, without an invented length."""
    async with raw_upstream() as upstream, serve(gateway(upstream), server) as gw:
        request = (
            f"{method} / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        )
        await send_raw(gw, request.encode())

        assert upstream.last.body == b"5\r\nhello\r\n0\r\n\r\n"
        assert upstream.last.values(b"transfer-encoding") == [b"chunked"]
        assert upstream.last.values(b"content-length") == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS", "POST"])
async def test_a_request_without_a_body_gains_none(server, method):
    """No body means no framing header towards the upstream."""
    async with raw_upstream() as upstream, serve(gateway(upstream), server) as gw:
        await get_raw(gw, method=method)

        assert upstream.last.values(b"transfer-encoding") == []
        assert upstream.last.values(b"content-length") == []


async def test_an_empty_body_keeps_its_length(server):
    """A POST with Content-Length: 0 arrives with Content-Length: 0."""
    async with raw_upstream() as upstream, serve(gateway(upstream), server) as gw:
        await get_raw(gw, "/", "Content-Length: 0", method="POST")

        assert upstream.last.values(b"content-length") == [b"0"]


async def test_no_header_is_added_that_the_client_did_not_send(server):
    """The upstream sees the client's headers, its own Host and the forwarding headers: no more."""
    async with raw_upstream() as upstream, serve(gateway(upstream), server) as gw:
        await get_raw(gw, "/")

        names = [name for name, _ in upstream.last.headers]
        assert names == [
            b"host",
            b"x-forwarded-for",
            b"x-forwarded-proto",
            b"x-forwarded-host",
            b"x-forwarded-port",
        ]


async def test_repeated_headers_keep_their_order_count_and_bytes(server):
    """Repeated, empty and non-ASCII header values cross unchanged."""
    async with raw_upstream() as upstream, serve(gateway(upstream), server) as gw:
        await get_raw(gw, "/", "X-A: 1", "Accept: caf\xe9", "X-A: ", "X-A: \xc3\xa9")

        assert upstream.last.values(b"x-a") == [b"1", b"", b"\xc3\xa9"]
        assert upstream.last.values(b"accept") == [b"caf\xe9"]


async def test_hop_by_hop_request_headers_stay_here(server):
    """What describes the client's connection, and what Connection names, is not forwarded."""
    sent = [
        "Connection: keep-alive, X-Hop",
        "Connection: ",
        "Connection: x-other",
        "X-Hop: secret",
        "X-Other: secret",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "Proxy-Authorization: Basic x",
        "TE: gzip, trailers;q=0.5, trailers",
        "Trailer: X-T",
        "HTTP2-Settings: AAMAAABk",
        "Trailers: kept",
    ]
    async with raw_upstream() as upstream, serve(gateway(upstream), server) as gw:
        await get_raw(gw, "/", *sent)

        kept = dict(upstream.last.headers)
        assert kept[b"te"] == b"trailers"
        assert kept[b"trailers"] == b"kept"
        gone = {b"connection", b"keep-alive", b"proxy-connection", b"proxy-authorization"}
        gone |= {b"trailer", b"http2-settings", b"x-hop", b"x-other"}
        assert gone.isdisjoint(kept)


async def test_connection_cannot_remove_our_forwarding_headers(server):
    """A client that nominates X-Forwarded-For loses its own, not ours."""
    async with raw_upstream() as upstream, serve(gateway(upstream), server) as gw:
        await get_raw(gw, "/", "Connection: X-Forwarded-For", "X-Forwarded-For: 6.6.6.6")

        assert upstream.last.values(b"x-forwarded-for") == [b"127.0.0.1"]


async def test_a_request_to_upgrade_to_something_else_is_forwarded_as_plain_http(server):
    """Upgrade to a protocol that we do not speak is dropped."""
    async with raw_upstream() as upstream, serve(gateway(upstream), server) as gw:
        answer = await get_raw(gw, "/", "Connection: upgrade", "Upgrade: foo")

        assert status(answer) == 200
        assert upstream.last.values(b"upgrade") == []


async def test_cookie_lines_are_joined(server):
    """Several Cookie lines become one, joined with a semicolon and never with a comma."""
    async with raw_upstream() as upstream, serve(gateway(upstream), server) as gw:
        await get_raw(gw, "/", "Cookie: a=1; b=2", "X-Between: x", "Cookie: c=3")

        assert upstream.last.values(b"cookie") == [b"a=1; b=2; c=3"]


async def test_response_headers_keep_their_order_count_and_bytes(server):
    """Repeated response headers stay repeated, in order, and are never joined."""
    answer = respond(
        "Set-Cookie: a=1; Expires=Wed, 21 Oct 2026 07:28:00 GMT",
        "Set-Cookie: b=2",
        "WWW-Authenticate: Basic",
        "WWW-Authenticate: Bearer",
        "X-Empty: ",
        "X-Bytes: caf\xe9",
    )
    async with raw_upstream(answer) as upstream, serve(gateway(upstream), server) as gw:
        got = await get_raw(gw)

        assert header_lines(got, b"set-cookie") == [
            b"a=1; Expires=Wed, 21 Oct 2026 07:28:00 GMT",
            b"b=2",
        ]
        assert header_lines(got, b"www-authenticate") == [b"Basic", b"Bearer"]
        assert header_lines(got, b"x-empty") == [b""]
        assert header_lines(got, b"x-bytes") == [b"caf\xe9"]


async def test_hop_by_hop_response_headers_stay_here(server):
    """What describes the upstream's connection, and what its Connection names, is not relayed."""
    answer = respond(
        "Connection: keep-alive, X-Internal",
        "X-Internal: secret",
        "Keep-Alive: timeout=5",
        "Proxy-Authenticate: Basic",
        "Upgrade: h2c",
        'Alt-Svc: h3=":443"',
        "X-Kept: 1",
    )
    async with raw_upstream(answer) as upstream, serve(gateway(upstream), server) as gw:
        got = await get_raw(gw)

        assert header_lines(got, b"x-kept") == [b"1"]
        for name in (b"x-internal", b"keep-alive", b"proxy-authenticate", b"upgrade", b"alt-svc"):
            assert header_lines(got, name) == []


async def test_server_and_date_are_not_doubled(server):
    """A response has one Date and one Server, whoever added them."""
    answer = respond("Date: Wed, 21 Oct 2026 07:28:00 GMT", "Server: upstream/1")
    async with raw_upstream(answer) as upstream, serve(gateway(upstream), server) as gw:
        got = await get_raw(gw)

        assert len(header_lines(got, b"date")) == 1
        assert len(header_lines(got, b"server")) == 1


async def test_the_upstreams_server_and_date_can_be_kept():
    """With keep_server_headers and a server that adds none, the upstream's own are relayed."""
    answer = respond("Date: Wed, 21 Oct 2026 07:28:00 GMT", "Server: upstream/1")
    async with raw_upstream(answer) as upstream:
        app = gateway(upstream, keep_server_headers=True)
        async with serve(app, date_header=False, server_header=False) as gw:
            got = await get_raw(gw)

            assert header_lines(got, b"date") == [b"Wed, 21 Oct 2026 07:28:00 GMT"]
            assert header_lines(got, b"server") == [b"upstream/1"]


async def test_content_length_and_encoding_are_kept(server):
    """A compressed body crosses undecoded, with its length and its encoding."""
    body = gzip.compress(b"hello" * 1000)
    answer = respond("Content-Encoding: gzip", body=body)
    async with raw_upstream(answer) as upstream, serve(gateway(upstream), server) as gw:
        got = await get_raw(gw)

        assert header_lines(got, b"content-length") == [str(len(body)).encode()]
        assert header_lines(got, b"content-encoding") == [b"gzip"]
        assert got.split(b"\r\n\r\n", 1)[1] == body


async def test_a_chunked_response_stays_chunked(server):
    """A response without a length is relayed without one."""
    answer = respond("Transfer-Encoding: chunked", body=b"5\r\nhello\r\n3\r\nyou\r\n0\r\n\r\n")
    async with raw_upstream(answer) as upstream, serve(gateway(upstream), server) as gw:
        got = await get_raw(gw)

        assert header_lines(got, b"content-length") == []
        assert header_lines(got, b"transfer-encoding") == [b"chunked"]
        assert got.endswith(b"0\r\n\r\n")
        assert b"hello" in got
        assert b"you" in got


async def test_a_response_that_ends_with_the_connection_is_relayed(server):
    """A body that lasts until the upstream closes is relayed whole and ended cleanly."""

    async def until_close(_reader, writer):
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nhello")
        await writer.drain()

    async with raw_upstream(until_close) as upstream, serve(gateway(upstream), server) as gw:
        got = await get_raw(gw)

        assert b"hello" in got
        assert got.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("length", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
async def test_head_has_headers_and_no_body(server, length):
    """The answer to HEAD keeps what it says of the body and has none."""
    answer = f"HTTP/1.1 200 OK\r\n{length}\r\n\r\n".encode()
    async with raw_upstream(answer) as upstream, serve(gateway(upstream), server) as gw:
        got = await get_raw(gw, method="HEAD")

        assert status(got) == 200
        assert got.endswith(b"\r\n\r\n")
        assert got.count(b"\r\n\r\n") == 1
        if "1000" in length:
            assert header_lines(got, b"content-length") == [b"1000"]


@pytest.mark.parametrize(
    ("code", "length", "expected"),
    [
        ("204 No Content", "Content-Length: 0", []),
        ("304 Not Modified", "Content-Length: 1000", []),
        ("304 Not Modified", "X-No: length", []),
    ],
)
async def test_statuses_without_a_body(server, code, length, expected):
    """204 and 304 lose their length, and neither has a body."""
    answer = f'HTTP/1.1 {code}\r\n{length}\r\nETag: "x"\r\n\r\n'.encode()
    async with raw_upstream(answer) as upstream, serve(gateway(upstream), server) as gw:
        got = await get_raw(gw)

        assert status(got) == int(code[:3])
        assert header_lines(got, b"content-length") == expected
        assert got.endswith(b"\r\n\r\n")
        assert got.count(b"\r\n\r\n") == 1


async def test_a_client_goes_on_after_a_304(server):
    """A length that the upstream gives it does not keep the server from the next request."""
    answer = b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n"
    async with raw_upstream(answer) as upstream, serve(gateway(upstream), server) as gw:
        request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
        last = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        got = await send_raw(gw, request + last)

        assert got.count(b"HTTP/1.1 304") == 2


@pytest.mark.parametrize("code", [200, 299, 345, 404, 418, 599])
async def test_any_status_is_relayed(server, code):
    """The status is the upstream's, standard or not."""
    answer = respond(code=f"{code} Whatever")
    async with raw_upstream(answer) as upstream, serve(gateway(upstream), server) as gw:
        assert status(await get_raw(gw)) == code


async def test_redirects_are_relayed_and_not_followed(server):
    """A Location is the client's business."""
    answer = respond("Location: http://127.0.0.1:1/elsewhere", code="302 Found")
    async with raw_upstream(answer) as upstream, serve(gateway(upstream), server) as gw:
        got = await get_raw(gw)

        assert status(got) == 302
        assert header_lines(got, b"location") == [b"http://127.0.0.1:1/elsewhere"]
        assert len(upstream.requests) == 1


async def test_one_users_cookies_never_reach_another(server):
    """A cookie that the upstream sets for one client is not sent for the next."""
    answer = respond("Set-Cookie: session=ALICE; Path=/")
    async with raw_upstream(answer) as upstream, serve(gateway(upstream), server) as gw:
        await get_raw(gw)
        await get_raw(gw)

        assert [request.values(b"cookie") for request in upstream.requests] == [[], []]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
async def test_bytes_after_a_response_reach_nobody(answer):
    """What an upstream sends after a response is not the next user's answer."""
    surplus = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON"
    async with raw_upstream(answer + surplus) as upstream, serve(gateway(upstream)) as gw:
        answers = [await get_raw(gw) for _ in range(3)]

        assert not any(b"POISON" in answer for answer in answers)
        assert upstream.connections == 3


async def test_environment_proxies_are_not_used(monkeypatch):
    """HTTP_PROXY and its kin do not move the upstream's traffic."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with raw_upstream() as upstream, serve(gateway(upstream)) as gw:
        assert status(await get_raw(gw)) == 200


async def test_the_host_is_the_upstreams_own(server):
    """By default the upstream hears its own name, and X-Forwarded-Host has the client's."""
    async with raw_upstream() as upstream, serve(gateway(upstream), server) as gw:
        await get_raw(gw)

        assert upstream.last.values(b"host") == [upstream.authority.encode()]
        assert upstream.last.values(b"x-forwarded-host") == [gw.authority.encode()]


async def test_the_clients_host_can_be_preserved(server):
    """With preserve_host the upstream hears the name that the client used."""
    async with (
        raw_upstream() as upstream,
        serve(gateway(upstream, preserve_host=True), server) as gw,
    ):
        await send_raw(gw, b"GET / HTTP/1.1\r\nHost: public.test\r\nConnection: close\r\n\r\n")

        assert upstream.last.values(b"host") == [b"public.test"]


@pytest.mark.parametrize(
    "headers",
    [
        "Host: a\r\nHost: b\r\n",
        "Host: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Host: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n",
        "Host: a\r\nTransfer-Encoding: gzip, chunked\r\n",
        "Host: a\r\nTransfer-Encoding: chunked\r\nConnection: Upgrade\r\nUpgrade: foo\r\n",
        "Host: a@b/?x\r\nContent-Length: 5\r\n",
        "Host: a\r\nConnection: content-length\r\nContent-Length: 3\r\n",
    ],
)
async def test_a_request_that_can_be_read_two_ways_is_refused(server, headers):
    """Ambiguous framing is answered 400 and never reaches the upstream."""
    request = f"POST /x HTTP/1.1\r\n{headers}\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
    async with raw_upstream() as upstream, serve(gateway(upstream), server) as gw:
        answer = await send_raw(gw, request.encode())

        if server == "granian" and "chunked" in headers and status(answer) == 200:
            # It reads the chunks alone, drops the length and closes, as RFC 9112, 6.1 allows.
            assert [request.line for request in upstream.requests] == [b"POST /x HTTP/1.1"]
            assert upstream.last.values(b"content-length") == []
        else:
            assert answer == b"" or status(answer) in (400, 501)
            assert upstream.requests == []


async def test_an_unknown_host_cannot_be_preserved():
    """A client of HTTP/1.0 may send none; the upstream then hears its own."""
    async with raw_upstream() as upstream, serve(gateway(upstream, preserve_host=True)) as gw:
        await send_raw(gw, b"GET / HTTP/1.0\r\n\r\n")

        assert upstream.last.values(b"host") == [upstream.authority.encode()]


async def test_a_missing_host_is_refused_or_harmless(server):
    """An HTTP/1.1 request without Host is refused, except where the server makes one up."""
    async with raw_upstream() as upstream, serve(gateway(upstream), server) as gw:
        answer = await send_raw(gw, b"GET /x HTTP/1.1\r\nConnection: close\r\n\r\n")

        assert status(answer) in (400, 404) or server == "granian"


async def test_a_205_has_no_body_and_no_length(server):
    """RFC 9110, 15.3.6: whatever the upstream says."""
    answer = b"HTTP/1.1 205 Reset Content\r\nContent-Length: 5\r\n\r\nhello"
    async with raw_upstream(answer) as upstream, serve(gateway(upstream), server) as gw:
        got = await get_raw(gw)

        assert status(got) == 205
        assert b"hello" not in got


async def test_headers_that_imitate_ours_stay_here(server):
    """An underscore where a dash belongs, and the header that CGI makes a variable of."""
    async with raw_upstream() as upstream, serve(gateway(upstream), server) as gw:
        await get_raw(gw, "/", "Content_Length: 9", "Transfer_Encoding: x", "Proxy: x", "X_Own: 1")

        sent = dict(upstream.last.headers)
        assert {b"content_length", b"transfer_encoding", b"proxy"}.isdisjoint(sent)
        assert sent[b"x_own"] == b"1"


async def test_an_http_1_0_client_is_served(server):
    """HTTP/1.0 has no Host and no chunks, and works."""
    answer = respond("Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n")
    async with raw_upstream(answer) as upstream, serve(gateway(upstream), server) as gw:
        got = await send_raw(gw, b"GET /x HTTP/1.0\r\n\r\n")

        assert status(got) == 200
        assert b"hello" in got


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_http_2_client_is_served(method):
    """Its body needs no header to announce it; the upstream gets chunks, or nothing at all."""

    async def chunks():
        yield b"hel"
        yield b"lo"

    async with raw_upstream() as upstream, serve(gateway(upstream), "hypercorn") as gw:
        transport = httpx.AsyncHTTPTransport(http1=False, http2=True)
        async with httpx.AsyncClient(transport=transport) as client:
            body = chunks() if method == "POST" else None
            answer = await client.request(method, f"{gw.url}/a%2Fb?x", content=body)

        assert (answer.http_version, answer.status_code, answer.text) == ("HTTP/2", 200, "ok")
        assert upstream.last.target == b"/a%2Fb?x"
        assert upstream.last.values(b"x-forwarded-host") == [gw.authority.encode()]
        framing = [b"chunked"] if method == "POST" else []
        assert upstream.last.values(b"transfer-encoding") == framing
        assert (b"hel" in upstream.last.body) is (method == "POST")


async def test_what_an_untrusted_client_says_of_itself_is_replaced(server):
    """Forwarding headers that a client makes up never reach the upstream."""
    spoofed = [
        "X-Forwarded-For: 6.6.6.6",
        "X_Forwarded_For: 6.6.6.6",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: evil.test",
        "X-Forwarded-Prefix: /evil",
        "X-Forwarded-User: admin",
        "X-Real-IP: 6.6.6.6",
        "Forwarded: for=6.6.6.6",
    ]
    async with raw_upstream() as upstream, serve(gateway(upstream), server) as gw:
        await get_raw(gw, "/", *spoofed)

        head = upstream.last.head
        assert b"6.6.6.6" not in head
        assert b"evil" not in head
        assert b"admin" not in head
        assert upstream.last.values(b"x-forwarded-for") == [b"127.0.0.1"]
        assert upstream.last.values(b"x-forwarded-proto") == [b"http"]


async def test_forwarded_and_via_are_sent_on_request(server):
    """RFC 7239's header, and ours in Via, both ways."""
    async with (
        raw_upstream() as upstream,
        serve(gateway(upstream, forwarded=True, via="gate"), server) as gw,
    ):
        got = await get_raw(gw, "/", "Via: 1.0 front")

        element = f'for=127.0.0.1;host="{gw.authority}";proto=http'
        assert upstream.last.values(b"forwarded") == [element.encode()]
        assert upstream.last.values(b"via") == [b"1.0 front", b"1.1 gate"]
        assert header_lines(got, b"via") == [b"1.1 gate"]


async def test_a_peer_on_a_unix_socket_has_no_address(tmp_path):
    """Nothing is claimed of it but the prefix, unless such peers are trusted."""
    for trusted, expected in (([], []), (["unix"], [b"9.9.9.9"])):
        async with raw_upstream() as upstream:
            app = gateway(upstream, trusted_proxies=trusted)
            path = str(tmp_path / "gateway.sock")
            async with serve_unix(app, path):
                transport = httpx.AsyncHTTPTransport(uds=path)
                async with httpx.AsyncClient(transport=transport) as client:
                    headers = {"X-Forwarded-For": "9.9.9.9"}
                    answer = await client.get("http://public.test/", headers=headers)

            assert answer.status_code == 200
            assert upstream.last.values(b"x-forwarded-for") == expected
            assert upstream.last.values(b"x-forwarded-host") == []
