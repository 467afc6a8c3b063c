"""Error pages: for the statuses of an upstream, and for ours where there is no answer."""

# No postponed annotations here: FastAPI reads those of functions inside tests.

import asyncio

import pytest

from fastapi_proxy_router import (
    Ejection,
    ErrorPage,
    HeaderEdits,
    Retry,
    RouteOverride,
    UpstreamPool,
)
from tests.declared.gateways import LIMIT, Gateway, Got, application, empty, gateway, response
from tests.servers import listening_socket, raw_upstream, serve

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]

SORRY = ErrorPage(
    statuses=["500-599"],
    text="<p>Sorr\xff</p>",
    media_type="text/html",
    headers=HeaderEdits(set={"x-page": "1"}, add={"x-more": ["2", "3"]}),
)
SORRY_BYTES = "<p>Sorr\xff</p>".encode()


def with_pages(*pages: ErrorPage, **fields) -> RouteOverride:
    return RouteOverride(path="/{rest:path}", error_pages=list(pages), **fields)


def check_sorry(got: Got, status: int) -> None:
    assert (got.status, got.body) == (status, SORRY_BYTES)
    assert got.values("content-type") == [b"text/html; charset=utf-8"]
    assert got.values("content-length") == [str(len(SORRY_BYTES)).encode()]
    assert got.values("x-page") == [b"1"]
    assert got.values("x-more") == [b"2", b"3"]
    assert got.values("transfer-encoding") == []


def free_port() -> int:
    with listening_socket() as probe:
        port: int = probe.getsockname()[1]
    return port


@pytest.mark.parametrize("status", [500, 503, 599])
async def test_for_an_upstreams_status(status, way, server):
    """It replaces all of the response, with its own headers and the same status."""
    answer = response(status, "X-Own: 1", "Content-Type: a/b", "Set-Cookie: a=1", body=b"trace")
    async with gateway(with_pages(SORRY), answer=answer, way=way, server=server) as gw:
        got = await gw.get("/x")

        check_sorry(got, status)
        assert got.values("x-own") == got.values("set-cookie") == []


@pytest.mark.parametrize("status", [200, 302, 304, 404, 499])
async def test_others_stay(status, way):
    """A status that no page is for."""
    answer = response(status, "X-Own: 1")
    async with gateway(with_pages(SORRY), answer=answer, way=way) as gw:
        got = await gw.get()

        assert got.status == status
        assert got.values("x-own") == [b"1"]
        assert got.values("x-page") == []


PAGES = [
    (ErrorPage(statuses=[404]), 404, 404, b"", None),
    (ErrorPage(statuses=[404], status=200, text="found"), 404, 200, b"found", b"text/plain"),
    (ErrorPage(statuses=[404], json={"a": None}), 404, 404, b'{"a":null}', b"application/json"),
    (ErrorPage(statuses=[404], body=b"\xff"), 404, 404, b"\xff", b"application/octet-stream"),
    (ErrorPage(statuses=[404], body=b"x", media_type="a/b"), 404, 404, b"x", b"a/b"),
    (ErrorPage(statuses=["300-399"], text="no"), 301, 301, b"no", b"text/plain"),
    (ErrorPage(statuses=["300-399"], text="no"), 304, 304, b"", None),
    (ErrorPage(statuses=[404], status=204), 404, 204, b"", None),
    (
        ErrorPage(statuses=[401], status=302, headers=HeaderEdits(set={"location": "/login"})),
        401,
        302,
        b"",
        None,
    ),
]


@pytest.mark.parametrize(("page", "given", "status", "body", "kind"), PAGES)
async def test_what_a_page_is(page, given, status, body, kind, server):
    """Nothing, text, JSON or bytes, with its own status or that which it replaces."""
    async with gateway(with_pages(page), answer=response(given), server=server) as gw:
        got = await gw.get()

        assert (got.status, got.body) == (status, body)
        kinds = [value.partition(b";")[0] for value in got.values("content-type")]
        assert kinds == ([] if kind is None else [kind])
        assert (got.values("location") == [b"/login"]) is (status == 302)


async def test_the_first_that_fits(way):
    """Narrower ones come first."""
    pages = [ErrorPage(statuses=[503], text="busy"), SORRY, ErrorPage(statuses=[500], text="never")]
    for status, body in ((503, b"busy"), (500, SORRY_BYTES), (502, SORRY_BYTES)):
        async with gateway(with_pages(*pages), answer=response(status), way=way) as gw:
            assert (await gw.get()).body == body


async def test_a_page_is_for_the_status_that_the_client_would_get():
    """So it is asked after ``status``."""
    override = with_pages(ErrorPage(statuses=[410], text="gone"), status={404: 410})
    async with gateway(override, answer=response(404)) as gw:
        got = await gw.get()

    assert (got.status, got.body) == (410, b"gone")


@pytest.mark.parametrize(
    "line", ["Retry-After: 120", "WWW-Authenticate: Basic", "Allow: GET", "allow: PUT"]
)
async def test_what_a_status_has_to_say_stays(line, way):
    """When to come back, how to log in and what is allowed, unless the page says so itself."""
    name, _, value = line.partition(": ")
    page = ErrorPage(statuses=["400-599"], text="no")
    own = ErrorPage(statuses=["400-599"], headers=HeaderEdits(set={name: "own"}))
    for page_given, expected in ((page, value), (own, "own")):
        async with gateway(with_pages(page_given), answer=response(503, line), way=way) as gw:
            got = await gw.get()

        assert got.values(name.lower()) == [expected.encode()]


async def test_a_head_gets_the_headers_alone(way, server):
    """Those that a GET would get, of an upstream's status and of ours."""
    async with gateway(
        with_pages(SORRY), answer=response(500, body=b""), way=way, server=server
    ) as gw:
        got = await gw.get(method="HEAD")

        assert (got.status, got.body) == (500, b"")
        assert got.values("content-length") == [str(len(SORRY_BYTES)).encode()]
        assert got.values("x-page") == [b"1"]


async def test_a_request_with_a_body_that_the_upstream_did_not_read(way, server):
    """The page arrives, however much of the upload is left."""

    async def refuses(_reader, writer):
        writer.write(response(500, "Connection: close", body=b"trace"))

    size = 512 * 1024
    async with gateway(with_pages(SORRY), answer=refuses, way=way, server=server) as gw:
        async with asyncio.timeout(LIMIT):
            got = await gw.get("/x", method="POST", body=b"x" * size)

        check_sorry(got, 500)


async def test_the_upstreams_connection_is_let_go(way):
    """One that is done is used again, one whose body is still to come is closed."""
    async with gateway(with_pages(SORRY), answer=response(500), way=way) as gw:
        for _ in range(3):
            check_sorry(await gw.get(), 500)
        assert gw.upstream.connections == 1

    left = asyncio.Event()

    async def endless(reader, writer):
        writer.write(b"HTTP/1.1 500 -\r\nContent-Length: 1000000\r\n\r\nx")
        assert await reader.read() == b""
        left.set()

    async with gateway(with_pages(SORRY), answer=endless, way=way) as gw, asyncio.timeout(LIMIT):
        check_sorry(await gw.get(), 500)
        await left.wait()


async def test_an_upstream_is_blamed_once(way):
    """A page neither hides a failure from the pool nor counts it again."""
    async with raw_upstream(response(500)) as upstream:
        pool = UpstreamPool(
            upstream.url, ejection=Ejection(consecutive=3, max_share=1.0, statuses={500})
        )
        member = pool.upstreams[0]
        async with serve(application(pool, with_pages(SORRY), way=way)) as served:
            gw = Gateway(served.port)
            for count in range(1, 4):
                check_sorry(await gw.get(), 500)
                assert (member.health.state == "ejected") == (count == 3)
        assert pool.in_flight == 0


# --- Ours ---------------------------------------------------------------------------------------


async def test_for_an_upstream_that_cannot_be_reached(way, server):
    """Our 502."""
    app = application(f"http://127.0.0.1:{free_port()}", with_pages(SORRY), way=way)
    async with serve(app, server) as served:
        check_sorry(await Gateway(served.port).get(), 502)


async def test_for_an_upstream_that_says_nothing(way):
    """Our 504."""

    async def silent(reader, _writer):
        await reader.read()

    async with gateway(with_pages(SORRY, timeout=0.1), answer=silent, way=way) as gw:
        check_sorry(await gw.get(), 504)


async def test_for_a_response_that_is_none(way):
    """Another 502, and the connection is not used again."""

    async def garbage(_reader, writer):
        writer.write(b"nonsense\r\n\r\n")

    async with gateway(with_pages(SORRY), answer=garbage, way=way) as gw:
        check_sorry(await gw.get(), 502)


async def test_where_no_upstream_is_left(way, server):
    """Our 503, which says when to come back, whichever pool it is that has nobody."""
    overrides = [
        RouteOverride(path="/named", pool="other", error_pages=[SORRY]),
        with_pages(SORRY),
    ]
    app = application(empty(), *overrides, named_pools=[empty("other")], way=way)
    async with serve(app, server) as served:
        for path in ("/x", "/named"):
            got = await Gateway(served.port).get(path)
            check_sorry(got, 503)
            assert got.values("retry-after") == [b"1"]


async def test_a_page_says_itself_when_to_come_back(way):
    """Then what we would say is left out."""
    page = ErrorPage(statuses=[503], headers=HeaderEdits(set={"retry-after": "99"}))
    async with serve(application(empty(), with_pages(page), way=way)) as served:
        got = await Gateway(served.port).get()

    assert got.values("retry-after") == [b"99"]


async def test_where_an_upstream_is_full(way):
    """Our 503 of an admission."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def holds(_reader, writer):
        begun.set()
        await go_on.wait()
        writer.write(response())

    async with (
        gateway(
            with_pages(SORRY),
            answer=holds,
            way=way,
            upstreams=lambda url: UpstreamPool(url, max_concurrent=1),
        ) as gw,
        asyncio.timeout(LIMIT),
    ):
        first = asyncio.create_task(gw.get())
        await begun.wait()
        got = await gw.get()
        check_sorry(got, 503)
        assert len(got.values("retry-after")) == 1
        go_on.set()
        assert (await first).status == 200


async def test_for_what_the_guard_refuses(way):
    """Our 400, 413 and so on: the upstream hears nothing."""
    page = ErrorPage(statuses=["400-499"], text="no")
    async with gateway(with_pages(page, body_limit=3), way=way) as gw:
        for target, body, status in (
            ("/a/%2e%2e/b", b"", 400),
            ("/a\\b", b"", 400),
            ("/x", b"four", 413),
        ):
            got = await gw.get(target, method="POST", body=body)
            assert (got.status, got.body) == (status, b"no")

        assert gw.upstream.connections == 0


async def test_after_the_last_try(way):
    """A page is for what the client would get, not for a try that another follows."""
    async with raw_upstream(response(503)) as one, raw_upstream() as two:
        pool = UpstreamPool([one.url, two.url], balancer=lambda given, _connection: given[0])
        retry = Retry(statuses={503}, backoff=0)
        async with serve(application(pool, with_pages(SORRY, retry=retry), way=way)) as served:
            assert (await Gateway(served.port).get()).body == b"ok"
        assert [len(one.requests), len(two.requests)] == [1, 1]


async def test_a_client_that_leaves_gets_no_page(way):
    """Nobody would read it, and nothing is left of the exchange."""
    begun = asyncio.Event()

    async def holds(reader, _writer):
        begun.set()
        await reader.read()

    async with gateway(with_pages(SORRY), answer=holds, way=way) as gw, asyncio.timeout(LIMIT):
        _, writer = await asyncio.open_connection(gw.host, gw.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await begun.wait()
        writer.close()
        await gw.upstream.closed.wait()
